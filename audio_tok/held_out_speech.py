"""Sounds for scores at fixed ids: the held-out speech, and the beginnings of files.

Letters: T samples.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audio_tok.audio_sources import normalise_peak, read_segment
from audio_tok.sound_figures import FIGURES, mean_figures, sound_figures
from tok_core.procedural_audio import ProceduralAudio, room_tone
from tok_core.procedural_draws import item_draws
from tok_core.procedural_speech import RATE, Utterance, held_out_utterances, speak
from tok_core.resample import resample
from tok_core.training.data_order import shuffled

DECIBELS = -3.0  # peak of every validation sound (the official recipe's)
ROOM_TONE = -70.0  # dB of noise under the sentences: mel distances of digital silence say nothing


@lru_cache(maxsize=8)
def _spoken(rate: int) -> tuple[Tensor, ...]:
    found = []
    for index, utterance in enumerate(held_out_utterances()):
        draws = item_draws("held_out", version=1, seed=0, index=index)
        said = speak(utterance)
        sound = torch.from_numpy(said + room_tone(draws, len(said), ROOM_TONE)).float()
        found.append(normalise_peak(resample(sound[None], RATE, rate), DECIBELS))
    return tuple(found)


class HeldOutSpeech:
    """The held-out sentences in the held-out voices, cut or repeated to T samples.

    ``utterances`` lists who says what in the same order; ``whole(i)`` is one sentence uncut.

    Example::

        speech = HeldOutSpeech(72000, 24000)
        sounds = torch.stack([speech.item(i) for i in range(speech.length)])
    """

    def __init__(self, samples: int, rate: int) -> None:
        self.samples, self.rate = samples, rate
        self.utterances: tuple[Utterance, ...] = held_out_utterances()
        self.length = len(self.utterances)

    def whole(self, index: int) -> Tensor:
        """Return (1, T) float32, the whole sentence."""
        return _spoken(self.rate)[index]

    def item(self, index: int) -> Tensor:
        """Return (1, samples) float32 in [-1, 1]."""
        sound = self.whole(index)
        return sound.repeat(1, -(-self.samples // sound.shape[1]))[:, : self.samples]

    def label(self, index: int) -> int | None:
        """Return None: sounds carry no labels."""
        return None


class FileBeginnings:
    """Stored sounds, each as its first T samples, in one fixed mixed order."""

    def __init__(self, paths: list[Path], samples: int, rate: int) -> None:
        self.paths, self.samples, self.rate = paths, samples, rate
        self.length = len(paths)

    def item(self, index: int) -> Tensor:
        """Return (1, samples) float32 in [-1, 1]; MediaError for an unreadable file."""
        path = self.paths[shuffled(index, self.length, 0)]
        return normalise_peak(read_segment(path, self.samples, self.rate, 0.0), DECIBELS)

    def label(self, index: int) -> int | None:
        """Return None: sounds carry no labels."""
        return None


class UnheardSound:
    """Procedural music or noise of a seed that no training uses."""

    length = None

    def __init__(self, kind: str, samples: int, rate: int, seed: int) -> None:
        self.samples, self.rate = samples, rate
        self.sounds = ProceduralAudio(kind, -(-samples * RATE // rate), seed)

    def item(self, index: int) -> Tensor:
        """Return (1, samples) float32 in [-1, 1]."""
        sound = resample(self.sounds[index], RATE, self.rate)[:, : self.samples]
        return normalise_peak(sound, DECIBELS)

    def label(self, index: int) -> int | None:
        """Return None: sounds carry no labels."""
        return None


def held_out_scores(model: Any) -> dict[str, Any]:
    """Score an audio tokenizer on every held-out sentence, whole.

    Returns:
        ``sentences``, ``seconds``, ``codes_used``, and means over sentences: ``mel_distance``,
        ``si_sdr`` (dB), ``stoi`` and ``pesq`` (None without their packages).

    Example:
        >>> held_out_scores(model)["stoi"]  # doctest: +SKIP
        0.87
    """
    rate = int(model.sample_rate)
    speech = HeldOutSpeech(1, rate)
    each: list[dict[str, float]] = []
    used: set[int] = set()
    seconds = 0.0
    for index in range(speech.length):
        x = speech.whole(index)[None]
        with torch.no_grad():
            tokens = model.encode(x)
            y = model.decode(tokens).float().cpu()
        used |= set(tokens.codes[:, 0].unique().tolist())
        seconds += x.shape[-1] / rate
        each.append(sound_figures(x, y, rate))
    means = mean_figures(each)
    return {"sentences": speech.length, "seconds": round(seconds, 1), "codes_used": len(used),
            **{name: round(means[name], 4) if name in means else None for name in FIGURES}}
