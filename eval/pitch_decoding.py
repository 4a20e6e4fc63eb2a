"""From probabilities of pitches to a pitch track, and which frames are silent.

Letters: T samples, N frames, S pitch bins (states), F frequency bins.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

CENTS_PER_BIN, FIRST_CENTS = 20.0, 1997.3794084376191  # over 10 Hz
_REACH = 12  # bins that the pitch may move from frame to frame
SILENCE_DB, REFERENCE_DB = -60.0, 20.0
UNVOICED = 0.21  # below this periodicity a frame has no voice


class PitchTrack(NamedTuple):
    """Pitch and its strength at every frame of one sound.

    Args:
        hz: float32 (N,), NaN where there is no voice.
        periodicity: float32 (N,) in [0, 1], 0 in silence.
    """

    hz: Tensor
    periodicity: Tensor

    @property
    def voiced(self) -> Tensor:
        """bool (N,)."""
        return ~torch.isnan(self.hz)


def bin_range(low: float, high: float) -> tuple[int, int]:
    """Return first and last bin between two frequencies in Hz, floor and ceil - 1."""
    first, last = (
        (1200 * math.log2(hz / 10) - FIRST_CENTS) / CENTS_PER_BIN for hz in (low, high)
    )
    return max(0, math.floor(first)), math.ceil(last) - 1


def bin_hz(bins: Tensor) -> Tensor:
    """Return the frequencies of pitch bins, float32."""
    cents = CENTS_PER_BIN * bins.double() + FIRST_CENTS
    return (10 * 2 ** (cents / 1200)).float()


def viterbi_bins(probabilities: Tensor, low: float = 50.0, high: float = 550.0) -> Tensor:
    """Return the likeliest path of bins, int64 (N,).

    The score of a bin is the softmax over the *probabilities* of bins in range, as torchcrepe has
    it. A path moves by d bins with a chance that falls as 12 - |d|; every start is as likely.

    Args:
        probabilities: (N, S) in [0, 1]. low, high: range of the pitch in Hz.

    Source: torchcrepe.decode.viterbi, without the random dither of 20 cents that follows there.
    """
    first, last = bin_range(low, high)
    states = probabilities.shape[1]
    allowed = probabilities.float().cpu().clone()
    allowed[:, :first] = -math.inf
    allowed[:, last + 1 :] = -math.inf
    tiny = torch.finfo(torch.float32).tiny
    observed = (torch.softmax(allowed, dim=1) + tiny).log().double()
    place = torch.arange(states)
    offsets = torch.arange(1 - _REACH, _REACH)
    # For a state j and an offset d the path comes from i = j + d.
    origin = place[:, None] + offsets
    inside = (origin >= 0) & (origin < states)
    chance = (_REACH - offsets.abs()).double().expand(states, -1)
    total = (_REACH - (place[:, None] - place).abs()).clamp(min=0).sum(dim=1).double()
    origin = origin.clamp(0, states - 1)
    moves = torch.where(inside, (chance / total[origin] + tiny).log(), -math.inf)
    value = observed[0] - math.log(states)
    back = torch.zeros(probabilities.shape, dtype=torch.int64)
    for n in range(1, len(probabilities)):
        # The first of equals wins: the lowest bin.
        best, which = (value[origin] + moves).max(dim=1)
        back[n] = origin.gather(1, which[:, None])[:, 0]
        value = observed[n] + best
    path = torch.zeros(len(probabilities), dtype=torch.int64)
    path[-1] = value.argmax()
    for n in range(len(probabilities) - 1, 0, -1):
        path[n - 1] = back[n, path[n]]
    return path


def a_weighting(hz: Tensor) -> Tensor:
    """Return how much quieter an ear hears frequencies, in dB, not under -80.

    Source: IEC 61672-1, annex E.
    """
    square = hz.double().square()
    a, b, c, d = (x * x for x in (12194.217, 20.598997, 107.65265, 737.86223))
    gain = (
        2.0 + 20.0 * (math.log10(a) + 2 * square.log10())
        - 20.0 * ((square + a).log10() + (square + b).log10())
        - 10.0 * ((square + c).log10() + (square + d).log10())
    )  # fmt: skip
    # 0 Hz has a logarithm of minus infinity.
    return gain.clamp(min=-80.0).float()


def loudness(sound: Tensor, rate: int = 16_000, window: int = 1024, hop: int = 160) -> Tensor:
    """Return the A-weighted level of every frame in dB, float32 (N,), N = 1 + (T - window) // hop.

    Spectra that lie 80 dB under the loudest bin of the whole sound are lifted to there, so that
    how loud a frame is depends on the rest of the sound.

    Args:
        sound: (T,) float in [-1, 1]. rate: in Hz. window, hop: in samples.

    Source: torchcrepe.loudness.a_weighted.
    """
    x = sound.float()
    taper = torch.hann_window(window, device=x.device)
    spectrum = torch.stft(x, window, hop, window=taper, center=False, return_complex=True)
    power = 10 * spectrum.abs().square().clamp(min=1e-10).log10()  # (F, N)
    power = power.clamp(min=float(power.max()) - 80.0)
    weights = a_weighting(torch.arange(window // 2 + 1).double() * rate / window).to(x.device)
    return (power + weights[:, None] - REFERENCE_DB).mean(dim=0)


def voiced_track(
    hz: Tensor, periodicity: Tensor, level: Tensor, *, silence: float = SILENCE_DB,
    unvoiced: float = UNVOICED,
) -> PitchTrack:  # fmt: skip
    """Take the voice out of silent and unvoiced frames.

    Args:
        hz, periodicity: (N,) of every frame. level: (N,) in dB, see `loudness`.
        silence: dB under which a frame has periodicity 0.
        unvoiced: periodicity under which a frame has no pitch.
    """
    strength = torch.where(level < silence, torch.zeros_like(periodicity), periodicity)
    return PitchTrack(torch.where(strength < unvoiced, float("nan"), hz), strength)
