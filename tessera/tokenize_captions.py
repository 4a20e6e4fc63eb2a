"""The caption features that lie beside what is tokenized: NAME.npy beside NAME.jpg or NAME.wav.

In a tar shard it is the member of the same key, as webdataset pairs them.
"""

from __future__ import annotations

import os
from pathlib import Path

from tessera.tokenize_signals import member_bytes
from tessera.tokenize_sources import Source
from tok_core.caption_features import MOST_BYTES, SUFFIX, read_features
from tok_core.errors import MediaError


def caption_bytes(source: Source) -> bytes:
    """Return the ``.npy`` file of a source's caption, read and found whole.

    Raises:
        MediaError: there is none, or it holds no caption features.
    """
    if source.offset is None:
        path = Path(os.path.splitext(source.path)[0] + SUFFIX)
        name = str(path)
        try:
            if path.stat().st_size > MOST_BYTES:
                raise MediaError(f"{name} is larger than {MOST_BYTES} bytes, which is no caption")
            data = path.read_bytes()
        except OSError as error:
            raise MediaError(
                f"{source} has no caption features beside it ({name}: {error.strerror}); write "
                "them with numpy.save, or leave --captions out"
            ) from None
    else:
        name = f"{source} ({SUFFIX})"
        if source.caption is None:
            raise MediaError(
                f"{source} has no {SUFFIX} member of its key; add the caption's features, or leave "
                "--captions out"
            )
        offset, size = source.caption
        if size > MOST_BYTES:
            raise MediaError(f"{name} is larger than {MOST_BYTES} bytes, which is no caption")
        data = member_bytes(source._replace(offset=offset, size=size))
    read_features(data, name)
    return data
