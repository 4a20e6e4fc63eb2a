"""Quality of a decoded sound in figures, for sounds of any length.

Letters: C channels, n samples of a piece.
"""

from __future__ import annotations

from collections.abc import Iterator

from audio_tok.sample_store import SampleStore
from audio_tok.sound_figures import mean_figures, sound_figures
from tok_core.resample import resample

PIECE_SECONDS = 20.0  # PESQ and STOI are made for sentences
MOST_PIECES = 15  # of a long sound, evenly spread: five minutes of it
_LEAST_SECONDS = 0.5  # a shorter rest joins the piece before


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
    each = []
    for start, stop in _pieces(min(original.length, decoded.length), rate):
        pair = [resample(store.read(start, stop), rate, at_rate) for store in (original, decoded)]
        each += [sound_figures(x, y, at_rate) for x, y in zip(*pair, strict=True)]
    return mean_figures(each)


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
