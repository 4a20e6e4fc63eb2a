"""Spectrograms as pictures, without a plotting library.

Letters: T samples, F frames of 10 ms, H rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

HEIGHT = 128  # rows of one sound, evenly spaced on the mel scale
_RANGE = 70.0  # dB between black and white
_GAP = 4  # white rows between two sounds
# Dark blue, violet, orange, pale yellow, evenly rising in lightness.
_COLOURS = np.array([[4, 4, 18], [70, 16, 110], [170, 48, 110], [240, 120, 50], [252, 250, 180]])


def spectrogram_picture(sounds: Sequence[Tensor], rate: int, height: int = HEIGHT) -> np.ndarray:
    """Draw sounds one above the other on one scale of levels, time to the right.

    Args:
        sounds: each (..., T), T >= 1; shorter ones end in silence.
        rate: samples per second.
        height: rows per sound.

    Returns:
        uint8 (rows, F, 3); the lowest frequency of each sound is at its bottom.

    Example::

        picture = spectrogram_picture([original, decoded], 24000)
        Image.fromarray(picture).save("speech.png")
    """
    levels = [_levels(sound.detach().float().cpu().reshape(-1), rate, height) for sound in sounds]
    top = max(float(level.max()) for level in levels)
    width = max(level.shape[1] for level in levels)
    rows: list[np.ndarray] = []
    for level in levels:
        shade = np.clip((level - top) / _RANGE + 1.0, 0.0, 1.0)
        shade = np.pad(shade, ((0, 0), (0, width - shade.shape[1])))
        rows += [_coloured(shade[::-1]), np.full((_GAP, width, 3), 255, np.uint8)]
    return np.concatenate(rows[:-1])


def _levels(sound: Tensor, rate: int, height: int) -> np.ndarray:
    """Return dB (height, F) at frequencies evenly spaced in mel (O'Shaughnessy's formula)."""
    hop = max(1, rate // 100)
    size = 1 << max(4, (4 * hop - 1).bit_length())
    padded = torch.nn.functional.pad(sound, (size // 2, size // 2))
    spectrum = torch.stft(padded, size, hop, window=torch.hann_window(size), center=False,
                          return_complex=True).abs()
    top = 2595.0 * np.log10(1.0 + 0.5 * rate / 700.0)
    frequency = 700.0 * (10.0 ** (np.linspace(0.0, top, height) / 2595.0) - 1.0)
    place = torch.from_numpy(frequency * size / rate).float().clamp(max=spectrum.shape[0] - 1.001)
    below = place.floor().long()
    part = (place - below)[:, None]
    mixed = spectrum[below] * (1 - part) + spectrum[below + 1] * part
    return (20.0 * torch.log10(mixed + 1e-6)).numpy()


def _coloured(shade: np.ndarray) -> np.ndarray:
    steps = np.linspace(0.0, 1.0, len(_COLOURS))
    planes = [np.interp(shade, steps, _COLOURS[:, c]) for c in range(3)]
    return np.rint(np.stack(planes, axis=-1)).astype(np.uint8)
