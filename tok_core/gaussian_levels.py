"""Levels of a scalar quantizer for standard normal values: equal shares, and the mean of each.

    b_i = clamp(inverse CDF(i / B), -r, r),  i = 0..B
    c_i = E[x | b_i < x < b_(i+1)] = (pdf(b_i) - pdf(b_(i+1))) / (CDF(b_(i+1)) - CDF(b_i))

Wang et al. 2025, "Bridging Continuous and Discrete Tokens", arXiv 2503.16430.  Letters: B = 2^bits
bins, r range in standard deviations, b boundaries, c centroids, V levels.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from tok_core.errors import ConfigError

MOST_BITS = 16
# The published tables are computed in float32, whose rounding shows in the fifth digit of the outer
# levels; beyond these bits it is as large as a bin, so that finer tables take float64.
PUBLISHED_BITS = 12


class GaussianTable(NamedTuple):
    """Boundaries and centroids, float32, in standard deviations.

    Attributes:
        boundaries: (B + 1,). centroids: (B,), 0 for a bin without width.
        filled: bool (B,), false for the bins without width: the range cuts them off.
    """

    boundaries: Tensor
    centroids: Tensor
    filled: Tensor

    @property
    def empty(self) -> int:
        """Number of bins without width."""
        return int((~self.filled).sum())


@lru_cache(maxsize=None, typed=True)
def gaussian_table(bits: int, std_range: float) -> GaussianTable:
    """Return the table as published, bins without width included.

    With r = 3 these begin at 10 bits (2 of them; 4 at 11, 10 at 12 bits): their boundaries are both
    +-3 and the published code gives them the centroid 0, in the middle of everything.

    Args:
        bits: 1 to 16. std_range: r, above 0.

    Raises:
        ConfigError: out of range.

    Example:
        >>> gaussian_table(6, 3.0).centroids[-4:]
        tensor([1.6023, 1.7642, 1.9942, 2.4371])
    """
    if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= MOST_BITS:
        raise ConfigError(f"bits is {bits!r}; give 1 to {MOST_BITS} per dimension.")
    if not (math.isfinite(std_range) and std_range > 0):
        raise ConfigError(f"std_range is {std_range!r}; give deviations above 0, such as 3.")
    # Kept for the life of the process: a caller's inference mode or device must not colour it.
    with torch.inference_mode(False), torch.no_grad(), torch.device("cpu"):
        bins = 1 << bits
        share = torch.arange(bins + 1, dtype=torch.float64) / bins
        edges = torch.special.ndtri(share).clamp(-std_range, std_range)
        boundaries = edges.float()
        b = boundaries if bits <= PUBLISHED_BITS else edges
        # In the published order of operations, which decides the last digit.
        pdf = torch.exp(-0.5 * b**2) / math.sqrt(2 * math.pi)
        cdf = 0.5 * (1 + torch.erf(b / math.sqrt(2)))
        filled = edges[1:] > edges[:-1]
        centroids = ((pdf[:-1] - pdf[1:]) / (cdf[1:] - cdf[:-1])).masked_fill(~filled, 0.0)
    return GaussianTable(boundaries, centroids.float(), filled)


@lru_cache(maxsize=None, typed=True)
def gaussian_levels(bits: int, std_range: float, drop_empty: bool = False) -> Tensor:
    """Return the levels (V,) that a quantizer may use, float32 and rising.

    Args:
        bits, std_range: as `gaussian_table`.
        drop_empty: leave the bins without width out; V is then below 2^bits.

    Raises:
        ConfigError: there are such bins and they are not to be dropped.

    Example:
        >>> len(gaussian_levels(10, 3.0, drop_empty=True))
        1022
    """
    table = gaussian_table(bits, std_range)
    if table.empty and not drop_empty:
        raise ConfigError(
            f"{bits} bits leave {table.empty} of {1 << bits} levels without values inside "
            f"std_range {std_range:g}; set empty_bins to 'drop' ({(1 << bits) - table.empty} "
            "levels), take fewer bits, or raise std_range."
        )
    with torch.inference_mode(False):
        return table.centroids[table.filled].clone()
