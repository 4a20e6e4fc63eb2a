"""Llama's block: RMSNorm, causal attention with rotary positions, SwiGLU; no biases anywhere.

    x --rms--> attention --> + --rms--> w2(silu(w1 x) * w3 x) --> +

Touvron et al. 2023, arXiv 2302.13971; sizes of Sun et al. 2024, arXiv 2406.06525.  Letters: B rows,
L positions, W width, T positions of the condition.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from generators.causal_attention import CausalAttention
from generators.kv_cache import KeyValueCache, LayerCache
from generators.rotary import Turns, turns
from tok_core.fast_linear import Linear


class RMSNorm(nn.Module):
    """``x / rms(x) * weight``, the mean square taken in float32 (Zhang and Sennrich 2019).

    Args:
        width: W. eps: added to the mean square.
    """

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., W) to (..., W)."""
        # Of the weight's type, as autocast may ask: the fused kernel takes no two types.
        x = x.to(self.weight.dtype)
        return F.rms_norm(x, x.shape[-1:], self.weight, self.eps)


class SwiGLU(nn.Module):
    """Gated MLP (Shazeer 2020, arXiv 2002.05202).

    Args:
        width: W. hidden: of both halves.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        # Both halves read the same input: one product reads it once.
        self.up = Linear(width, 2 * hidden, bias=False)
        self.down = Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., W) to (..., W)."""
        gate, value = self.up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * value)


class LlamaBlock(nn.Module):
    """One block.

    Args:
        width: W. heads, hidden: sizes. eps: of both norms.
        dropout: of what both branches add, in training.
    """

    def __init__(
        self, width: int, heads: int, hidden: int, *, eps: float = 1e-5, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(width, eps)
        self.attention = CausalAttention(width, heads)
        self.mlp_norm = RMSNorm(width, eps)
        self.mlp = SwiGLU(width, hidden)
        self.dropout = dropout

    def forward(
        self, x: Tensor, rotation: Turns | None, mask: Tensor | None = None,
        cached: LayerCache | None = None,
    ) -> Tensor:  # fmt: skip
        """Map (B, L, W) to (B, L, W); arguments as in `CausalAttention`."""
        added = self.attention(
            self.attention_norm(x), rotation=rotation, mask=mask, cached=cached
        )
        x = x + F.dropout(added, self.dropout, self.training)
        return x + F.dropout(self.mlp(self.mlp_norm(x)), self.dropout, self.training)


class LlamaTrunk(nn.Module):
    """A stack of blocks and the norm behind it.

    Args:
        layers: number of blocks. width, heads, hidden, eps, dropout: of each.

    Example:
        >>> trunk = LlamaTrunk(2, 32, heads=4, hidden=64)
        >>> trunk(torch.zeros(1, 5, 32), None).shape
        torch.Size([1, 5, 32])
    """

    def __init__(
        self, layers: int, width: int, *, heads: int, hidden: int, eps: float = 1e-5,
        dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.heads, self.width = heads, width
        self.blocks = nn.ModuleList(
            LlamaBlock(width, heads, hidden, eps=eps, dropout=dropout) for _ in range(layers)
        )
        self.norm = RMSNorm(width, eps)
        # diffusers' enable_gradient_checkpointing() finds and sets this attribute.
        self.gradient_checkpointing = False

    def forward(
        self, x: Tensor, rotation: Tensor | None, mask: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:  # fmt: skip
        """Map (B, L, W) to (B, L, W), extending the cache by L positions where one is given.

        ``rotation`` is (L, D / 2, 2) or (B, L, D / 2, 2), cosines and sines of these positions.
        """
        spread = None if rotation is None else turns(rotation)
        nothing: list[LayerCache | None] = [None] * len(self.blocks)
        layers = nothing if cache is None else cache.layers()
        for block, cached in zip(self.blocks, layers, strict=True):
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, spread, mask, cached, use_reentrant=False)
            else:
                x = block(x, spread, mask, cached)
        if cache is not None:
            cache.advance(x.shape[1])
        return self.norm(x)

    def cache(self, rows: int, capacity: int) -> KeyValueCache:
        """Return an empty cache for ``rows`` sequences of at most ``capacity`` positions."""
        like = self.norm.weight
        return KeyValueCache(
            len(self.blocks), rows=rows, heads=self.heads, capacity=capacity,
            width=self.width // self.heads, dtype=like.dtype, device=like.device,
        )  # fmt: skip


def hidden_width(width: int, multiple: int = 256) -> int:
    """Return Llama's hidden width: two thirds of 4 W, up to the next multiple.

    Example:
        >>> hidden_width(768)
        2048
    """
    return -(-int(8 * width / 3) // multiple) * multiple
