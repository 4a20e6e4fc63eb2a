"""Causal attention of all decoder-only trunks, over a whole sequence or step by step on a cache.

    x --qkv--> q, k, v --(norm per head)--(rotation)--> attention over what came before --out--> y

Letters: B rows, L positions, W width, H heads, D = W / H.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from generators.kv_cache import LayerCache
from generators.rotary import Turns, rotated
from tok_core.fast_linear import Linear


class CausalAttention(nn.Module):
    """Every position sees itself and what came before.

    Args:
        width: W. heads: H.
        bias: of the qkv and out projections.
        head_norm: eps of an affine layer norm over D of queries and keys, None for none (RAR).
        dropout: chance of an attention weight to be dropped in training.
    """

    def __init__(
        self, width: int, heads: int, *, bias: bool = False, head_norm: float | None = None,
        dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.heads, self.dropout, self.plain = heads, dropout, head_norm is None
        self.qkv = Linear(width, 3 * width, bias=bias)
        self.out = Linear(width, width, bias=bias)
        self.query_norm: nn.Module = nn.Identity()
        self.key_norm: nn.Module = nn.Identity()
        if head_norm is not None:
            self.query_norm = nn.LayerNorm(width // heads, eps=head_norm)
            self.key_norm = nn.LayerNorm(width // heads, eps=head_norm)

    def forward(
        self, x: Tensor, *, rotation: Turns | None = None, mask: Tensor | None = None,
        cached: LayerCache | None = None,
    ) -> Tensor:  # fmt: skip
        """Map (B, L, W) to (B, L, W).

        Args:
            x: a whole sequence, or the new positions behind those of the cache.
            rotation: of these positions, as `generators.rotary.turns` gives it.
            mask: bool, broadcastable to (B, H, L, all positions), True where one may be seen; it
                replaces the causal rule. None is causal.
            cached: this layer's part of a cache, to extend.
        """
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        qkv = qkv.permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        query, key = self.query_norm(query), self.key_norm(key)
        if rotation is not None:
            both = qkv[:2] if self.plain else torch.stack((query, key))
            query, key = rotated(both, rotation).unbind(0)
        if cached is not None:
            key, value = cached.extended(key, value)
        behind = key.shape[2] - length
        if mask is None and behind and length > 1:
            mask = torch.ones(length, key.shape[2], dtype=torch.bool, device=x.device).tril(behind)
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask,
            is_causal=mask is None and length > 1,
            dropout_p=self.dropout if self.training else 0.0,
        )  # fmt: skip
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width))
