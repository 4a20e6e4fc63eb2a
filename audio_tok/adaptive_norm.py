"""AdaptiveNorm: layer norm whose scale and shift are a row of two tables.

Letters: B batch, T frames, C channels, R rows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class AdaptiveNorm(nn.Module):
    """Normalise each frame, then ``scale[row] * x + shift[row]``.

    The rows are what is left of a model that was told its bit rate (Siuzdak 2023, arXiv
    2306.00814); with one rate all rows learn the same, and inference uses row 0.

    Args:
        channels: C.
        rows: R, at least 1.
        eps: of the normalisation.

    Example:
        >>> AdaptiveNorm(768, 4)(torch.zeros(2, 75, 768), torch.zeros(1, dtype=torch.int64)).shape
        torch.Size([2, 75, 768])
    """

    def __init__(self, channels: int, rows: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.scale = nn.Parameter(torch.ones(rows, channels))
        self.shift = nn.Parameter(torch.zeros(rows, channels))

    def forward(self, x: Tensor, row: Tensor) -> Tensor:
        """Normalise x (B, T, C) with int64 ``row`` (1,) for all items or (B,) for each."""
        scale, shift = self.scale[row], self.shift[row]
        if len(row) == 1:
            return F.layer_norm(x, x.shape[-1:], scale[0], shift[0], self.eps)
        y = F.layer_norm(x, x.shape[-1:], None, None, self.eps)
        return torch.addcmul(shift[:, None], y, scale[:, None])
