"""Contestant: anything that makes signals again, behind one door.

    signals ──▶ reconstruct(signals, budget) ──▶ the signals again, bytes on disk, tokens, seconds

A tokenizer, JPEG, Opus, a model of another library, a folder of finished files, a function of the
user's: what measures them cannot tell them apart.

Letters: H W pixels, T samples, R network inputs of one signal.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from eval.item_list import Item, ItemList
from eval.score import GROUND_TRUTH
from tok_core.token_spec import TokenSpec

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Signal:
    """One original, as the protocol prepared it.

    Attributes:
        values: a picture uint8 (3, H, W), or a sound float (1, T) in [-1, 1].
        name: of its item, by which finished files are found. index: its place in the run.
        rate: of a sound, in Hz; None for pictures.
    """

    values: Tensor
    name: str
    index: int
    rate: int | None = None

    @property
    def unit(self) -> Tensor:
        """The values as float32 in [-1, 1]."""
        if self.values.dtype == torch.uint8:
            return self.values.float().div(127.5).sub(1.0)
        return self.values.float()


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """What became of one signal.

    Attributes:
        values: a picture of the original's size, uint8, or float in [-1, 1] that the protocol's
            byte rule turns into bytes; a sound float (1, T').
        rate: of a sound, in Hz.
        bytes_on_disk: of the whole file, None where there is none.
        tokens: int64 (R, *axes of the spec), its codes, or None; R network inputs (tiles of a
            picture, else 1).
        encode_seconds, decode_seconds: its share of the call's time; None where it was not timed.
    """

    values: Tensor
    rate: int | None = None
    bytes_on_disk: int | None = None
    tokens: Tensor | None = None
    encode_seconds: float | None = None
    decode_seconds: float | None = None


@dataclass(kw_only=True)
class Contestant:
    """Base of all contestants; a subclass gives `reconstruct`.

    Attributes:
        name: as tables call it. sense: ``image`` or ``audio``.
        budgets: rows of a table unless the user names others; (None,) for the only one there is.
        sweep: points of a rate-distortion curve; () for `budgets`.
        budget_name: what a budget counts: ``tokens``, ``quality``, ``kbit/s``.
        parameters: of its networks, None where that means nothing.
        weights_hash, code_hash: of its networks, where it has any.
        spec: of its codes, None without tokens.
        identity: whatever else decides what it makes, as plain JSON values; part of resume keys.
        device, dtype: where it runs.
        fixed: it has one budget, whatever is asked for.
    """

    name: str
    sense: str
    budgets: tuple[float | None, ...] = (None,)
    sweep: tuple[float | None, ...] = ()
    budget_name: str = ""
    parameters: int | None = None
    weights_hash: str | None = None
    code_hash: str | None = None
    spec: TokenSpec | None = None
    identity: dict[str, object] = field(default_factory=dict)
    device: str = "cpu"
    dtype: str = "float32"
    fixed: bool = False

    def reconstruct(
        self, signals: Sequence[Signal], budget: float | None = None
    ) -> list[Reconstruction]:
        """Make signals again.

        Args:
            signals: of one size each; sizes may differ between them.
            budget: one of what `budgets` counts.

        Returns:
            one for each signal, in order.
        """
        raise TypeError(f"{type(self).__name__} does not define reconstruct")

    def __call__(
        self, signals: Sequence[Signal], budget: float | None = None
    ) -> list[Reconstruction]:
        """Reconstruct: a contestant is a function."""
        return self.reconstruct(signals, budget)

    def check_budget(self, budget: float | None) -> None:
        """Raise ConfigError for a budget that it cannot work with."""

    def bad_items(self, items: ItemList) -> list[tuple[Item, str]]:
        """Return items that it cannot make, each with the reason, before the work."""
        return []


class Original(Contestant):
    """The ground-truth row: every original against itself, through the same pipeline."""

    def __init__(self, sense: str) -> None:
        super().__init__(name=GROUND_TRUTH, sense=sense)

    def reconstruct(
        self, signals: Sequence[Signal], budget: float | None = None
    ) -> list[Reconstruction]:
        """Return the signals as floats, so that they pass the protocol's byte rule."""
        return [Reconstruction(signal.unit, signal.rate) for signal in signals]


@dataclass
class Stopwatch:
    """Seconds of the last timed block."""

    seconds: float = 0.0


@contextmanager
def stopwatch(device: str = "cpu") -> Iterator[Stopwatch]:
    """Time a block; work that a GPU still has to do counts."""
    watch = Stopwatch()
    start = time.perf_counter()
    yield watch
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif device.startswith("mps"):
        torch.mps.synchronize()
    watch.seconds = time.perf_counter() - start


def grouped(
    items: Sequence[T], key: Callable[[T], object], most: int
) -> Iterator[tuple[list[int], list[T]]]:
    """Yield places and items that agree in a key, at most so many at once."""
    groups: dict[object, list[int]] = {}
    for place, item in enumerate(items):
        groups.setdefault(key(item), []).append(place)
    for places in groups.values():
        for start in range(0, len(places), most):
            part = places[start : start + most]
            yield part, [items[place] for place in part]
