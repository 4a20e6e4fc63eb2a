"""Moments: mean and covariance of feature vectors in one pass, merged without loss.

    (N, D) ──▶ packed (D + 2, D): row 0 the mean, row 1 the count, then the scatter matrix
    packed A + packed B ──merge──▶ packed of both sets together

Sums of outer products lose the digits that the mean's square takes (2e-4 of a distance where means
are large against spreads); here every batch is centred on its own mean and batches are joined by
the pairwise rule of Chan, Golub and LeVeque 1979, eq. 2.1, in float64. One tensor holds all of it,
so that a metric can keep, save, gather and merge it as one state.

Letters: N vectors, D dimensions, P processes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tok_core.errors import ConfigError, MediaError

BLOCK = 4096  # rows turned into float64 at a time


def empty_moments(dimension: int, device: torch.device | str = "cpu") -> Tensor:
    """Return the packed moments (D + 2, D) float64 of no vectors."""
    return torch.zeros(dimension + 2, dimension, dtype=torch.float64, device=device)


def add_vectors(packed: Tensor, features: Tensor) -> Tensor:
    """Take feature vectors into packed moments, in place, and return them.

    Args:
        packed: (D + 2, D) float64. features: (N, D) of any float type.

    Raises:
        MediaError: another number of dimensions, or NaN or infinity among the features.

    Example:
        >>> packed = add_vectors(empty_moments(2), torch.tensor([[0.0, 1.0], [2.0, 1.0]]))
        >>> unpack(packed).covariance.tolist()
        [[2.0, 0.0], [0.0, 0.0]]
    """
    if features.ndim != 2 or features.shape[1] != packed.shape[1]:
        raise MediaError(
            f"features of shape {tuple(features.shape)} were given where (N, {packed.shape[1]}) "
            "is needed; use one feature extractor for all pictures."
        )
    if not bool(torch.isfinite(features).all()):
        raise MediaError(
            "the features hold NaN or infinity: the pictures or the extractor's weights are "
            "damaged; leave such pictures out."
        )
    for rows in features.split(BLOCK):
        _add_block(packed, rows.double())
    return packed


def _add_block(packed: Tensor, rows: Tensor) -> None:
    added, before = len(rows), float(packed[1, 0])
    if not added:
        return
    mean = rows.mean(0)
    step = mean - packed[0]
    # The last row is the shift between both means: one product adds both of Chan's terms.
    weight = (before * added / (before + added)) ** 0.5
    rows = torch.cat([rows - mean, weight * step[None]])
    packed[2:].addmm_(rows.mT, rows)
    packed[0] += step * (added / (before + added))
    packed[1, 0] = before + added


def merge_moments(stacked: Tensor) -> Tensor:
    """Return the packed moments of the union of P sets; a ``dist_reduce_fx``.

    Args:
        stacked: (P, D + 2, D) packed moments, empty ones among them too.
    """
    total = stacked[0].clone()
    for other in stacked[1:]:
        before, added = float(total[1, 0]), float(other[1, 0])
        if not added:
            continue
        step = other[0] - total[0]
        total[2:] += other[2:]
        total[2:] += torch.outer(step, step) * (before * added / (before + added))
        total[0] += step * (added / (before + added))
        total[1, 0] = before + added
    return total


class Moments(NamedTuple):
    """Mean (D,) and covariance (D, D), denominator N - 1, float64; count None where unknown."""

    mean: Tensor
    covariance: Tensor
    count: int | None  # type: ignore[assignment] # hides tuple.count, which nobody needs here


def unpack(packed: Tensor) -> Moments:
    """Return the moments that a packed tensor holds.

    Raises:
        ConfigError: fewer than two vectors, which have no covariance.
    """
    count = int(packed[1, 0])
    if count < 2:
        raise ConfigError(
            f"a covariance needs 2 or more pictures and {count} came; give more pictures."
        )
    return Moments(packed[0].clone(), packed[2:] / (count - 1), count)


def moments_of(features: Tensor) -> Moments:
    """Return the moments of (N, D) vectors at once.

    Example:
        >>> moments_of(torch.eye(3)).mean.tolist()
        [0.3333333333333333, 0.3333333333333333, 0.3333333333333333]
    """
    empty = empty_moments(features.shape[-1], features.device)
    return unpack(add_vectors(empty, features))
