"""Find the picture files of a folder, and keep the held-out photographs out of training."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from assets import photograph_path, photograph_split
from tok_core.errors import ConfigError

SUFFIXES = frozenset(
    ".png .jpg .jpeg .jpe .jfif .webp .bmp .gif .tif .tiff .ppm .pgm .tga .jp2 .avif".split()
)
_SIGNATURE = 16  # side of the thumbnails by which a copy is recognised
_SAME = 3.0  # mean difference (of 255) below which two thumbnails are one photograph


def find_pictures(folder: str | Path) -> list[Path]:
    """Return every picture file below ``folder``, sorted; hidden ones are left out.

    Raises:
        ConfigError: no such folder, or no picture in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ConfigError(f"'{folder}' is no folder; give a folder of pictures or tar shards")
    found = sorted(_walk(folder))
    if not found:
        raise ConfigError(f"folder '{folder}' holds no picture ({', '.join(sorted(SUFFIXES))}); "
                          "give one that does")
    return found


def has_pictures(folder: str | Path) -> bool:
    """Say whether there is a picture file below ``folder``."""
    return next(_walk(Path(folder)), None) is not None


def _walk(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                yield Path(place, name)


@lru_cache(maxsize=1)
def _held_out_signatures() -> dict[str, np.ndarray]:
    return {name: _signature(Image.open(photograph_path(name)))
            for name in photograph_split()["held_out"]}


def _signature(image: Image.Image) -> np.ndarray:
    small = image.convert("RGB").resize((_SIGNATURE, _SIGNATURE), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32)


def held_out_name(image: Image.Image) -> str | None:
    """Return which held-out photograph a picture is a copy of (any size or format), or None.

    Example::

        held_out_name(Image.open("chelsea_small.jpg"))  # "chelsea"
    """
    signature = _signature(image)
    for name, held in _held_out_signatures().items():
        for known in (held, held[:, ::-1]):
            if float(np.abs(signature - known).mean()) < _SAME:
                return name
    return None
