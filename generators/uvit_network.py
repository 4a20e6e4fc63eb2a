"""U-ViT as MaskGIT uses it: a pre-norm transformer whose late blocks see the early ones again.

    x + positions --> in_0 --> in_1 --> mid --> out_0 --> out_1 --norm--> y
                       |        +---------------^         ^
                       +----------------------------------+      [x, skip] --linear--> x
    block:  x += attention(norm(x));  x += mlp(norm(x))

Bao et al. 2023, arXiv 2209.12152.  Letters: R rows, P positions, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from generators.full_attention import FullAttention
from tok_core.fast_linear import Linear
from tok_core.transformer import Mlp

EPS = 1e-5  # of all norms


class UViTBlock(nn.Module):
    """One pre-norm block, with a linear layer that takes in an earlier block's output.

    Args:
        width: W. heads: of the attention. hidden: width of the MLP.
        skip: whether `forward` takes a skip.
        dropout: of what is added to x. attention_dropout: of attention weights.
    """

    def __init__(
        self, width: int, heads: int, hidden: int, *, skip: bool = False, dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.skip = Linear(2 * width, width) if skip else None
        self.attention_norm = nn.LayerNorm(width, eps=EPS)
        self.attention = FullAttention(width, heads, qkv_bias=False, dropout=attention_dropout)
        self.mlp_norm = nn.LayerNorm(width, eps=EPS)
        self.mlp = Mlp(width, hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """Map (R, P, W), and a skip alike where it has one, to (R, P, W)."""
        if self.skip is not None and skip is not None:
            x = self.skip(torch.cat((x, skip), dim=-1))
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class UViTNetwork(nn.Module):
    """In blocks, one in the middle, and as many out blocks with skips, last in first out.

    Args:
        length: P. layers: in and out blocks together, an even number; the middle one is not
            counted. Others: see `UViTBlock`.

    Example:
        >>> UViTNetwork(5, layers=2, width=32, heads=4, hidden=64)(torch.zeros(1, 5, 32)).shape
        torch.Size([1, 5, 32])
    """

    def __init__(
        self, length: int, *, layers: int, width: int, heads: int, hidden: int,
        dropout: float = 0.0, attention_dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()

        def block(skip: bool = False) -> UViTBlock:
            return UViTBlock(
                width, heads, hidden, skip=skip, dropout=dropout,
                attention_dropout=attention_dropout,
            )  # fmt: skip

        self.position_embedding = nn.Parameter(torch.empty(length, width))
        nn.init.normal_(self.position_embedding, std=0.02)
        self.in_blocks = nn.ModuleList(block() for _ in range(layers // 2))
        self.mid_block = block()
        self.out_blocks = nn.ModuleList(block(skip=True) for _ in range(layers // 2))
        self.norm_out = nn.LayerNorm(width, eps=EPS)
        # diffusers' enable_gradient_checkpointing() finds and sets this attribute.
        self.gradient_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """Map embedded tokens (R, P, W) to features (R, P, W)."""
        x = x + self.position_embedding
        skips = []
        for block in self.in_blocks:
            x = self._run(block, x)
            skips.append(x)
        x = self._run(self.mid_block, x)
        for block in self.out_blocks:
            x = self._run(block, x, skips.pop())
        return self.norm_out(x)

    def _run(self, block: nn.Module, x: Tensor, skip: Tensor | None = None) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, x, skip, use_reentrant=False)  # type: ignore[return-value]
        return block(x, skip)
