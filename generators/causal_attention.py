"""Causal attention of all decoder-only trunks, over a whole sequence or step by step on a cache.

    x --qkv--> q, k, v --(norm per head)--(rotation)--> attention over what came before --out--> y

Letters: B rows, L positions, W width, H heads, D = W / H.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from generators.kv_cache import KeyValueCache
from generators.rotary import rotated
from tok_core.fast_linear import Linear


class Cached(NamedTuple):
    """Which layer of which cache an attention call reads and extends."""

    cache: KeyValueCache
    layer: int


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
        self.heads, self.dropout = heads, dropout
        self.qkv = Linear(width, 3 * width, bias=bias)
        self.out = Linear(width, width, bias=bias)
        self.query_norm: nn.Module = nn.Identity()
        self.key_norm: nn.Module = nn.Identity()
        if head_norm is not None:
            self.query_norm = nn.LayerNorm(width // heads, eps=head_norm)
            self.key_norm = nn.LayerNorm(width // heads, eps=head_norm)

    def forward(
        self, x: Tensor, *, rotation: Tensor | None = None, mask: Tensor | None = None,
        cached: Cached | None = None,
    ) -> Tensor:  # fmt: skip
        """Map (B, L, W) to (B, L, W).

        Args:
            x: a whole sequence, or the new positions behind those of the cache.
            rotation: (L, D / 2, 2) or (B, L, D / 2, 2) cosines and sines of these positions.
            mask: bool, broadcastable to (B, H, L, all positions), True where one may be seen; it
                replaces the causal rule. None is causal.
            cached: cache to extend.
        """
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        query, key = self.query_norm(query), self.key_norm(key)
        if rotation is not None:
            query, key = rotated(query, rotation), rotated(key, rotation)
        if cached is not None:
            key, value = cached.cache.append(cached.layer, key, value)
        behind = key.shape[2] - length
        if mask is None and behind and length > 1:
            mask = torch.ones(length, key.shape[2], dtype=torch.bool, device=x.device).tril(behind)
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask,
            is_causal=mask is None and length > 1,
            dropout_p=self.dropout if self.training else 0.0,
        )  # fmt: skip
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width))
