"""Read any picture file as RGB, with a note for everything that was done to it on the way.

    file --header checked--> frame --decoded--> turned upright --> 8 bits, RGB

What Pillow would only warn about is settled here: a size beyond the limit is refused before any
pixel is decoded, and other warnings come back as notes.
"""

from __future__ import annotations

import io
import threading
import warnings
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from tok_core.errors import MediaError

MAX_PIXELS = 1 << 27  # 134 megapixels, about 400 MB as RGB bytes; the largest phones make 108
# Formats that decode inside Pillow alone; EPS, for one, would start another program.
_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "TGA", "JPEG2000",
            "AVIF", "ICO", "PCX", "SGI")
_ORIENTATION = 0x0112  # EXIF tag
_BITS_PER_SAMPLE = 258  # TIFF tag
# warnings.catch_warnings changes the whole process, so one thread at a time may read a header.
_HEADER_LOCK = threading.Lock()


class ReadImage(NamedTuple):
    """A decoded picture.

    Attributes:
        pixels: PIL image in mode RGB, upright.
        notes: what a user should know, e.g. "animation: only the first frame is used".
    """

    pixels: Image.Image
    notes: tuple[str, ...]


def read_image(source: str | Path | bytes, name: str | None = None) -> ReadImage:
    """Read a picture of any common format, colour mode and size up to MAX_PIXELS.

    EXIF rotation is applied, transparency is laid on white, 16-bit and float values are scaled
    (not clipped) to 8 bits, CMYK, palette and grey become RGB, and of an animation or of several
    pages the first is taken.

    Args:
        source: path of a file, or the bytes of one.
        name: what to call it in an error; the path by default.

    Raises:
        MediaError: missing, empty, truncated, no picture, or larger than MAX_PIXELS.

    Example::

        picture = read_image("cat.jpg")
        picture.pixels.size, picture.notes
    """
    if name is None:
        name = "the picture" if isinstance(source, bytes) else str(source)
    try:
        with _open(source, name) as stream:
            return _read(stream, name)
    except MediaError:
        raise
    except UnidentifiedImageError:
        raise MediaError(f"{name} is no picture in a known format, or its beginning is damaged; "
                         "give a PNG, JPEG, WebP, TIFF, GIF, BMP or similar file") from None
    except Image.DecompressionBombError:
        raise MediaError(f"{name} has far more than the {MAX_PIXELS:,} pixels that are read; "
                         "scale it down first") from None
    except MemoryError:
        raise MediaError(f"{name} does not fit into memory; scale it down first") from None
    except Exception as error:  # a decoder may raise anything on a damaged file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise MediaError(f"{name} is damaged or truncated ({reason}); get a whole copy") from None


def _open(source: str | Path | bytes, name: str) -> BinaryIO:
    data: BinaryIO
    try:
        data = io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb")  # noqa: SIM115
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MediaError(f"{name} cannot be opened ({reason}); give an existing picture "
                         "file") from None
    if data.read(1) == b"":
        data.close()
        raise MediaError(f"{name} is empty (0 bytes); give a whole picture file")
    data.seek(0)
    return data


def _read(stream: BinaryIO, name: str) -> ReadImage:
    image, turn, notes = _header(stream, name)
    image.load()
    if turn not in (None, 1):
        # The orientation was read with the header; a picture that says it twice stays right.
        image = ImageOps.exif_transpose(image) if image.getexif().get(_ORIENTATION) else image
    return ReadImage(_to_rgb(image, notes), tuple(notes))


def _header(stream: BinaryIO, name: str) -> tuple[Image.Image, int | None, list[str]]:
    """Open without decoding; return the image, its EXIF orientation and the notes so far."""
    notes: list[str] = []
    with _HEADER_LOCK, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Image.init()
        image = Image.open(stream, formats=[f for f in _FORMATS if f in Image.OPEN])
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise MediaError(f"{name} is {width} x {height} pixels; pictures of up to "
                             f"{MAX_PIXELS:,} pixels are read, so scale it down first")
        if image.format != "MPO" and getattr(image, "is_animated", False):
            pages = image.format == "TIFF"
            notes.append("several pages: only the first is used" if pages
                         else "animation: only the first frame is used")
            image.seek(0)
        try:
            turn = image.getexif().get(_ORIENTATION)
        except Exception:  # damaged metadata must not cost the picture
            turn = None
            notes.append("damaged EXIF data: its rotation is ignored")
    for warning in caught:
        if not issubclass(warning.category, Image.DecompressionBombWarning | DeprecationWarning):
            notes.append("decoder: " + " ".join(str(warning.message).split()))
    return image, turn, notes


def _to_rgb(image: Image.Image, notes: list[str]) -> Image.Image:
    mode = image.mode
    if mode.startswith("I") or mode == "F":
        return _from_deep_grey(image, notes)
    if mode == "CMYK":
        notes.append("CMYK: converted to RGB without a colour profile")
    if image.has_transparency_data or mode in ("RGBa", "La"):
        layered = image.convert("RGBA")
        if np.asarray(layered.getchannel("A")).min() < 255:
            notes.append("transparency: laid on white")
            white = Image.new("RGBA", layered.size, (255, 255, 255, 255))
            layered = Image.alpha_composite(white, layered)
        return layered.convert("RGB")
    return image if mode == "RGB" else image.convert("RGB")


def _from_deep_grey(image: Image.Image, notes: list[str]) -> Image.Image:
    """Scale grey values of more than 8 bits to 0..255; float and 32-bit ones by their range."""
    values = np.nan_to_num(np.asarray(image).astype(np.float64 if image.mode == "I" else
                                                    np.float32), posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    bits = _sample_bits(image)
    if image.mode != "F" and low >= 0 and high <= 65535:
        low, high = 0.0, float((1 << bits) - 1) if bits < 16 else 65535.0
    elif image.mode == "F" and low >= 0.0 and high <= 1.0:
        low, high = 0.0, 1.0
    elif image.mode == "F" and low >= 0.0 and high <= 255.0:
        low, high = 0.0, 255.0
    else:
        notes.append(f"values from {low:g} to {high:g}: stretched to the full range")
    span = high - low if high > low else 1.0
    grey = np.rint((values - low) * (255.0 / span)).clip(0, 255).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def _sample_bits(image: Image.Image) -> int:
    """Return the bits per sample that a TIFF states (12-bit scanners), else 16."""
    tags = getattr(image, "tag_v2", None)
    stated = tags.get(_BITS_PER_SAMPLE, (16,)) if tags is not None else (16,)
    return int(stated[0] if isinstance(stated, tuple) else stated)
