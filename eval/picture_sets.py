"""Sets of items for `eval.loop`: the originals of a folder, or pictures of an ``.npz`` file.

Letters: B pictures of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eval.contestant import Signal
from eval.item_list import ItemList, bad_items_error, list_items
from eval.originals import read_original
from eval.protocol import Protocol
from eval.reference_statistics import ReferenceStatistics
from tok_core.errors import MediaError


class OriginalSet:
    """Originals of a folder as the protocol wants them; yields lists of `Signal`.

    Args:
        items: that can be read. protocol: of the run.
    """

    def __init__(self, items: ItemList, protocol: Protocol) -> None:
        self.items, self.protocol = items, protocol

    def __len__(self) -> int:
        return len(self.items)

    def batches(self, places: range, size: int) -> Iterator[tuple[list[int], Any]]:
        """Yield indices and signals."""
        for start in range(0, len(places), size):
            part = list(places[start : start + size])
            yield part, [read_original(self.items.items[i], i, self.protocol) for i in part]


class PictureSet:
    """Pictures of a folder, or the ``arr_0`` of an ``.npz``; yields lists of uint8 (3, H, W).

    Args:
        source: folder or file. protocol: whose crop and size folders go through.

    Attributes:
        sha256: of names and contents. statistics: of an ``.npz``, None for a folder.

    Raises:
        MediaError: nothing there, damaged pictures (unless ``skip_bad``), a file without pictures.
    """

    def __init__(self, source: str | Path, protocol: Protocol, *, skip_bad: bool = False) -> None:
        self.source, self.protocol = Path(source).expanduser(), protocol
        self.warnings: tuple[str, ...] = ()
        self.statistics: ReferenceStatistics | None = None
        if self.source.suffix == ".npz":
            self.statistics, self.count, self.sha256 = _pictures_of(self.source)
            return
        from eval.preflight import without_bad
        from eval.run import damaged

        items = list_items(self.source, "image")
        bad = damaged(items.items, protocol)
        if bad and not skip_bad:
            raise bad_items_error(bad, len(items))
        if bad:
            items, sentence = without_bad(items, bad)
            self.warnings = (sentence,)
        self.items, self.count, self.sha256 = items, len(items), items.sha256

    def __len__(self) -> int:
        return self.count

    def batches(self, places: range, size: int) -> Iterator[tuple[list[int], Any]]:
        """Yield indices and pictures uint8 (3, H, W)."""
        if self.statistics is None:
            for part, signals in OriginalSet(self.items, self.protocol).batches(places, size):
                yield part, [signal.values for signal in signals]
            return
        # The archive is read from its beginning; what an earlier run or another process took is
        # passed over.
        at = 0
        waiting: list[tuple[int, Tensor]] = []
        for batch in self.statistics.images(size):
            for picture in batch:
                if at in places:
                    waiting.append((at, picture))
                at += 1
            while len(waiting) >= size:
                ready, waiting = waiting[:size], waiting[size:]
                yield [i for i, _ in ready], [picture for _, picture in ready]
            if len(places) and at > places[-1]:
                break
        if waiting:
            yield [i for i, _ in waiting], [picture for _, picture in waiting]


def by_shape(pictures: list[Tensor]) -> Iterator[Tensor]:
    """Yield uint8 (B, 3, H, W), pictures of equal size together."""
    from eval.contestant import grouped

    for _, part in grouped(pictures, lambda one: one.shape, max(1, len(pictures))):
        yield torch.stack(part)


def stacked(signals: list[Signal]) -> Tensor:
    """Return float (B, 3, H, W) in [-1, 1]; MediaError where sizes differ."""
    shapes = {signal.values.shape for signal in signals}
    if len(shapes) > 1:
        raise MediaError(
            "the pictures differ in size here; give --size and a --crop that make them equal."
        )
    return torch.stack([signal.unit for signal in signals])


def _pictures_of(path: Path) -> tuple[ReferenceStatistics, int, str]:
    """Return an ``.npz`` with pictures: with statistics, or as samplers write them, arr_0 alone."""
    import zipfile

    from eval.reference_statistics import read_statistics

    try:
        statistics = read_statistics(path)
    except MediaError:
        with zipfile.ZipFile(path) if zipfile.is_zipfile(path) else _refused(path) as archive:
            if "arr_0.npy" not in archive.namelist() or "mu.npy" in archive.namelist():
                raise
        statistics = _bare(path)
    if statistics.pictures is None:
        raise MediaError(
            f"{path} holds no pictures (arr_0) but statistics alone; give it as --reference, and "
            "pictures as --samples."
        )
    return statistics, statistics.pictures[0], statistics.sha256


def _refused(path: Path) -> Any:
    raise MediaError(f"{path} cannot be read as an .npz file; give a folder or an .npz.")


def _bare(path: Path) -> ReferenceStatistics:
    """Return the pictures of an ``.npz`` without statistics."""
    import hashlib
    import zipfile

    from eval.moments import Moments
    from eval.reference_statistics import array_header

    with zipfile.ZipFile(path) as archive, archive.open("arr_0.npy") as member:
        shape, kind = array_header(member)
    if len(shape) != 4 or shape[-1] != 3 or kind.str != "|u1":
        raise MediaError(
            f"{path}: arr_0 has shape {tuple(shape)} and type {kind}; legal are pictures "
            "(N, H, W, 3) of 8 bits."
        )
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    empty = Moments(torch.zeros(0), torch.zeros(0, 0), None)
    return ReferenceStatistics(
        features=empty, path=path, sha256=digest, pictures=(shape[0], shape[1], shape[2], 3)
    )
