"""Labelled items for probes: a folder with a sub-folder for each class, or procedural pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from eval.contestant import Signal
from eval.item_list import ItemList
from eval.picture_sets import OriginalSet
from eval.protocol import Protocol
from tok_core.errors import ConfigError
from tok_core.procedural_images import VERSION, ProceduralClasses

PROCEDURAL = "procedural"  # what --data says for the set that needs no files
PROCEDURAL_COUNT = 1200
PROCEDURAL_SIDE = 64  # for networks that take any size


@dataclass(frozen=True, eq=False)
class LabelledSet:
    """Items with their classes; yields lists of `Signal`, as `eval.loop` wants them.

    Attributes:
        labels: int64 (N,), an index into ``classes`` each. classes: names.
        source: the items without labels. protocol: of the run. sha256: of the items.
    """

    labels: Tensor
    classes: tuple[str, ...]
    source: OriginalSet | ProceduralSet
    protocol: Protocol
    sha256: str

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, places: range, size: int) -> Iterator[tuple[list[int], list[Signal]]]:
        """Yield indices and signals of these places."""
        yield from self.source.batches(places, size)


@dataclass(frozen=True)
class ProceduralSet:
    """The labelled procedural pictures. side: in pixels. count: N. seed: of the set."""

    side: int
    count: int
    seed: int = 0

    def __len__(self) -> int:
        return self.count

    @cached_property
    def _painter(self) -> ProceduralClasses:
        return ProceduralClasses(self.side, self.seed)

    def labels(self) -> Tensor:
        """Return int64 (N,)."""
        return torch.tensor([self._painter.label(i) for i in range(self.count)])

    def batches(self, places: range, size: int) -> Iterator[tuple[list[int], list[Signal]]]:
        """Yield indices and pictures."""
        for start in range(0, len(places), size):
            part = list(places[start : start + size])
            yield part, [self._signal(i) for i in part]

    def _signal(self, index: int) -> Signal:
        pixels = torch.from_numpy(self._painter.pixels(index)[0]).permute(2, 0, 1)
        return Signal(pixels.contiguous(), f"{index}", index)


def procedural_set(side: int, count: int | None, seed: int) -> LabelledSet:
    """Return the twelve procedural shapes and textures as a labelled set.

    Args:
        side: of the pictures in pixels. count: how many, None for 1200. seed: of the set.
    """
    source = ProceduralSet(side, count or PROCEDURAL_COUNT, seed)
    protocol = Protocol(
        name=f"procedural classes, {side} pixels", sense="image", split=f"version {VERSION}",
        samples=len(source), size=side, source="tok_core.procedural_classes: endless, by index",
    )
    return LabelledSet(
        source.labels(), ProceduralClasses.class_names, source, protocol,
        f"procedural classes, version {VERSION}, seed {seed}, {len(source)} of side {side}",
    )  # fmt: skip


def folder_set(items: ItemList, protocol: Protocol) -> LabelledSet:
    """Return the items of a folder, the class of each told by the sub-folder it lies in.

    Raises:
        ConfigError: items beside the sub-folders, one class only, or a class with one item.

    Example:
        >>> folder_set(list_items("animals", "image"), protocol).classes  # doctest: +SKIP
        ('cat', 'dog')
    """
    loose = [item.name for item in items.items if "/" not in item.name]
    if loose:
        raise ConfigError(
            f"{len(loose)} files lie beside the sub-folders of '{items.folder}' ({loose[0]}...); a "
            "labelled folder holds one sub-folder for each class and the files inside them."
        )
    names = [item.name.split("/")[0] for item in items.items]
    classes = tuple(sorted(set(names)))
    if len(classes) < 2:
        raise ConfigError(
            f"'{items.folder}' holds one class ('{classes[0]}'); a classifier tells at least two "
            "apart: give a folder with a sub-folder for each class."
        )
    for name in classes:
        if names.count(name) < 2:
            raise ConfigError(
                f"class '{name}' of '{items.folder}' has one item; a probe trains on one and tests "
                "on another: give each class at least two."
            )
    labels = torch.tensor([classes.index(name) for name in names])
    return LabelledSet(labels, classes, OriginalSet(items, protocol), protocol, items.sha256)
