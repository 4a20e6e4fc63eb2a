"""How many tokens of a picture can be decoded: any prefix, whole scales, or all of a grid."""

from __future__ import annotations

from itertools import accumulate

from tok_core.errors import ConfigError
from tok_core.token_spec import POSITION_AXES, TokenSpec


def legal_lengths(spec: TokenSpec) -> tuple[int, ...]:
    """Return every number of tokens per picture that decodes, rising.

    1D tokens decode from their minimum on, scales one after the other, a grid only as a whole; a
    grid of any size counts the cells of its native picture.

    Raises:
        ConfigError: a grid of any size without a native one.

    Example:
        >>> legal_lengths(var.spec)  # doctest: +SKIP
        (1, 5, 14, 30, 55, 91, 155, 255, 424, 680)
    """
    first = next(axis for axis in spec.axes if axis.name in POSITION_AXES)
    if spec.scales is not None:
        return tuple(accumulate(h * w for h, w in spec.scales))
    if first.name == "row":
        grid = native_grid(spec)
        return (grid[0] * grid[1],)
    if first.size is None:
        raise ConfigError("this tokenizer's codes follow the picture; give it an image_size.")
    return tuple(range(first.minimum, first.size + 1))


def native_grid(spec: TokenSpec) -> tuple[int, int]:
    """Return rows and columns of the codes of a native picture.

    Raises:
        ConfigError: they follow the picture and no native size is known.
    """
    rows, columns = (axis.size for axis in spec.axes if axis.name in ("row", "column"))
    if rows is not None and columns is not None:
        return rows, columns
    if spec.grid is None:
        raise ConfigError("this tokenizer's grid follows the picture; give it an image_size.")
    return spec.grid
