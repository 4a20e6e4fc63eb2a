"""YIN: pitch and voicing from the waveform alone, for machines without CREPE's weights.

Its voicing is not CREPE's, so scores made with it have names of their own (`vuv_f1/yin`).

Letters: T samples, N frames, L lags.
"""

from __future__ import annotations

import torch
from torch import Tensor

from eval.pitch_decoding import PitchTrack, loudness, voiced_track

WINDOW, HOP, RATE = 1024, 160, 16_000  # as CREPE's, so that frames are the same
_DIP = 0.15  # the first lag whose difference dips under this is the period
# Above this normalised difference a frame has no voice: there its voicing is nearest to CREPE's on
# clean speech (F1 between the two 0.95 and 0.97).
APERIODIC = 0.5
_FRAMES = 4096  # at a time, so that an hour needs no more memory than a minute


def yin_track(sound: Tensor, low: float = 50.0, high: float = 550.0) -> PitchTrack:
    """Return pitch and periodicity of a sound of 16 kHz.

    Frames under -60 dB of A-weighted level are silent, as with CREPE.

    Args:
        sound: (T,) float, T >= 1024. low, high: range of the pitch in Hz.

    Returns:
        N = 1 + (T - 1024) // 160 frames; periodicity is 1 minus the normalised difference.

    Source: de Cheveigné and Kawahara 2002, eq. 6 to 8 and steps 4 and 5.

    Example:
        >>> tone = 0.5 * torch.sin(2 * torch.pi * 220 * torch.arange(16000) / 16000)
        >>> round(float(yin_track(tone).hz[10]))
        220
    """
    x = sound.float().cpu()
    longest, shortest = int(RATE / low), int(RATE / high)
    frames = x.unfold(0, WINDOW, HOP).split(_FRAMES)
    difference = torch.cat([_normalised_difference(part, longest + 1) for part in frames])
    inner = difference[:, shortest : longest + 1]
    # The first dip that is deep enough, or else the deepest.
    left, right = difference[:, shortest - 1 : longest], difference[:, shortest + 1 : longest + 2]
    dips = (inner < _DIP) & (inner <= left) & (inner < right)
    first = torch.where(dips.any(1), dips.int().argmax(1), inner.argmin(1))
    lag = first + shortest
    a, b, c = (difference.gather(1, (lag + step)[:, None])[:, 0] for step in (-1, 0, 1))
    bend = a - 2 * b + c
    shift = torch.where(bend > 1e-12, 0.5 * (a - c) / bend.clamp(min=1e-12), 0.0).clamp(-1, 1)
    hz = RATE / (lag + shift)
    return voiced_track(
        hz, (1 - b).clamp(0, 1), loudness(x, RATE, WINDOW, HOP), unvoiced=1 - APERIODIC
    )


def _normalised_difference(frames: Tensor, longest: int) -> Tensor:
    """Return d'(lag) of frames (N, WINDOW) for lags 0 to ``longest``, (N, L).

    d(lag) sums (x[j] - x[j + lag])^2 over the samples that have a partner at every lag; d' divides
    it by its mean over all shorter lags.
    """
    frames = frames.double()
    width = WINDOW - longest
    size = 2 * WINDOW
    head = torch.fft.rfft(frames[:, :width], size)
    product = torch.fft.irfft(head.conj() * torch.fft.rfft(frames, size), size)
    energy = torch.nn.functional.pad(frames.square().cumsum(1), (1, 0))
    lags = torch.arange(longest + 1)
    own = energy[:, width, None]
    difference = (own + energy[:, lags + width] - energy[:, lags] - 2 * product[:, : longest + 1])
    difference = difference.clamp(min=0)
    total = difference[:, 1:].cumsum(1)
    ratio = difference[:, 1:] * lags[1:] / total.clamp(min=1e-12)
    # Silence differs from itself by nothing, and is no voice.
    ratio = torch.where(total > 1e-12, ratio, 1.0)
    return torch.nn.functional.pad(ratio, (1, 0), value=1.0).float()
