"""MaskGIT's arccos schedule: how many tokens are masked in training, and after each step.

    share(r) = arccos(r) / (pi / 2)           1 at r = 0, slowly at first, 0 at r = 1

    training   r ~ U(0, 1) per sample, N share(r) random positions
    sampling   r = (t + 1) / T, the N share(r) positions that it is least sure of

Chang et al. 2022, arXiv 2202.04200, section 3; the arccos form is TiTok's.  Letters: B samples, N
positions, t step of T.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def training_mask(numbers: Tensor) -> Tensor:
    """Choose the positions that a training step masks.

    Args:
        numbers: (B, N + 1) in [0, 1): the first of a row decides how many, the others which.

    Returns:
        bool (B, N), at least one True per row.

    Example:
        >>> training_mask(torch.tensor([[0.5, 0.3, 0.1, 0.2]]))  # 2 of 3, the lowest numbers
        tensor([[False,  True,  True]])
    """
    length = numbers.shape[1] - 1
    share = numbers[:, :1].acos() / (math.pi / 2)
    count = (length * share).round().clamp(min=1)
    return numbers[:, 1:].argsort(dim=1).argsort(dim=1) < count


def masked_after(step: int, steps: int, masked: Tensor, length: int) -> Tensor:
    """Return how many positions of each sample a step leaves masked.

    Every step reveals at least one; the last one reveals all that is left.

    Args:
        step: t from 0. steps: T. masked: int64 (B,), how many are masked before it. length: N.

    Returns:
        int64 (B,).
    """
    if step == steps - 1:
        return torch.zeros_like(masked)
    wanted = math.floor(length * math.acos((step + 1) / steps) / (math.pi / 2))
    return (masked - 1).clamp(max=wanted).clamp(min=1)


def least_sure(confidence: Tensor, count: Tensor) -> Tensor:
    """Return bool (B, N), True at the ``count`` (B,) lowest of (B, N), and at what ties with them.

    None where the count is 0.
    """
    place = (count - 1).clamp(min=0)[:, None]
    limit = confidence.sort(dim=1).values.gather(1, place)
    return (confidence <= limit) & (count > 0)[:, None]
