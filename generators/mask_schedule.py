"""How many tokens are masked in training, and after each step: MaskGIT's schedule and MAR's.

    MaskGIT    share(r) = arccos(r) / (pi / 2)     1 at r = 0, slowly at first, 0 at r = 1
    training   r ~ U(0, 1) per sample, N share(r) random positions
    sampling   r = (t + 1) / T, the N share(r) positions that it is least sure of

    MAR        share(r) = cos(r pi / 2)
    training   one share per batch from a normal distribution cut off at 0.7 and 1
    sampling   r = (t + 1) / T, the first N share(r) positions of a random order

Chang et al. 2022, arXiv 2202.04200, section 3; the arccos form is TiTok's.  Li et al. 2024, "MAR",
arXiv 2406.11838.  Letters: B samples, N positions, t step of T.
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


def cosine_masked_after(step: int, steps: int, masked: int, length: int) -> int:
    """Return how many positions stay masked by MAR's schedule: at least one, and fewer than before.

    What is left after the last step is for the caller to reveal.

    Args:
        step: t from 0. steps: T. masked: before it. length: N.

    Example:
        >>> [cosine_masked_after(t, 4, masked, 16) for t, masked in enumerate((16, 14, 11, 6))]
        [14, 11, 6, 1]
    """
    wanted = math.floor(length * math.cos(math.pi / 2 * (step + 1) / steps))
    return max(1, min(masked - 1, wanted))


def cut_normal(number: float, mean: float, deviation: float, least: float, most: float) -> float:
    """Return the value below which a normal distribution, cut off at both ends, has this share.

    Args:
        number: in [0, 1]; a random one makes this a draw, 0.5 the median.
        mean, deviation: of the normal distribution. least, most: where it is cut off.

    Example:
        >>> round(cut_normal(0.5, 1.0, 0.25, 0.7, 1.0), 3)
        0.874
    """
    ends = torch.tensor([least, most], dtype=torch.float64)
    low, high = torch.special.ndtr((ends - mean) / deviation)
    place = torch.special.ndtri(low + number * (high - low))
    return float((mean + deviation * place).clamp(least, most))
