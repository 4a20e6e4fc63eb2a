"""JPEG and WebP as Pillow writes them, for comparison at equal size."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from PIL.Image import Image

KINDS = ("JPEG", "WebP")
CURVE = (1, 2, 5, 10, 20, 35, 50, 70, 85)


class Coded(NamedTuple):
    """A picture coded by a classic codec: its whole file and the quality setting (1..100)."""

    data: bytes
    quality: int


def encode(picture: Image, kind: str, quality: int) -> bytes:
    """Return the whole file of a picture in JPEG (optimised tables) or WebP (method 4).

    Example:
        >>> len(encode(picture, "WebP", 1)) < len(encode(picture, "WebP", 50))  # doctest: +SKIP
        True
    """
    buffer = io.BytesIO()
    extra = {"optimize": True} if kind == "JPEG" else {"method": 4}
    picture.save(buffer, format=kind, quality=quality, **extra)  # type: ignore[arg-type]
    return buffer.getvalue()


def decode(data: bytes) -> Image:
    """Return the RGB picture of a file in memory."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as picture:
        return picture.convert("RGB")


def nearest_size(picture: Image, kind: str, size: int) -> Coded:
    """Return the coding whose whole file is nearest to ``size`` bytes.

    Often that is the smallest file the codec can make at all, still larger than the tokens.
    """

    @lru_cache
    def at(quality: int) -> bytes:
        return encode(picture, kind, quality)

    low, high = 1, 95
    while high - low > 1:  # file sizes grow with the quality
        middle = (low + high) // 2
        low, high = (middle, high) if len(at(middle)) <= size else (low, middle)
    best = min((low, high), key=lambda quality: (abs(len(at(quality)) - size), quality))
    return Coded(at(best), best)
