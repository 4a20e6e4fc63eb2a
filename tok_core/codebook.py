"""Codebook: the table a factor's codes point into, as the assignment sees it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tok_core.errors import TokenError


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


def check_codes(codes: Tensor, codebook_size: int) -> None:
    """Raise TokenError unless codes of any shape lie in [0, K); nothing is asked of meta tensors.

    Example:
        >>> check_codes(torch.tensor([0, 4095]), 4096)
    """
    if not codes.numel() or codes.device.type == "meta":
        return
    low, high = (int(bound) for bound in torch.aminmax(codes))
    if low < 0 or high >= codebook_size:
        raise TokenError(
            f"codes from {low} to {high} came in; legal are 0 to {codebook_size - 1}: "
            "use tokens made by this tokenizer"
        )
