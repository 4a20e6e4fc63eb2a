"""Grid-seeded latents: each 1D token starts from one cell of the picture (ours).

Learned latent queries have to discover routing by attention before they carry anything, and from
scratch on little data they collapse.  Here latent j starts as the stem's feature at one grid cell,
and its embedding returns onto the same cell of the decoder's mask tokens.  Cells are visited in
bit-reversed order, so that every prefix of the tokens covers the picture evenly.
"""

from __future__ import annotations


def bit_reversed_cells(rows: int, columns: int) -> list[int]:
    """Return every raster cell index once, any prefix spread evenly over the grid.

    The order counts in binary over the next power-of-two square and reads the bits backwards, the
    coarsest row and column bits first; cells outside the grid are left out.

    Args:
        rows, columns: grid size, at least 1 each.

    Example:
        >>> bit_reversed_cells(2, 2)
        [0, 3, 1, 2]
    """
    levels = max(rows - 1, columns - 1, 1).bit_length()
    # Within each 2x2 the diagonal comes first: two tokens then see opposite corners.
    corners = ((0, 0), (1, 1), (0, 1), (1, 0))
    order = []
    for index in range(4**levels):
        row = column = 0
        for level in range(levels):
            down, right = corners[(index >> (2 * level)) & 3]
            row |= down << (levels - 1 - level)
            column |= right << (levels - 1 - level)
        if row < rows and column < columns:
            order.append(row * columns + column)
    return order


def cells_of_tokens(num_tokens: int, rows: int, columns: int) -> list[int]:
    """Return the cell of each of N tokens; beyond rows * columns tokens the cells repeat."""
    order = bit_reversed_cells(rows, columns)
    return [order[j % len(order)] for j in range(num_tokens)]


def parent_cells(cells: list[int], columns: int) -> list[int]:
    """Return the coarse raster cell (half the rows and columns) that holds each fine cell."""
    return [(c // columns // 2) * (columns // 2) + (c % columns) // 2 for c in cells]
