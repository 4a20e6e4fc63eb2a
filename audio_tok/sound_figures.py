"""The four figures by which a decoded sound is compared with its original.

Letters: B sounds, T samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from tok_core.audio_measures import pesq_wb, si_sdr, stoi
from tok_core.mel import MelSpectrogram, log_mel_distance

FIGURES = ("mel_distance", "si_sdr", "stoi", "pesq")
_LARGEST = 100.0  # dB; a perfect copy has infinitely many
_SHORTEST = 2048  # two mel windows; a shorter sound gets silence behind it


def mel_distance(x: Tensor, y: Tensor, rate: int) -> float:
    """Mean absolute difference of natural log mel magnitudes: 100 bands, n_fft 1024, hop 256.

    Args:
        x, y: (B, 1, T) float in [-1, 1]. rate: in Hz.

    Source: the validation loss of WavTokenizer, arXiv 2408.16532, without its weight.

    Example:
        >>> mel_distance(x, x, 24000)  # doctest: +SKIP
        0.0
    """
    mel = MelSpectrogram(rate, 1024, 256, 100)
    with torch.no_grad():
        return float(log_mel_distance(mel(x.float()), mel(y.float())))


def sound_figures(x: Tensor, y: Tensor, rate: int) -> dict[str, float]:
    """Return what is known of one sound: `FIGURES` without those that cannot be had.

    Args:
        x, y: original and decoded, one channel of T samples in any shape. rate: in Hz.

    Returns:
        ``mel_distance``, ``si_sdr`` in dB (within 100), and ``stoi`` and ``pesq`` where their
        packages are installed and they accept the sound.

    Example:
        >>> sound_figures(x, y, 24000)["stoi"]  # doctest: +SKIP
        0.84
    """
    short = max(0, _SHORTEST - x.numel())
    a, b = (torch.nn.functional.pad(z.reshape(1, 1, -1), (0, short)) for z in (x, y))
    found: dict[str, float | None] = {
        "mel_distance": mel_distance(a, b, rate),
        "si_sdr": max(-_LARGEST, min(_LARGEST, si_sdr(x, y))),
        "stoi": stoi(x, y, rate),
        "pesq": pesq_wb(x, y, rate),
    }
    return {
        name: value for name, value in found.items() if value is not None and math.isfinite(value)
    }


def mean_figures(each: Iterable[dict[str, float]]) -> dict[str, float]:
    """Return the mean of every figure over the sounds that have it."""
    known = list(each)
    values = {name: [one[name] for one in known if name in one] for name in FIGURES}
    return {name: sum(some) / len(some) for name, some in values.items() if some}
