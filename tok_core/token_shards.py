"""Token shards: tar files of tokens with one index, read at random without unpacking.

    sample number --index--> shard, place, size --one read--> .tok bytes --> codes (*axes), label

A member is a ``.tok`` file and checks itself; what is damaged is a `MediaError` with its name, so
that a training loop can pass over it.  Only the index is held in memory, about 24 bytes a sample.

Letters: h w grid, D dimensions, P branches, N tokens, Q levels, T frames, V views.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from tok_core.caption_features import MOST_BYTES, SHORT_SUFFIX, SUFFIX, read_features
from tok_core.errors import MediaError, TokenError
from tok_core.position_hash import position_hash
from tok_core.shard_index import ShardIndex, ShardRecord, read_index
from tok_core.shard_members import BLOCK
from tok_core.token_file import TokenFile, loads
from tok_core.token_spec import FACTOR_AXES, TokenSpec

if TYPE_CHECKING:
    from tok_core.contract import Tokenizer

_OPEN_FILES = 64  # shards held open at once; a system allows a process about a thousand files
_COPIED = 1 << 20  # bytes read at once for a checksum


class TokenShards:
    """The samples of a folder of token shards by number.

    Args:
        folder: what ``tessera tokenize`` wrote.

    Attributes:
        folder: where they lie.
        index: everything that ``index.json`` says.

    Raises:
        TokenError: no index there, or a damaged one.  Shards are opened when a sample is read.

    Example:
        >>> shards = TokenShards("tokens/train")                # doctest: +SKIP
        >>> shards.check_code_hash(tokenizer)                   # doctest: +SKIP
        >>> codes, label = shards.item(0)                       # doctest: +SKIP
        >>> tokenizer.decode(codes[None]).shape                 # doctest: +SKIP
        torch.Size([1, 3, 256, 256])
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.index: ShardIndex = read_index(folder)
        counts = [shard.samples for shard in self.index.shards]
        self._first = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        self._open: OrderedDict[int, BinaryIO] = OrderedDict()
        self._lock = threading.Lock()
        entries = self.spec.vocabulary
        self._vocabulary: Sequence[int] = entries[:1] if len(set(entries)) == 1 else entries

    def __reduce__(self) -> tuple[Any, ...]:
        """A data loader's worker opens the folder anew."""
        return TokenShards, (self.folder,)

    # -- what they are -------------------------------------------------------------------------

    @property
    def length(self) -> int:
        """Number of samples."""
        return int(self._first[-1])

    def __len__(self) -> int:
        return self.length

    @property
    def spec(self) -> TokenSpec:
        """What the codes look like."""
        return self.index.head.spec

    @property
    def code_hash(self) -> str:
        """Code hash of the tokenizer that made them, 64 hex digits."""
        return self.index.head.code_hash

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Name of each label, where the names are known."""
        return self.index.head.class_names

    @property
    def views(self) -> tuple[str, ...]:
        """Names of the V views that each sample holds; one for most folders."""
        return self.index.head.views

    @property
    def num_classes(self) -> int:
        """Number of classes: the names there are, else the highest label and one; 0 for none."""
        if self.class_names is not None:
            return len(self.class_names)
        return max((int(s.labels.max()) + 1 for s in self.index.shards if s.samples), default=0)

    def check_code_hash(self, tokenizer: Tokenizer | str) -> None:
        """Refuse a tokenizer whose codes mean something else.

        Args:
            tokenizer: the one that shall decode, or its code hash.  Training a decoder alone keeps
                the code hash, so a decoder-only fine-tune is accepted.

        Raises:
            TokenError: the code hash differs.
        """
        code_hash = tokenizer if isinstance(tokenizer, str) else tokenizer.code_hash()
        if code_hash != self.code_hash:
            model = self.index.head.facts.get("model")
            made = f" (model '{model}')" if model else ""
            raise TokenError(
                f"the shards in '{self.folder}' were made by a tokenizer with code hash "
                f"{self.code_hash[:12]}...{made} but the given one has {code_hash[:12]}...: give "
                "the one that made them, or tokenize the data again"
            )

    # -- samples -------------------------------------------------------------------------------

    def label(self, index: int) -> int | None:
        """Return the class of a sample, or None; reads nothing."""
        shard, place = self._place(index)
        label = int(self.index.shards[shard].labels[place])
        return None if label < 0 else label

    def item(self, index: int, *, view: int = 0) -> tuple[Tensor, int | None]:
        """Return one sample.

        Args:
            index: 0 to ``length`` - 1.
            view: which of the sample's views, 0 to V - 1; see `draw_view`.

        Returns:
            codes int64 in the spec's layout without the batch, (N,), (h, w), (P, N), (Q, T)...,
            and the label or None.

        Raises:
            MediaError: shard or member is missing, cut off or damaged; names both.
            IndexError: no such sample or view.
        """
        if not 0 <= view < len(self.views):
            raise IndexError(f"view {view} of {len(self.views)}")
        file = self.token_file(index)
        codes = file.codes[view] if len(self.views) > 1 else file.codes
        return torch.from_numpy(_in_spec_order(codes, self.spec)), self.label(index)

    @property
    def captioned(self) -> bool:
        """Whether some sample has features of a caption."""
        return any((shard.caption_offsets >= 0).any() for shard in self.index.shards)

    @property
    def short_captioned(self) -> bool:
        """Whether some sample has features of a short caption."""
        return any((shard.short_caption_offsets >= 0).any() for shard in self.index.shards)

    def caption(self, index: int, *, short: bool = False) -> Tensor | None:
        """Return the features of a sample's caption, float32 (n, C), or None.

        Args:
            index: 0 to ``length`` - 1.
            short: of its short caption; None where the sample has none, whatever else it has.

        Raises:
            MediaError: shard or member is missing, cut off or damaged; names both.
        """
        shard, place = self._place(index)
        record = self.index.shards[shard]
        offsets, sizes, suffix = record.caption_offsets, record.caption_sizes, SUFFIX
        if short:
            offsets, sizes = record.short_caption_offsets, record.short_caption_sizes
            suffix = SHORT_SUFFIX
        if not len(offsets) or offsets[place] < 0:
            return None
        start, size = int(offsets[place]), int(sizes[place])
        name = self.name(index).removesuffix(".tok") + suffix
        if size > MOST_BYTES:
            raise MediaError(f"{name} has {size} bytes; captions of up to {MOST_BYTES} are read")
        return torch.from_numpy(read_features(self._read(shard, start, size), name))

    def token_file(self, index: int) -> TokenFile:
        """Return everything that is stored of one sample: codes of all views, extent, rate.

        Raises:
            MediaError: as `item`.
        """
        shard, place = self._place(index)
        record = self.index.shards[shard]
        data = self._read(shard, int(record.offsets[place]), int(record.sizes[place]))
        try:
            file = loads(
                data, expect_code_hash=self.code_hash, vocabulary=self._of_member()
            )
            self._check_shape(file)
        except TokenError as error:
            raise MediaError(f"{self.name(index)}: {error}") from None
        return file

    def draw_view(self, seed: int, position: int) -> int:
        """Return the view of one access: a pure function, uniform over V.

        Args:
            seed: of the training run. position: counts every sample that the run has seen.
        """
        return position_hash("view", seed, position) % len(self.views)

    def name(self, index: int) -> str:
        """Return "folder/shard.tar/key.tok" of a sample for reports, as far as it can be read."""
        shard, place = self._place(index)
        record = self.index.shards[shard]
        path = self.folder / record.file
        try:
            header = self._read(shard, int(record.offsets[place]) - BLOCK, BLOCK)
            entry = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
            return f"{path}/{entry.name}"
        except (MediaError, tarfile.TarError):
            return f"{path}, sample {place}"

    def verify(self) -> Iterator[str]:
        """Yield one sentence for each shard that is missing or changed; reads them all."""
        for record in self.index.shards:
            path = self.folder / record.file
            digest = hashlib.sha256()
            try:
                with open(path, "rb") as file:
                    while block := file.read(_COPIED):
                        digest.update(block)
            except OSError as error:
                yield f"{path} cannot be read ({error.strerror}); copy it again"
                continue
            if digest.hexdigest() != record.sha256:
                yield f"{path} is damaged, its checksum does not fit; copy it again"

    # -- parts ---------------------------------------------------------------------------------

    def _place(self, index: int) -> tuple[int, int]:
        """Return shard and number within it."""
        if not 0 <= index < self.length:
            raise IndexError(f"sample {index} of {self.length}")
        shard = int(np.searchsorted(self._first, index, side="right")) - 1
        return shard, index - int(self._first[shard])

    def _of_member(self) -> Sequence[int]:
        # Sound puts its levels first, so that only the largest table can bound all its codes.
        if self.spec.modality == "audio":
            return (max(self._vocabulary),)
        return self._vocabulary

    def _check_shape(self, file: TokenFile) -> None:
        shape = file.codes.shape
        if len(self.views) > 1:
            if shape[0] != len(self.views):
                raise TokenError(f"it holds {shape[0]} views instead of {len(self.views)}")
            shape = shape[1:]
        order = _stored_order(self.spec)
        axes = [self.spec.axes[i] for i in order]
        fits = len(shape) == len(axes) and all(
            axis.minimum <= n <= (n if axis.size is None else axis.size)
            for axis, n in zip(axes, shape, strict=True)
        )
        if not fits or file.lengths is not None:
            names = ", ".join(axis.name for axis in axes)
            raise TokenError(f"codes of shape {tuple(shape)} do not fit its tokenizer ({names})")

    def _read(self, shard: int, offset: int, size: int) -> bytes:
        record = self.index.shards[shard]
        path = self.folder / record.file
        try:
            file = self._file(shard, record)  # held while it is read: see `_file`
            data = os.pread(file.fileno(), size, offset)
        except OSError as error:
            raise MediaError(
                f"{path} cannot be read ({error.strerror}); copy the shard again"
            ) from None
        if len(data) != size:
            raise MediaError(
                f"{path} is cut off: sample at byte {offset} needs {size} bytes, {len(data)} are "
                "there; copy the shard again"
            )
        return data

    def _file(self, shard: int, record: ShardRecord) -> BinaryIO:
        # Reads name their place, so that threads and forked workers can share an open file.
        with self._lock:
            file = self._open.pop(shard, None) or open(self.folder / record.file, "rb")  # noqa: SIM115
            self._open[shard] = file
            if len(self._open) > _OPEN_FILES:
                # It closes when the last thread that still reads from it lets go.
                self._open.popitem(last=False)
            return file


def _stored_order(spec: TokenSpec) -> list[int]:
    """Return the order of the spec's axes in a ``.tok`` file: pictures put their factors last."""
    axes = range(len(spec.axes))
    if spec.modality == "audio":
        return list(axes)
    return sorted(axes, key=lambda i: spec.axes[i].name in FACTOR_AXES)


def _in_spec_order(codes: np.ndarray, spec: TokenSpec) -> np.ndarray:
    order = _stored_order(spec)
    if order == sorted(order):
        return np.ascontiguousarray(codes)
    return np.ascontiguousarray(codes.transpose([order.index(i) for i in range(len(order))]))


def stored_codes(codes: Tensor, spec: TokenSpec) -> np.ndarray:
    """Return codes (B, *axes) as ``.tok`` files hold them: pictures put their factors last.

    Example:
        >>> stored_codes(codes, spec).shape  # two branches of 30 tokens  # doctest: +SKIP
        (4, 30, 2)
    """
    order = [0, *(i + 1 for i in _stored_order(spec))]
    return np.ascontiguousarray(codes.cpu().numpy().transpose(order))

