"""The caption features that lie beside what is tokenized: NAME.npy beside NAME.jpg or NAME.wav.

A short caption's may lie beside it, NAME.short.npy.  In a tar shard they are the members of the
same key, as webdataset pairs them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from tessera.tokenize_signals import member_bytes
from tessera.tokenize_sources import Source, split_name
from tok_core.caption_features import MOST_BYTES, SHORT_SUFFIX, SUFFIX, read_features
from tok_core.errors import MediaError


class Captions(NamedTuple):
    """The ``.npy`` files of a source's captions, read and found whole.

    Attributes:
        full: of its caption.
        short: of its short caption; None where there is none or a broken one.
        broken: the short caption that was left out, ``{"source", "error"}``.
    """

    full: bytes | None = None
    short: bytes | None = None
    broken: dict[str, str] | None = None


def read_captions(source: Source) -> Captions:
    """Return the captions of a source; a broken short one does not cost the sample.

    Raises:
        MediaError: there is no full caption, or the file holds no caption features.
    """
    full = _full(source)
    width = read_features(full, _name(source, SUFFIX)).shape[1]
    try:
        return Captions(full, _short(source, width))
    except MediaError as error:
        sentence = f"{error} (its sample is kept, with the full caption alone)"
        return Captions(full, None, {"source": _name(source, SHORT_SUFFIX), "error": sentence})


def is_short_caption(name: str) -> bool:
    """Whether what was skipped is a short caption, whose sample is there, and no source."""
    return name.endswith(SHORT_SUFFIX)


def _full(source: Source) -> bytes:
    if source.offset is not None and source.caption is None:
        raise MediaError(
            f"{source} has no {SUFFIX} member of its key; add the caption's features, or leave "
            "--captions out"
        )
    try:
        return _bytes(source, SUFFIX, source.caption)
    except OSError as error:
        raise MediaError(
            f"{source} has no caption features beside it ({_name(source, SUFFIX)}: "
            f"{error.strerror}); write them with numpy.save, or leave --captions out"
        ) from None


def _short(source: Source, width: int) -> bytes | None:
    """Return the file of a short caption with features as wide as the full one's, or None."""
    if source.offset is not None and source.short_caption is None:
        return None
    name = _name(source, SHORT_SUFFIX)
    try:
        data = _bytes(source, SHORT_SUFFIX, source.short_caption)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise MediaError(f"{name} cannot be read: {error.strerror}") from None
    found = read_features(data, name).shape[1]
    if found != width:
        raise MediaError(
            f"{name} has {found} features and the full caption {width}; take one text encoder for "
            "both"
        )
    return data


def _bytes(source: Source, suffix: str, place: tuple[int, int] | None) -> bytes:
    """Return a file beside the source, or the member at a place of its tar shard."""
    path = Path(_name(source, suffix))
    size = path.stat().st_size if place is None else place[1]
    if size > MOST_BYTES:
        raise MediaError(f"{path} is larger than {MOST_BYTES} bytes, which is no caption")
    if place is None:
        return path.read_bytes()
    return member_bytes(source._replace(offset=place[0], size=size))


def _name(source: Source, suffix: str) -> str:
    """Return the path of a caption, in a tar shard behind the shard's own."""
    if source.offset is None:
        return os.path.splitext(source.path)[0] + suffix
    return f"{source.path}/{split_name(source.name)[0]}{suffix}"
