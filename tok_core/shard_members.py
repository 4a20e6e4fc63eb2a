"""The members of a token shard: KEY.tok, and behind it KEY.cls, KEY.npy and KEY.short.npy.

    | header 512 | .tok, filled up to 512 | header 512 | label, filled up to 512 |   one sample

KEY.npy holds the features of the sample's caption (`tok_core.caption_features`), KEY.short.npy
those of a short one; all but KEY.tok are there where the sample has such.

Headers say nothing but name and size (no time, no owner), so that equal samples give equal bytes.
Members are whole blocks: a shard is its samples one after the other and two empty blocks.

Source: the POSIX ustar format; webdataset's rule that the members of one sample share everything up
to the first dot of the name.
"""

from __future__ import annotations

import tarfile
from typing import NamedTuple

from tok_core.caption_features import SHORT_SUFFIX, SUFFIX
from tok_core.token_file import TokenFile, dumps

BLOCK = tarfile.BLOCKSIZE
NO_LABEL = NO_CAPTION = -1  # in the index


class Sample(NamedTuple):
    """One sample of a shard: unique key, tokens (views first where there are several), label.

    ``caption`` is the ``.npy`` file of its caption's features, ``short_caption`` that of a short
    caption's, or None.
    """

    key: str
    file: TokenFile
    label: int | None = None
    caption: bytes | None = None
    short_caption: bytes | None = None


class PackedSamples(NamedTuple):
    """Samples as they stand in a tar file, with the places of their members in ``data``.

    Those of captions are -1 where a sample has none.
    """

    data: bytes
    offsets: list[int]
    sizes: list[int]
    labels: list[int]
    caption_offsets: list[int]
    caption_sizes: list[int]
    short_caption_offsets: list[int]
    short_caption_sizes: list[int]


def pack_samples(samples: list[Sample]) -> PackedSamples:
    """Return the tar members of samples, without an end mark.

    Raises:
        TokenError: tokens that cannot be stored.
    """
    data = bytearray()
    offsets, sizes, labels = [], [], []
    places: tuple[list[int], ...] = ([], [], [], [])  # of captions and short ones
    for key, file, label, *captions in samples:
        tokens = dumps(file)
        data += _header(f"{key}.tok", len(tokens))
        offsets.append(len(data))
        sizes.append(len(tokens))
        labels.append(NO_LABEL if label is None else label)
        data += _filled(tokens)
        if label is not None:
            text = str(label).encode()
            data += _header(f"{key}.cls", len(text)) + _filled(text)
        kinds = zip((SUFFIX, SHORT_SUFFIX), captions, (places[:2], places[2:]), strict=True)
        for suffix, caption, (starts, lengths) in kinds:
            if caption is not None:
                data += _header(f"{key}{suffix}", len(caption))
            starts.append(NO_CAPTION if caption is None else len(data))
            lengths.append(NO_CAPTION if caption is None else len(caption))
            data += _filled(caption or b"")
    return PackedSamples(bytes(data), offsets, sizes, labels, *places)


def end_mark(size: int) -> bytes:
    """Return what ends a tar file of ``size`` bytes: two empty blocks, filled to a record.

    Example:
        >>> len(end_mark(2048))
        8192
    """
    return bytes(2 * BLOCK + -(size + 2 * BLOCK) % tarfile.RECORDSIZE)


class Keys:
    """Gives each file of one folder a key of its own that holds no dot.

    Example:
        >>> keys = Keys()
        >>> keys.of("cat.v1.jpg"), keys.of("cat_v1.jpg"), keys.of("cat_v1.png")
        ('cat_v1', 'cat_v1_jpg', 'cat_v1_png')
    """

    def __init__(self) -> None:
        self._used: set[str] = set()

    def of(self, name: str) -> str:
        """Return the key of a file name: its stem, with the extension where that is taken."""
        stem, _, extension = name.rpartition(".")
        key = plain = (stem or extension).replace(".", "_")
        number = 1
        while key in self._used:
            key = f"{plain}_{extension}" if number == 1 else f"{plain}_{extension}_{number}"
            number += 1
        self._used.add(key)
        return key


def _header(name: str, size: int) -> bytes:
    entry = tarfile.TarInfo(name)  # mode 644, time 0, nobody's
    entry.size = size
    return entry.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def _filled(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)
