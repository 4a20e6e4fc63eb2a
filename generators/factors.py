"""The codes of one position: one embedding table for all factors, one head each.

    codes (B, n, F) + where each factor begins --table--> summed (B, n, W)
    features (..., W) --rows of a factor--> logits (..., V of that factor) --padded--> (..., F, V)

Letters: B batch, n positions, F factors (branch, level or dimension), V codes of a factor, W width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from tok_core.fast_linear import fast_linear


def factor_starts(vocabulary: Sequence[int]) -> Tensor:
    """Return where each factor's codes begin in a table of all, int64 (F,).

    Example:
        >>> factor_starts((7, 9, 4))
        tensor([ 0,  7, 16])
    """
    return torch.tensor((0, *vocabulary[:-1])).cumsum(0)


def factor_logits(
    features: Tensor, weight: Tensor, vocabulary: Sequence[int], factor: int,
    bias: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Map features (..., W) to float32 logits (..., V) of one factor.

    Args:
        weight: (sum of the vocabulary, W), a head for all factors, one after the other.
        bias: (sum of the vocabulary,) or None.
    """
    start = sum(vocabulary[:factor])
    own = slice(start, start + vocabulary[factor])
    return fast_linear(features, weight[own], None if bias is None else bias[own]).float()


def padded_logits(parts: Sequence[Tensor]) -> Tensor:
    """Put logits (B, n, V) of every factor side by side, (B, n, F, V), -inf behind a vocabulary."""
    most = max(part.shape[-1] for part in parts)
    return torch.stack(
        [F.pad(part, (0, most - part.shape[-1]), value=-math.inf) for part in parts], dim=2
    )
