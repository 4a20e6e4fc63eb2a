"""How an audio run looks at its model: mel distance, SI-SDR, STOI, PESQ, sounds and spectrograms.

Letters: B sounds, T samples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from audio_tok.sound_figures import mean_figures, sound_figures
from audio_tok.spectrogram_picture import spectrogram_picture
from tok_core.training.logging import SoundSample

CHUNK = 8  # sounds decoded at once


class AudioMonitor:
    """Scores, sounds and spectrograms of a codec at the same sounds for the whole run.

    Args:
        sounds: (B, 1, T) float in [-1, 1], on the CPU.
        rate: in Hz.
        shown: how many of them are played and drawn.

    Example:
        >>> AudioMonitor(sounds, 24000).scores(model)  # doctest: +SKIP
        {'mel_distance': 0.61, 'si_sdr': 1.9, 'stoi': 0.86, 'pesq': 1.7}
    """

    unit = "clips"

    def __init__(self, sounds: Tensor, rate: int, shown: int = 4) -> None:
        self.originals, self.rate = sounds, rate
        self.shown = min(shown, len(sounds))

    def scores(self, model: Any) -> dict[str, float]:
        """Return means over the sounds; STOI and PESQ where their packages are installed."""
        decoded = self._decoded(model, self.originals)
        pairs = zip(self.originals, decoded, strict=True)
        return mean_figures(sound_figures(x, y, self.rate) for x, y in pairs)

    def pictures(self, model: Any) -> dict[str, np.ndarray]:
        """Return one spectrogram per shown sound: the original above what was decoded."""
        chosen = self.originals[: self.shown]
        pairs = zip(chosen, self._decoded(model, chosen), strict=True)
        return {
            f"spectrogram/{i}": spectrogram_picture(pair, self.rate) for i, pair in enumerate(pairs)
        }

    def sounds(self, model: Any) -> dict[str, SoundSample]:
        """Return the shown sounds, original and decoded."""
        chosen = self.originals[: self.shown]
        result: dict[str, SoundSample] = {}
        for i, (x, y) in enumerate(zip(chosen, self._decoded(model, chosen), strict=True)):
            result[f"original/{i}"] = SoundSample(x.numpy(), self.rate)
            result[f"decoded/{i}"] = SoundSample(y.numpy(), self.rate)
        return result

    def _decoded(self, model: Any, sounds: Tensor) -> Tensor:
        device = next(model.parameters()).device
        pieces = []
        for chunk in sounds.split(CHUNK):
            x = chunk.to(device)
            if hasattr(model, "encode"):
                made = model.decode(model.encode(x))
            else:  # a continuous codec
                made = model.decode_latents(model.latents(x))
            pieces.append(made.float().cpu())
        return torch.cat(pieces)[..., : sounds.shape[-1]]


class SilentMonitor:
    """For runs that nobody wants to look at or hear."""

    unit = "clips"

    def scores(self, model: Any) -> dict[str, float]:
        """Return no scores."""
        return {}

    def pictures(self, model: Any) -> dict[str, np.ndarray]:
        """Return no pictures."""
        return {}
