"""KID: the squared maximum mean discrepancy of two sets under a cubic kernel, without bias.

    k(x, y) = (gamma x.y + 1)^3 with gamma = 1/D                 Binkowski et al. 2018, sec. 4

Published values are means over 100 random subsets of 1,000 from each set; which subsets is part of
the protocol. Values here are raw, not times 1000.

Letters: N M vectors, D dimensions, n of a subset.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tok_core.errors import ConfigError

SUBSETS, SUBSET_SIZE, SEED = 100, 1000, 2020
DEGREE, OFFSET = 3, 1.0


class KernelDistance(NamedTuple):
    """Mean and population standard deviation over the subsets, float64 scalars."""

    mean: Tensor
    std: Tensor


def kernel_distance(
    first: Tensor,
    second: Tensor,
    *,
    subsets: int = SUBSETS,
    subset_size: int = SUBSET_SIZE,
    seed: int = SEED,
) -> KernelDistance:
    """Return the distance over random subsets, drawn as torch-fidelity draws them.

    One legacy NumPy generator draws, for each subset, first from ``first`` and then from
    ``second``, without replacement.

    Args:
        first, second: (N, D) and (M, D) features, in the order of the files. torch-fidelity's
            first input is the generated set.
        subset_size: 2 up to the size of the smaller set.

    Raises:
        ConfigError: fewer vectors than a subset needs, or other dimensions.

    Example:
        >>> kernel_distance(fake, real, subsets=20, subset_size=100).mean
    """
    smaller = min(len(first), len(second))
    if not 2 <= subset_size <= smaller or subsets < 1:
        raise ConfigError(
            f"{subsets} subsets of {subset_size} of sets of {len(first)} and {len(second)} cannot "
            "be drawn; give at least as many pictures as a subset takes (2 or more)."
        )
    draws = np.random.RandomState(seed)
    values = []
    for _ in range(subsets):
        one, other = (
            part[torch.from_numpy(draws.choice(len(part), subset_size, replace=False))]
            for part in (first.cpu(), second.cpu())
        )
        values.append(unbiased_discrepancy(one.to(first.device), other.to(first.device)))
    found = torch.stack(values)
    return KernelDistance(found.mean(), found.std(correction=0))


def unbiased_discrepancy(first: Tensor, second: Tensor) -> Tensor:
    """Return the unbiased squared discrepancy of (N, D) and (M, D), float64; may be below 0.

    Raises:
        ConfigError: fewer than two vectors, or other dimensions.
    """
    n, m = len(first), len(second)
    if min(n, m) < 2 or first.shape[1] != second.shape[1]:
        raise ConfigError(
            f"sets of shapes {tuple(first.shape)} and {tuple(second.shape)} have no kernel "
            "distance; give two or more vectors each, of one extractor."
        )
    x, y = first.double(), second.double()
    within_x = (_kernel_sum(x, x) - _kernel(x.square().sum(1), x.shape[1]).sum()) / (n * (n - 1))
    within_y = (_kernel_sum(y, y) - _kernel(y.square().sum(1), y.shape[1]).sum()) / (m * (m - 1))
    return within_x + within_y - 2 * _kernel_sum(x, y) / (n * m)


def _kernel(products: Tensor, dimension: int) -> Tensor:
    return (products / dimension + OFFSET) ** DEGREE


def _kernel_sum(x: Tensor, y: Tensor) -> Tensor:
    """Return the sum of the kernel over all pairs, by blocks of rows."""
    parts = [_kernel(rows @ y.mT, x.shape[1]).sum() for rows in x.split(1024)]
    return torch.stack(parts).sum()
