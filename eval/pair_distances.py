"""Distances between many vectors by blocks of one product, exact where a comparison is close.

    |x - y|^2 = |x|^2 + |y|^2 - 2 x.y            fast, but equal vectors are not at distance 0
    sum (x - y)^2                                for the few pairs where the rounding could matter

Letters: N M vectors, D dimensions, k neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

ENTRIES = 1 << 22  # of one block: 32 MB in float64
CLOSE = 1e-10  # relative to both lengths: far above the rounding of the product in float64


def direct(x: Tensor, y: Tensor) -> Tensor:
    """Return |x - y|^2 (N,) of rows (N, D) paired one to one; the same bits for (y, x)."""
    return (x - y).square().sum(-1)


def centred(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return both sets in float64, moved by the mean of the second: short vectors round less."""
    b = b.double()
    middle = b.mean(0)
    return a.double() - middle, b - middle


def blocks(a: Tensor, b: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield rows of ``a``, their squared distances (rows, M) to ``b``, and the doubt of each.

    The doubt bounds the rounding of an entry: closer comparisons need `direct`.
    """
    lengths_b = b.square().sum(1)
    step = max(1, ENTRIES // max(1, len(b)))
    for at in range(0, len(a), step):
        rows = slice(at, min(at + step, len(a)))
        part = a[rows]
        lengths = part.square().sum(1)[:, None] + lengths_b
        yield rows, torch.addmm(lengths, part, b.mT, alpha=-2.0), lengths.mul_(CLOSE)


def neighbour_radii(x: Tensor, k: int) -> Tensor:
    """Return the squared distance (N,) of each vector to its k-th nearest other.

    Equal vectors at other places count as neighbours at distance 0. Float64, N > k.
    """
    radii = x.new_empty(len(x))
    # A few spare candidates: rounding may swap those of nearly equal distance.
    spare = min(len(x), k + 1 + 4)
    for rows, distances, _ in blocks(x, x):
        chosen = distances.topk(spare, dim=1, largest=False).indices
        exact = direct(x[rows][:, None], x[chosen])
        radii[rows] = exact.sort(dim=1).values[:, k]
    return radii


def within(a: Tensor, b: Tensor, radii_a: Tensor, radii_b: Tensor) -> tuple[Tensor, Tensor]:
    """Tell which of ``a`` lie in some ball around ``b`` (N,), and the reverse (M,); borders count.

    Args:
        a, b: (N, D) and (M, D) float64, centred together. radii_a, radii_b: squared.
    """
    in_b = torch.zeros(len(a), dtype=torch.bool, device=a.device)
    in_a = torch.zeros(len(b), dtype=torch.bool, device=a.device)
    for rows, distances, doubt in blocks(a, b):
        here = distances - radii_b
        there = distances - radii_a[rows][:, None]
        for margin in (here, there):
            i, j = torch.nonzero(margin.abs() <= doubt, as_tuple=True)
            if len(i):
                radius = radii_b[j] if margin is here else radii_a[rows][i]
                margin[i, j] = _direct_pairs(a[rows], b, i, j) - radius
        in_b[rows] = (here <= 0).any(1)
        in_a |= (there <= 0).any(0)
    return in_b, in_a


def _direct_pairs(a: Tensor, b: Tensor, i: Tensor, j: Tensor) -> Tensor:
    step = max(1, ENTRIES // max(1, a.shape[1]))
    parts = zip(i.split(step), j.split(step), strict=True)
    return torch.cat([direct(a[x], b[y]) for x, y in parts])
