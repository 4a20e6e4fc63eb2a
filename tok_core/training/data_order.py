"""Which sample comes at which position: a pure function of (seed, position).

    position (counts every sample of the run, over all processes)
        --> epoch, rank --shuffle--> index --source.item--> sample

So a resumed run, a run with more loader workers, and one process on the joined batch all see the
same samples in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch.utils.data import DataLoader, Dataset

from tok_core.errors import MediaError
from tok_core.position_hash import position_hash

ATTEMPTS = 32  # replacements tried for one unreadable sample before the data is called broken
ATTEMPT_BITS = 48


class Source(Protocol):
    """Where samples come from: ``item(index)`` is a pure function of its index.

    ``length`` is the number of distinct samples, or None when the source is endless.
    """

    @property
    def length(self) -> int | None:
        """Number of samples; None = endless."""

    def item(self, index: int) -> Any:
        """Return one sample, or raise MediaError when its file cannot be read."""


class Batch(NamedTuple):
    """Samples of one forward pass, and what was unreadable on the way.

    Attributes:
        samples: (B, ...) float, or a named tuple of tensors where a sample is one.
        skipped: one sentence per unreadable sample that was replaced by another.
    """

    samples: Any
    skipped: list[str]


def shuffled(position: int, length: int, seed: int) -> int:
    """Index at ``position``: each epoch of ``length`` positions is its own permutation.

    A four-round Feistel network over the next even number of bits, walked until it lands inside
    (format-preserving encryption); needs no memory, whatever the length.

    Example:
        >>> sorted(shuffled(p, 5, seed=1) for p in range(5))
        [0, 1, 2, 3, 4]
    """
    epoch, index = divmod(position, length)
    half = max(1, (max(1, length - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for turn in range(4):
            left, right = right, left ^ (position_hash(seed, epoch, turn, right) & mask)
        index = (left << half) | right
        if index < length:
            return index


class OrderedSamples(Dataset[tuple[Any, list[str]]]):
    """A source seen by position; unreadable samples are replaced, never repeated forever."""

    def __init__(self, source: Source, seed: int) -> None:
        self.source = source
        self.seed = seed

    def __getitem__(self, position: int) -> tuple[Any, list[str]]:
        skipped: list[str] = []
        length = self.source.length
        for attempt in range(ATTEMPTS):
            if length is None:
                index = position + (attempt << ATTEMPT_BITS)  # endless sources never come this far
            else:
                index = (shuffled(position, length, self.seed) + attempt) % length
            try:
                return self.source.item(index), skipped
            except MediaError as error:
                skipped.append(str(error))
        return None, skipped


def _collate(items: list[tuple[Any, list[str]]]) -> Batch | MediaError:
    skipped = [sentence for _, sentences in items for sentence in sentences]
    if any(sample is None for sample, _ in items):
        return MediaError(
            f"{ATTEMPTS} samples in a row cannot be read, the first: {skipped[0]}; "
            "check the data folder"
        )
    return Batch(stacked([sample for sample, _ in items]), skipped)


def endless_index(position: int, length: int, seed: int) -> int:
    """Return which of ``length`` samples an endless source shows at a position.

    For sources that draw something anew at every position (a crop, a view): they say that they are
    endless, and positions of further attempts at an unreadable sample lie 2**48 apart.
    """
    attempt, position = divmod(position, 1 << ATTEMPT_BITS)
    return (shuffled(position, length, seed) + attempt) % length


def stacked(samples: Sequence[Any]) -> Any:
    """Stack tensors to (B, ...), field by field where a sample is a named tuple."""
    if isinstance(samples[0], tuple):
        return type(samples[0])(*(stacked(list(field)) for field in zip(*samples, strict=True)))
    return torch.stack([torch.as_tensor(sample) for sample in samples])


def positions(
    start: int, *, batch_size: int, process: int, processes: int
) -> Iterator[list[int]]:
    """Yield this process's positions batch by batch, from global position ``start``.

    The joined batch of all processes is one run of consecutive positions, process 0 first.
    """
    while True:
        first = start + process * batch_size
        yield list(range(first, first + batch_size))
        start += processes * batch_size


def batches(
    source: Source,
    *,
    seed: int,
    start: int,
    batch_size: int,
    process: int = 0,
    processes: int = 1,
    workers: int = 0,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """Endless batches of this process, beginning at global position ``start``.

    Raises:
        MediaError: too many unreadable samples in a row.
    """
    loader = DataLoader(
        OrderedSamples(source, seed),
        batch_sampler=_Forever(start, batch_size, process, processes),
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=pin_memory,
        persistent_workers=False,
        # An own generator: the loader would otherwise take a number from the global one, and a
        # resumed run would draw other tail-drop lengths than an uninterrupted one.
        generator=torch.Generator().manual_seed(seed),
    )
    for batch in loader:
        if isinstance(batch, MediaError):
            raise batch
        yield batch


class _Forever:
    """The batch sampler DataLoader wants: iterable again and again, without a length."""

    def __init__(self, start: int, batch_size: int, process: int, processes: int) -> None:
        self.arguments = {"batch_size": batch_size, "process": process, "processes": processes}
        self.start = start

    def __iter__(self) -> Iterator[list[int]]:
        return positions(self.start, **self.arguments)
