"""Items of equal length together: how a batch of unequal lengths stays exact.

A codec's norms, attention and mirrored edges see the whole signal, so padding would change the
result.  Items of one length run together, each length by itself: exactly what each gives alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def length_groups(lengths: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield (length, int64 indices of the items that have it) for (B,) ``lengths``.

    Example:
        >>> [(n, i.tolist()) for n, i in length_groups(torch.tensor([5, 3, 5]))]
        [(3, [1]), (5, [0, 2])]
    """
    for length in torch.unique(lengths).tolist():
        yield length, (lengths == length).nonzero()[:, 0]
