"""Whether a sound file ends before its own header says, where the decoder would not tell.

libsndfile takes a wav or aiff file that was cut for a shorter one, and an Ogg stream likewise.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

# Programs that write to a pipe do not know the size and leave one of these or more.
_UNKNOWN_SIZE = 0x7FFFF000
_OGG_TAIL = 1 << 17  # two of the largest pages
_OGG_HEADER = 27
_OGG_LAST = 4  # flag of the last page of a stream


def lacks_its_end(path: Path) -> bool:
    """Return whether a RIFF, RF64, AIFF or Ogg file was cut; False for what cannot be told.

    Raises:
        OSError: the file cannot be read.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(12)
        if start[:4] in (b"RIFF", b"RF64") and start[8:] == b"WAVE":
            return _chunks_end(file, size, "little", b"data", wide=start[:4] == b"RF64")
        if start[:4] == b"FORM" and start[8:] in (b"AIFF", b"AIFC"):
            return _chunks_end(file, size, "big", b"SSND", wide=False)
        if start[:4] == b"OggS":
            return _ogg_is_cut(file, size)
    return False


def _chunks_end(file: BinaryIO, size: int, order: str, wanted: bytes, *, wide: bool) -> bool:
    """Walk the chunks up to the samples and return whether those pass the end of the file."""
    true_size = None
    while len(head := file.read(8)) == 8:
        name, length = head[:4], int.from_bytes(head[4:], order)  # type: ignore[arg-type]
        if name == b"ds64" and wide:
            body = file.read(min(length, 28))
            true_size = int.from_bytes(body[8:16], "little")
            length -= len(body)
        elif name == wanted:
            if wide and length == 0xFFFFFFFF and true_size is not None:
                length = true_size
            elif length >= _UNKNOWN_SIZE and length > size:
                return False
            return file.tell() + length > size
        file.seek(length + length % 2, os.SEEK_CUR)
    return False


def _ogg_is_cut(file: BinaryIO, size: int) -> bool:
    """Return whether the last page is incomplete or not marked as the last of its stream."""
    file.seek(max(0, size - _OGG_TAIL))
    tail = file.read()
    at = tail.rfind(b"OggS")
    while at >= 0:
        page = tail[at:]
        if len(page) < _OGG_HEADER:
            return True
        lacing = page[_OGG_HEADER : _OGG_HEADER + page[26]]
        if len(lacing) < page[26]:
            return True
        end = _OGG_HEADER + page[26] + sum(lacing)
        if page[4] == 0 and len(page) >= end:
            return not page[5] & _OGG_LAST
        if page[4] == 0 and not page[5] & ~7:
            return True
        at = tail.rfind(b"OggS", 0, at)  # the letters stood inside the packed sound
    return False
