"""Attention of every position to every position, with dropout, for trunks that fill in masks.

    x --qkv--> q, k, v --> softmax(q k / sqrt(D)) v --out--> y

Letters: R rows, P positions, W width, H heads, D = W / H.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from tok_core.fast_linear import Linear


class FullAttention(nn.Module):
    """Multi-head self-attention without a mask.

    Args:
        width: W. heads: H.
        qkv_bias: whether the packed query, key, value projection has one; ``out`` always has.
        dropout: chance of an attention weight to be dropped in training.
    """

    def __init__(
        self, width: int, heads: int, *, qkv_bias: bool = True, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = Linear(width, 3 * width, bias=qkv_bias)
        self.out = Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (R, P, W) to (R, P, W)."""
        rows, length, width = x.shape
        qkv = self.qkv(x).view(rows, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(
            query, key, value, dropout_p=self.dropout if self.training else 0.0
        )
        return self.out(mixed.transpose(1, 2).reshape(rows, length, width))
