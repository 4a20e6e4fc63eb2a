"""BERT as MaskGIT uses it: a post-norm transformer over a class and the tokens.

    x + positions + type 0 --norm--> blocks --> y
    block:  x = norm(x + attention(x));  x = norm(x + mlp(x))

Unlike in the pre-norm blocks of the suite, the norm follows the sum, so that no norm is left to do
at the end.  Devlin et al. 2018, arXiv 1810.04805; Chang et al. 2022, arXiv 2202.04200.  Letters: R
rows, P positions, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from generators.full_attention import FullAttention
from tok_core.transformer import Mlp

EPS = 1e-12  # of all norms


class BertBlock(nn.Module):
    """One post-norm block.

    Args:
        width: W. heads: of the attention. hidden: width of the MLP.
        dropout: of what is added to x. attention_dropout: of attention weights.
    """

    def __init__(
        self, width: int, heads: int, hidden: int, *, dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.attention = FullAttention(width, heads, dropout=attention_dropout)
        self.attention_norm = nn.LayerNorm(width, eps=EPS)
        self.mlp = Mlp(width, hidden)
        self.mlp_norm = nn.LayerNorm(width, eps=EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (R, P, W) to (R, P, W)."""
        x = self.attention_norm(x + self.dropout(self.attention(x)))
        return self.mlp_norm(x + self.dropout(self.mlp(x)))


class BertNetwork(nn.Module):
    """A stack of post-norm blocks with learned positions.

    Args:
        length: P. layers: number of blocks. Others: see `BertBlock`.

    Example:
        >>> BertNetwork(5, layers=2, width=32, heads=4, hidden=64)(torch.zeros(1, 5, 32)).shape
        torch.Size([1, 5, 32])
    """

    def __init__(
        self, length: int, *, layers: int, width: int, heads: int, hidden: int,
        dropout: float = 0.0, attention_dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.position_embedding = nn.Parameter(torch.empty(length, width))
        # Every token is of type 0; the other row only keeps BERT's shape.
        self.type_embedding = nn.Parameter(torch.empty(2, width))
        nn.init.normal_(self.position_embedding, std=0.02)
        nn.init.normal_(self.type_embedding, std=0.02)
        self.norm_in = nn.LayerNorm(width, eps=EPS)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            BertBlock(width, heads, hidden, dropout=dropout, attention_dropout=attention_dropout)
            for _ in range(layers)
        )
        # diffusers' enable_gradient_checkpointing() finds and sets this attribute.
        self.gradient_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """Map embedded tokens (R, P, W) to features (R, P, W)."""
        x = self.dropout(self.norm_in(x + self.position_embedding + self.type_embedding[0]))
        for block in self.blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return x
