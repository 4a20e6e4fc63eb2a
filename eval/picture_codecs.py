"""JPEG, WebP, AVIF and JPEG 2000 as Pillow writes them: whole files in memory.

The quality runs from 1 to 100 for all; for JPEG 2000, which has none, it is the quality layer in
decibels of PSNR that the encoder is asked for.
"""

from __future__ import annotations

import io
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from tok_core.errors import ConfigError, MediaError

if TYPE_CHECKING:
    from PIL.Image import Image

CURVE = (1, 2, 5, 10, 20, 35, 50, 70, 85)


class PictureCodec(NamedTuple):
    """How Pillow is asked for a codec.

    Attributes:
        format: Pillow's name. feature: of `PIL.features`, checked before use.
        options: fixed ones, chosen for small files. qualities: of a sweep. table: fewer, for
            tables. setting: what the quality number is called.
    """

    format: str
    feature: str
    options: dict[str, Any]
    qualities: tuple[int, ...]
    table: tuple[int, ...]
    setting: str = "quality"


CODECS: dict[str, PictureCodec] = {
    "JPEG": PictureCodec(
        "JPEG", "jpg", {"optimize": True}, (1, 5, 10, 20, 35, 50, 70, 85), (1, 10, 50)
    ),
    "WebP": PictureCodec(
        "WEBP", "webp", {"method": 4}, (1, 5, 10, 20, 35, 50, 70, 85), (1, 10, 50)
    ),
    "AVIF": PictureCodec(
        "AVIF", "avif", {"speed": 6}, (1, 5, 10, 20, 35, 50, 65, 80), (1, 20, 50)
    ),
    "JPEG 2000": PictureCodec(
        "JPEG2000", "jpg_2000", {"quality_mode": "dB", "irreversible": True, "no_jp2": True},
        (18, 20, 22, 24, 27, 30, 34, 38, 42), (20, 26, 32), "dB asked for",
    ),
}  # fmt: skip


class Coded(NamedTuple):
    """A picture coded by a classic codec: its whole file and the quality setting."""

    data: bytes
    quality: int


def check_codec(kind: str) -> PictureCodec:
    """Return a codec of `CODECS`; ConfigError where this Pillow lacks it."""
    from PIL import features

    codec = CODECS[kind]
    if not features.check(codec.feature):
        raise ConfigError(
            f"this Pillow was built without {kind}; install Pillow's own wheel (pip install -U "
            "pillow) or leave the codec out."
        )
    return codec


def encode(picture: Image, kind: str, quality: int) -> bytes:
    """Return the whole file of an RGB picture.

    Args:
        kind: one of `CODECS`. quality: 1 to 100; see the module.

    Raises:
        MediaError: the codec refuses the picture.

    Example:
        >>> len(encode(picture, "WebP", 1)) < len(encode(picture, "WebP", 50))  # doctest: +SKIP
        True
    """
    codec = CODECS[kind]
    options = dict(codec.options)
    if codec.format == "JPEG2000":
        options |= {"quality_layers": [quality], "num_resolutions": _resolutions(picture)}
    else:
        options["quality"] = quality
    buffer = io.BytesIO()
    try:
        picture.save(buffer, format=codec.format, **options)
    except (OSError, ValueError) as error:
        raise MediaError(
            f"{kind} cannot code a picture of {picture.width} x {picture.height} pixels ({error}); "
            "leave the codec out."
        ) from None
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


def _resolutions(picture: Image) -> int:
    """Return how often the encoder may halve the picture; it refuses more than there is."""
    return max(1, min(6, min(picture.size).bit_length()))
