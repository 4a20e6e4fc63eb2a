"""How far a crowd of sounds is from another where none has an original: generated speech.

A sound is its log mel bands' means and deviations over time; two crowds are compared by the Fréchet
distance of Gaussians.  It hears loudness, timbre and how lively they are, and no words: for babble
that nobody asked to say anything.  It needs no weights, so it is comparable with nothing but itself
at the same rate, length and number of sounds.

Letters: N sounds, T samples.
"""

from __future__ import annotations

import torch
from torch import Tensor

from eval.frechet_distance import frechet_distance_of_features
from tok_core.mel import MelSpectrogram

NAME = "frechet/log-mel-v1"
BANDS, WINDOW, HOP = 32, 512, 128
FLOOR = 1e-5
CHUNK = 64


def log_mel_statistics(sounds: Tensor, rate: int) -> Tensor:
    """Return float64 (N, 64): mean and deviation over time of the log of 32 mel bands.

    Args:
        sounds: float (N, 1, T) in [-1, 1]. rate: in Hz.

    Example:
        >>> log_mel_statistics(torch.zeros(2, 1, 16000), 16000).shape
        torch.Size([2, 64])
    """
    mel, parts = MelSpectrogram(rate, WINDOW, HOP, BANDS), []
    with torch.no_grad():
        for part in sounds.float().cpu().split(CHUNK):
            logs = mel(part).clamp(min=FLOOR).log().double()
            parts.append(torch.cat([logs.mean(-1), logs.std(-1)], 1))
    return torch.cat(parts)


def crowd_distance(sounds: Tensor, real: Tensor, rate: int) -> float:
    """Return the Fréchet distance of sounds (N, 1, T) from real ones (M, 1, T), 0 or more.

    Raises:
        ConfigError: fewer than two sounds on a side.

    Example:
        >>> crowd = torch.randn(8, 1, 4000)
        >>> crowd_distance(crowd, crowd, 16000) < 1e-6
        True
    """
    a, b = log_mel_statistics(sounds, rate), log_mel_statistics(real, rate)
    return float(frechet_distance_of_features(b, a))
