"""The teacher without weights: mel-cepstral coefficients and their slopes.

    x (B, 1, T) --log mel bands--> --cosines--> c, slopes of c, ... --standardised--> (B, L, D)

Letters: B sounds, T samples, L frames, D features.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from audio_tok.semantic_teacher import SemanticTeacher
from tok_core.errors import ConfigError
from tok_core.mel import FLOOR, MelSpectrogram

_WINDOW, _STEP = 0.025, 0.010  # seconds: what speech recognisers take
_REACH = 2  # frames on either side of a slope
_LEAST_SPREAD = 0.05  # below it a coefficient does not vary and stays near 0


class MelCepstralTeacher(SemanticTeacher):
    """Mel-cepstral coefficients and their slopes, each of mean 0 and spread 1 over the sound.

    Cepstra keep the shape of the vocal tract and let the pitch go; taking their mean and spread off
    removes level and microphone.  What speech recognition ran on for thirty years.

    Args:
        rate: of the sound, in Hz. coefficients, bands, deltas: see `SemanticTeacherConfig`.

    Raises:
        ConfigError: more coefficients than bands, or more bands than the window can tell apart.

    Source: Davis and Mermelstein 1980 (cepstra of mel bands); Furui 1986 (slopes).

    Example:
        >>> teacher = MelCepstralTeacher(24000)
        >>> teacher(torch.randn(1, 1, 24000), torch.arange(75) / 75).shape
        torch.Size([1, 75, 39])
    """

    cosines: Tensor

    def __init__(
        self, rate: int, coefficients: int = 13, bands: int = 40, deltas: int = 2
    ) -> None:
        super().__init__()
        if coefficients > bands:
            raise ConfigError(
                f"{coefficients} cepstral coefficients of {bands} mel bands were asked for; give "
                "at most as many as bands."
            )
        hop = max(1, round(_STEP * rate))
        self.mel = MelSpectrogram(rate, max(2, round(_WINDOW * rate)), hop, bands)
        self.deltas = deltas
        self.features = coefficients * (1 + deltas)
        self.rate, self.first = rate / hop, 0.0  # frames are centred: the first stands at 0
        self.register_buffer("cosines", _cosines(bands, coefficients), persistent=False)

    def frames(self, x: Tensor) -> Tensor:
        """Return the standardised coefficients (B, L, D)."""
        bands = self.mel(x).clamp(min=FLOOR).log().transpose(1, 2)
        parts = [bands @ self.cosines]
        for _ in range(self.deltas):
            parts.append(_slopes(parts[-1]))
        y = torch.cat(parts, -1)
        spread = y.std(1, unbiased=False, keepdim=True).clamp(min=_LEAST_SPREAD)
        return (y - y.mean(1, keepdim=True)) / spread


def _cosines(bands: int, coefficients: int) -> Tensor:
    """Return the orthonormal cosine transform (bands, coefficients)."""
    places = torch.arange(bands, dtype=torch.float64)[:, None] + 0.5
    orders = torch.arange(coefficients, dtype=torch.float64)
    table = torch.cos(math.pi / bands * places * orders) * math.sqrt(2 / bands)
    table[:, 0] /= math.sqrt(2)
    return table.float()


def _slopes(y: Tensor) -> Tensor:
    """Return the least-squares slope of (B, L, D) over a few frames, ends repeated."""
    steps = torch.arange(-_REACH, _REACH + 1, dtype=y.dtype, device=y.device)
    wide = nn.functional.pad(y.transpose(1, 2), (_REACH, _REACH), mode="replicate")
    return (wide.unfold(2, len(steps), 1) @ (steps / steps.square().sum())).transpose(1, 2)
