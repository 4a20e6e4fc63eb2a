"""The index of a folder of token shards: whose tokens they are, and where every sample lies.

    index.json = head (spec, code hash, classes, views) + per shard: file, checksum, three columns

The columns (place, size and label of every sample) are packed numbers, 24 bytes a sample before
they are compressed, so that the index of a million samples stays small on disk and in memory.

Letters: n samples of one shard.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tok_core.errors import TokenError
from tok_core.token_spec import TokenSpec

INDEX = "index.json"
UNFINISHED = "unfinished"  # folder of a run's parts inside the folder of its shards
FORMAT = "tessera token shards"
VERSION = 1
MAX_SAMPLES = 1 << 28  # of one shard
_COLUMNS = ("offsets", "sizes", "labels")
# Places of captions and of short ones, each there where some sample of the shard has one.
_CAPTIONS = (
    ("caption_offsets", "caption_sizes"), ("short_caption_offsets", "short_caption_sizes")
)  # fmt: skip
_HASH_DIGITS = 64
_NO_COLUMN = np.zeros(0, np.int64)


@dataclass(frozen=True, kw_only=True, eq=False)
class ShardRecord:
    """One shard and where its samples lie.

    Attributes:
        file: name of the tar file in the index's folder.
        bytes: of the whole file. sha256: over the whole file, 64 hex digits.
        offsets: int64 (n,), first byte of each sample's ``.tok`` member.
        sizes: int64 (n,), bytes of the member.
        labels: int64 (n,), class of the sample, -1 where it has none.
        caption_offsets, caption_sizes: alike, of its caption's features, -1 where it has none;
            empty where no sample has any.
        short_caption_offsets, short_caption_sizes: alike, of its short caption's features.
    """

    file: str
    bytes: int
    sha256: str
    offsets: np.ndarray = field(default_factory=lambda: _NO_COLUMN)
    sizes: np.ndarray = field(default_factory=lambda: _NO_COLUMN)
    labels: np.ndarray = field(default_factory=lambda: _NO_COLUMN)
    caption_offsets: np.ndarray = field(default_factory=lambda: _NO_COLUMN)
    caption_sizes: np.ndarray = field(default_factory=lambda: _NO_COLUMN)
    short_caption_offsets: np.ndarray = field(default_factory=lambda: _NO_COLUMN)
    short_caption_sizes: np.ndarray = field(default_factory=lambda: _NO_COLUMN)

    @property
    def samples(self) -> int:
        """Number of samples, n."""
        return len(self.offsets)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, the columns packed."""
        facts: dict[str, Any] = {
            "file": self.file, "samples": self.samples, "bytes": self.bytes, "sha256": self.sha256,
        }  # fmt: skip
        named = list(_COLUMNS)
        for columns in _CAPTIONS:
            if (getattr(self, columns[0]) >= 0).any():
                named += columns
        return facts | {name: pack_column(getattr(self, name)) for name in named}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> ShardRecord:
        """Read what `to_json` wrote.

        Raises:
            ValueError, KeyError, TypeError: it is not that.
        """
        file, samples, size = plain["file"], plain["samples"], plain["bytes"]
        # The name comes from a file that anyone may have written: it must not leave the folder.
        if Path(file).name != file or file.startswith("."):
            raise ValueError(f"'{file}' is no plain file name")
        if not isinstance(samples, int) or not isinstance(size, int):
            raise ValueError(f"'{file}' has {samples!r} samples and {size!r} bytes")
        if not 0 <= samples <= MAX_SAMPLES:
            raise ValueError(f"{samples} samples in one shard")
        held = [pair for pair in _CAPTIONS if pair[0] in plain]
        named = [*_COLUMNS, *(name for pair in held for name in pair)]
        columns = {name: unpack_column(plain[name], samples) for name in named}
        offsets, sizes = columns["offsets"], columns["sizes"]
        # The end is compared without a sum, which could overflow.
        if samples and (min(offsets.min(), sizes.min()) < 0 or (sizes > size - offsets).any()):
            raise ValueError(f"samples of '{file}' lie outside its {size} bytes")
        for pair in held:
            starts, lengths = (columns[name] for name in pair)
            none = (starts == -1) & (lengths == -1)
            inside = (starts >= 0) & (lengths >= 0) & (lengths <= size - starts)
            if not (none | inside).all():
                raise ValueError(f"captions of '{file}' lie outside its {size} bytes")
        return cls(file=file, bytes=size, sha256=str(plain["sha256"]), **columns)


@dataclass(frozen=True, kw_only=True, eq=False)
class ShardHead:
    """What all samples of a folder have in common.

    Attributes:
        spec: of the tokenizer.
        code_hash: of the tokenizer, 64 hex digits; whoever reads the tokens must have the same.
        weights_hash: of the model that was used, decoder included; only for the record.
        class_names: name of each label, or None.
        views: names of the views that each sample holds; a single one adds no axis to the codes.
        facts: whatever else shall stand in the index (model, recipe).
    """

    spec: TokenSpec
    code_hash: str
    weights_hash: str | None = None
    class_names: tuple[str, ...] | None = None
    views: tuple[str, ...] = ("whole",)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        legal = set("0123456789abcdef")
        if len(self.code_hash) != _HASH_DIGITS or set(self.code_hash) - legal:
            raise TokenError(
                f"code hash '{self.code_hash}' is not legal for shards: give all {_HASH_DIGITS} hex"
                " digits, as tokenizer.code_hash() returns them"
            )
        if not self.views:
            raise TokenError("shards need at least one view per sample: give its name")

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "code_hash": self.code_hash, "weights_hash": self.weights_hash,
            "spec": json.loads(self.spec.to_json()),
            "class_names": None if self.class_names is None else list(self.class_names),
            "views": list(self.views), "facts": dict(self.facts),
        }  # fmt: skip

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> ShardHead:
        """Read what `to_json` wrote.

        Raises:
            ValueError, KeyError, TypeError: it is not that.
        """
        names = plain["class_names"]
        return cls(
            spec=TokenSpec.from_json(json.dumps(plain["spec"])), code_hash=plain["code_hash"],
            weights_hash=plain["weights_hash"], class_names=None if names is None else tuple(names),
            views=tuple(plain["views"]), facts=dict(plain["facts"]),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class ShardIndex:
    """The whole index.

    Attributes:
        head: what all samples have in common.
        shards: in order; sample numbers count through them.
        skipped: what could not be tokenized, ``{"source": ..., "error": ...}`` each.
    """

    head: ShardHead
    shards: tuple[ShardRecord, ...]
    skipped: Sequence[Mapping[str, str]] = ()

    def dumps(self) -> bytes:
        """Return the bytes of ``index.json``; equal indexes give equal bytes."""
        plain = {
            "format": FORMAT, "version": VERSION, **self.head.to_json(),
            "samples": sum(shard.samples for shard in self.shards),
            "skipped": [dict(item) for item in self.skipped],
            "shards": [shard.to_json() for shard in self.shards],
        }  # fmt: skip
        return json.dumps(plain, indent=1).encode()


def read_index(folder: str | Path) -> ShardIndex:
    """Read the index of a folder of shards; the shards themselves are not touched.

    Raises:
        TokenError: no index there, an unfinished run, or an index that is damaged or of another
            version.
    """
    path = Path(folder) / INDEX
    try:
        plain = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise TokenError(_missing(Path(folder))) from None
    except (OSError, ValueError, RecursionError) as error:
        raise TokenError(
            f"{path} cannot be read as JSON ({error}); tokenize the data again"
        ) from None
    if not isinstance(plain, dict) or plain.get("format") != FORMAT:
        raise TokenError(f"{path} is no index of token shards; give a folder that 'tessera "
                         "tokenize' wrote")
    if plain.get("version") != VERSION:
        raise TokenError(f"{path} has version {plain.get('version')}, this program reads {VERSION};"
                         " update it or tokenize the data again")
    try:
        shards = tuple(ShardRecord.from_json(shard) for shard in plain["shards"])
        return ShardIndex(
            head=ShardHead.from_json(plain), shards=shards, skipped=tuple(plain["skipped"])
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise TokenError(f"{path} is damaged ({error}); tokenize the data again") from None


def pack_column(numbers: np.ndarray | Sequence[int]) -> str:
    """Return numbers as base64 of zlib of little-endian int64.

    Example:
        >>> unpack_column(pack_column([3, 1, -1]), 3).tolist()
        [3, 1, -1]
    """
    data = np.asarray(numbers, dtype="<i8").tobytes()
    return base64.b64encode(zlib.compress(data, 6)).decode()


def unpack_column(text: str, count: int) -> np.ndarray:
    """Return int64 (count,), the inverse of `pack_column`.

    Raises:
        ValueError: it is no such column, or of another length (found before memory is taken).
    """
    size = 8 * count
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b64decode(text, validate=True), size + 1)
    except (zlib.error, binascii.Error, TypeError) as error:
        raise ValueError(f"a column is damaged: {error}") from None
    if len(data) != size or not unpacker.eof:
        raise ValueError(f"a column holds another number of entries than {count}")
    return np.frombuffer(data, dtype="<i8").astype(np.int64)


def _missing(folder: Path) -> str:
    if not folder.is_dir():
        return f"there is no folder '{folder}'; give one that 'tessera tokenize' wrote"
    if (folder / UNFINISHED).is_dir():
        return f"the shards in '{folder}' are not finished; run 'tessera tokenize' with --resume"
    return f"'{folder}' holds no {INDEX}; give a folder that 'tessera tokenize' wrote"
