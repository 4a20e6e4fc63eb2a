"""Codebook: the table a factor's codes point into, as the assignment sees it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Codebook(NamedTuple):
    """One table of code vectors.

    Attributes:
        vectors: float32 (K, D), as compared during assignment (normalised where the quantizer
            normalises, the levels (K, 1) of a scalar quantizer, the concatenated unit space of a
            shared index).
        metric: ``l2`` or ``cosine``, the distance of the assignment.
    """

    vectors: Tensor
    metric: str
