"""Scales: the list of grids on which a latent is quantized, coarse to fine.

    1x1, 2x2, 3x3, ... GxG        tokens of all scales one after the other, row by row inside each

The list ends in the latent's own grid.  ``[G]`` is the ordinary single-scale quantizer.  Sound has
grids of one row: 1x25, 1x50, 1x75.  Letters: B batch, S scales, h w rows and columns, N tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from torch import Tensor

from tok_core.errors import ConfigError, TokenError

Size = tuple[int, int]


@dataclass(frozen=True)
class Scales:
    """A checked list of grids; make one with `parse`.

    Attributes:
        sizes: (h, w) of every scale, coarse to fine; the last is the latent's grid.

    Example:
        >>> scales = Scales.parse([1, 2, (3, 4)])
        >>> scales.num_tokens, scales.prefix(5)
        (17, 2)
    """

    sizes: tuple[Size, ...]

    @classmethod
    def parse(cls, values: Sequence[int | Sequence[int]], grid: Size | None = None) -> Scales:
        """Read a scale list as configs hold it: sides, or pairs of rows and columns.

        Args:
            values: ``[1, 2, 4]`` or ``[[1, 2], [2, 4]]``, coarse to fine.
            grid: (h, w) the list has to end in; None takes what its last entry says.

        Raises:
            ConfigError: an empty list, an entry that is no size, a scale smaller than the one
                before it, or a list that does not end in the grid.
        """
        sizes = tuple(_size(value, values) for value in values)
        if not sizes:
            raise ConfigError("the scale list is empty; give at least the latent's own grid.")
        for before, after in pairwise(sizes):
            if after[0] < before[0] or after[1] < before[1]:
                raise ConfigError(
                    f"scale {_word(after)} follows {_word(before)}; "
                    "scales run coarse to fine: give none that is smaller than the one before it."
                )
        if grid is not None and sizes[-1] != tuple(grid):
            raise ConfigError(
                f"the scale list ends in {_word(sizes[-1])} but the latent's grid is "
                f"{_word(grid)}; let the last scale be the grid."
            )
        return cls(sizes)

    @property
    def grid(self) -> Size:
        """(h, w) of the latent."""
        return self.sizes[-1]

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of every scale."""
        return tuple(h * w for h, w in self.sizes)

    @property
    def offsets(self) -> tuple[int, ...]:
        """Where every scale begins in the sequence, and as one more entry where the last ends."""
        return tuple(accumulate(self.lengths, initial=0))

    @property
    def num_tokens(self) -> int:
        """Tokens of all scales, N."""
        return sum(self.lengths)

    def __len__(self) -> int:
        """Return the number of scales, S."""
        return len(self.sizes)

    def prefix(self, length: int) -> int:
        """Return how many whole scales ``length`` tokens are.

        Raises:
            TokenError: the tokens end inside a scale, are none, or more than there are.
        """
        ends = self.offsets[1:]
        if length not in ends:
            raise TokenError(
                f"{length} tokens came in; whole scales of this tokenizer end after "
                f"{', '.join(map(str, ends))} tokens: cut the codes at one of these."
            )
        return ends.index(length) + 1

    def upto(self, length: int, wanted: int | None) -> int:
        """Return how many scales to use of ``length`` tokens when ``wanted`` were asked for.

        Raises:
            TokenError: no whole scales (see `prefix`), or more wanted than there are.
        """
        count = self.prefix(length)
        if wanted is None:
            return count
        if not 1 <= wanted <= count:
            raise TokenError(
                f"{wanted} scales were asked for but the tokens hold {count}; "
                f"give upto from 1 to {count}."
            )
        return wanted

    def split(self, codes: Tensor) -> list[Tensor]:
        """Cut codes (B, n) of whole scales into maps (B, h, w).

        Raises:
            TokenError: see `prefix`.
        """
        if codes.ndim != 2:
            raise TokenError(
                f"codes have shape {tuple(codes.shape)}; multi-scale codes are (batch, tokens)."
            )
        count = self.prefix(codes.shape[1])
        parts = codes.split(self.lengths[:count], 1)
        sizes = self.sizes[:count]
        return [part.unflatten(1, size) for part, size in zip(parts, sizes, strict=True)]

    def for_grid(self, grid: Size) -> Scales:
        """Return this list stretched to another grid, rows and columns each in proportion.

        Example:
            >>> Scales.parse([1, 2, 4]).for_grid((4, 8)).sizes
            ((1, 2), (2, 4), (4, 8))
        """
        if grid == self.grid:
            return self
        if min(grid) < 1:
            raise ConfigError(f"a latent of {_word(grid)} came in; give at least one cell.")
        rows, columns = self.grid
        return Scales(tuple(
            (_stretch(h, grid[0], rows), _stretch(w, grid[1], columns)) for h, w in self.sizes
        ))


def fitting_scales(lists: Sequence[Scales], grid: Size) -> Scales:
    """Return the list that ends in ``grid``, else the first one stretched to it.

    Args:
        lists: at least one; the first is the native list.
        grid: (h, w) of the latent at hand.
    """
    for scales in lists:
        if scales.grid == grid:
            return scales
    return lists[0].for_grid(grid)


def _stretch(side: int, new: int, old: int) -> int:
    # Half up in whole numbers: Python's round would send 0.5 and 1.5 different ways.
    return max(1, (2 * side * new + old) // (2 * old))


def _size(value: int | Sequence[int], values: object) -> Size:
    pair = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(pair) != 2 or any(type(side) is not int or side < 1 for side in pair):
        raise ConfigError(
            f"the scale list {values} holds {value}; "
            "give every scale as a side or as a pair of rows and columns, each at least 1."
        )
    return pair[0], pair[1]


def _word(size: Sequence[int]) -> str:
    return f"{size[0]}x{size[1]}"
