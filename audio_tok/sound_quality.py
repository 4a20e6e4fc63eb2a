"""Quality of a decoded sound in figures, for sounds of any length.

Letters: C channels, n samples of a piece.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from audio_tok.sample_store import SampleStore
from tok_core.audio_measures import pesq_wb, si_sdr, stoi
from tok_core.resample import resample

PIECE_SECONDS = 20.0  # PESQ and STOI are made for sentences
MOST_PIECES = 15  # of a long sound, evenly spread: five minutes of it
_LEAST_SECONDS = 0.5  # a shorter rest joins the piece before
_LARGEST = 100.0  # dB; a perfect copy has infinitely many


def sound_quality(
    original: SampleStore, decoded: SampleStore, rate: int, at_rate: int
) -> dict[str, float]:
    """Compare two sounds of equal size.

    Args:
        original, decoded: (C, T).
        rate: of both, in Hz.
        at_rate: in Hz, at most ``rate``; both are resampled to it first.

    Returns:
        ``si_sdr`` in dB, ``mel_distance``, and ``stoi`` and ``pesq`` where the packages are
        installed and the sound is long enough: means over pieces of 20 seconds and over channels.

    Example:
        >>> sound_quality(a, b, 24000, 24000)  # doctest: +SKIP
        {'si_sdr': 2.1, 'mel_distance': 0.61, 'stoi': 0.86, 'pesq': 1.7}
    """
    from audio_tok.validation import mel_distance

    sums: dict[str, list[float]] = {"si_sdr": [], "mel_distance": [], "stoi": [], "pesq": []}
    for start, stop in _pieces(min(original.length, decoded.length), rate):
        pair = [
            resample(store.read(start, stop), rate, at_rate) for store in (original, decoded)
        ]  # fmt: skip
        for x, y in zip(*pair, strict=True):
            found = {
                "si_sdr": min(_LARGEST, si_sdr(x, y)),
                "mel_distance": mel_distance(_long_enough(x), _long_enough(y), at_rate),
                "stoi": stoi(x, y, at_rate),
                "pesq": pesq_wb(x, y, at_rate),
            }
            for name, value in found.items():
                if value is not None and math.isfinite(value):
                    sums[name].append(value)
    return {name: sum(values) / len(values) for name, values in sums.items() if values}


def _long_enough(x: Tensor) -> Tensor:
    """Return (1, 1, n) with silence behind a sound that is shorter than two mel windows."""
    return torch.nn.functional.pad(x, (0, max(0, 2048 - len(x))))[None, None]


def _pieces(samples: int, rate: int) -> Iterator[tuple[int, int]]:
    size = int(PIECE_SECONDS * rate)
    count = max(1, -(-samples // size))
    if count > 1 and samples - (count - 1) * size < _LEAST_SECONDS * rate:
        count -= 1
    chosen = range(count)
    if count > MOST_PIECES:
        chosen = [round(i * (count - 1) / (MOST_PIECES - 1)) for i in range(MOST_PIECES)]  # type: ignore[assignment]
    for i in chosen:
        yield i * size, samples if i == count - 1 else (i + 1) * size
