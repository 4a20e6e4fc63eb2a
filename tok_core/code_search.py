"""Code search: what a quantizer looked for in which codebook, and where its answers stand.

    rows (B, n, D) --nearest code of factor f--> codes (B, ...), flattened: places p_1 ... p_n

One quantizer makes one search (a codebook), one per level (residual), one per scale (multi-scale)
or those of all its branches.  What replaces codes by their neighbours needs no more to know of a
quantizer than its searches and its ``lookup``.

Letters: B items, n places of one search, L places of all, D dimensions of a code.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class CodeSearch(NamedTuple):
    """One search of a forward pass.

    Attributes:
        rows: (B, ..., D) float32, what was compared with the codebook, without gradient; n places
            in the order of ``places``.
        factor: which of the tokenizer's ``codebooks`` was searched.
        places: where the n answers stand in the codes (B, ...) flattened to (B, L).
        items: bool (B,), the items whose latents hold this search's codes; None for all. Dropped
            levels and scales are coded but not used.

    Example:
        >>> CodeSearch(z, factor=1, places=range(1, 8, 2))  # the second level of two, 4 frames
    """

    rows: Tensor
    factor: int
    places: range
    items: Tensor | None = None

    def moved(self, *, start: int, factor: int) -> CodeSearch:
        """Return the same search where its codes stand ``start`` places later, as one of many.

        Args:
            start: places of what comes before. factor: codebooks of what comes before.
        """
        places = range(
            self.places.start + start, self.places.stop + start, self.places.step
        )
        return self._replace(factor=self.factor + factor, places=places)
