"""Weight norm, folded: published convolutions store direction and length, ours the product."""

from __future__ import annotations

import torch
from torch import Tensor


def fold_weight_norm(length: Tensor, direction: Tensor) -> Tensor:
    """Return the weight ``g v / ||v||`` with the norm over everything but the first axis.

    Differentiable, so that a gradient of the folded weight gives those of both parts.

    Args:
        length: g (C_out, 1, ...).
        direction: v (C_out, C_in, ...).

    Returns:
        A tensor shaped like v.

    Source: Salimans and Kingma 2016, arXiv 1602.07868, eq. 2.

    Example:
        >>> fold_weight_norm(torch.ones(1, 1, 1), torch.full((1, 1, 1), 5.0))
        tensor([[[1.]]])
    """
    norm = torch.linalg.vector_norm(direction, dim=tuple(range(1, direction.dim())), keepdim=True)
    return direction * (length / norm)
