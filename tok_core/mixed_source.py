"""Several sources of training data by shares; which one serves an index, that index alone says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, Protocol, TypeVar

from torch import Tensor

from tok_core.procedural_draws import item_draws


class LabelledSource(Protocol):
    """A source whose samples may have a class: ``item`` and ``label`` are functions of an index."""

    @property
    def length(self) -> int | None:
        """Number of samples; None = endless."""

    def item(self, index: int) -> Tensor:
        """Return one sample."""

    def label(self, index: int) -> int | None:
        """Return its class, or None."""


S = TypeVar("S", bound=LabelledSource)


class MixedSource(Generic[S]):
    """Endless samples of several sources.

    Args:
        parts: sources by name. shares: of each name, of any sum; their order decides, too.
        seed: of the draws. version: of the draws; another one draws anew.
    """

    length = None

    def __init__(
        self, parts: Mapping[str, S], shares: Mapping[str, float], *, seed: int, version: int
    ) -> None:
        self.parts, self.shares, self.seed, self.version = parts, shares, seed, version
        self._total = sum(shares.values())

    def _part(self, index: int) -> S:
        draws = item_draws("mixture", version=self.version, seed=self.seed, index=index)
        at = draws.uniform(0.0, self._total)
        for name, share in self.shares.items():
            at -= share
            if at < 0.0:
                return self.parts[name]
        return self.parts[name]  # rounding left a sliver above the last share

    def item(self, index: int) -> Tensor:
        """Return the sample of the part that serves this index."""
        return self._part(index).item(index)

    def label(self, index: int) -> int | None:
        """Return the class where the part that serves this index has one."""
        return self._part(index).label(index)
