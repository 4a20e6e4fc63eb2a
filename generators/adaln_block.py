"""Blocks whose norms, and what they add, depend on a condition: adaLN-zero, as in DiT.

    c --SiLU--> --linear--> shift, scale, gate of the attention; shift, scale, gate of the MLP
    x --norm--> * (1 + scale) + shift --attention or MLP--> * gate --> + x

Peebles and Xie 2023, arXiv 2212.09748; RAR's form of it (affine norms, one condition per position,
causal, norms of queries and keys) Yu et al. 2024, arXiv 2411.00776.  Letters: B rows, L positions,
W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from generators.causal_attention import CausalAttention
from generators.kv_cache import KeyValueCache, LayerCache
from tok_core.fast_linear import Linear
from tok_core.transformer import Mlp


class AdaLNBlock(nn.Module):
    """One block.

    Args:
        width: W. heads, hidden: sizes.
        eps: of all four norms.
        dropout: of what both branches add, in training. attention_dropout: of attention weights.
    """

    def __init__(
        self, width: int, heads: int, hidden: int, *, eps: float = 1e-6, dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps=eps)
        self.attention = CausalAttention(
            width, heads, bias=True, head_norm=eps, dropout=attention_dropout
        )
        self.mlp_norm = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, hidden)
        self.modulation = Linear(width, 6 * width)
        self.dropout = dropout

    def forward(
        self, x: Tensor, condition: Tensor | None, modulation: Tensor | None = None,
        cached: LayerCache | None = None, mask: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Map (B, L, W) to (B, L, W).

        Args:
            x: (B, L, W). condition: (B, L, W), SiLU applied; None where there is a modulation.
            modulation: (B, L, 6 W) of the condition, computed before. cached, mask: see
                `CausalAttention`.
        """
        if modulation is None:
            modulation = self.modulation(condition)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = modulation.chunk(6, dim=-1)
        inner = torch.addcmul(shift, self.attention_norm(x), 1 + scale)
        added = gate * self.attention(inner, mask=mask, cached=cached)
        x = x + F.dropout(added, self.dropout, self.training)
        inner = torch.addcmul(mlp_shift, self.mlp_norm(x), 1 + mlp_scale)
        return x + F.dropout(mlp_gate * self.mlp(inner), self.dropout, self.training)


class AdaLNTrunk(nn.Module):
    """A stack of blocks and a modulated norm behind it, which has no weights of its own.

    Args:
        layers: number of blocks. width, heads, hidden, eps, dropout, attention_dropout: of each.
        last_norm: an affine norm before the modulated one (TokenBridge).

    Example:
        >>> trunk = AdaLNTrunk(2, 32, heads=4, hidden=64)
        >>> trunk(torch.zeros(1, 5, 32), torch.zeros(1, 5, 32)).shape
        torch.Size([1, 5, 32])
    """

    def __init__(
        self, layers: int, width: int, *, heads: int, hidden: int, eps: float = 1e-6,
        dropout: float = 0.0, attention_dropout: float = 0.0, last_norm: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.heads, self.width, self.eps = heads, width, eps
        self.blocks = nn.ModuleList(
            AdaLNBlock(
                width, heads, hidden, eps=eps, dropout=dropout,
                attention_dropout=attention_dropout,
            )
            for _ in range(layers)
        )  # fmt: skip
        self.norm = nn.LayerNorm(width, eps=eps) if last_norm else nn.Identity()
        self.modulation = Linear(width, 2 * width)
        # diffusers' enable_gradient_checkpointing() finds and sets this attribute.
        self.gradient_checkpointing = False

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map (B, L, W) to (B, L, W) under (B, L, W) conditions."""
        condition = F.silu(condition)
        for block in self.blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, condition, use_reentrant=False)
            else:
                x = block(x, condition)
        return self._final(x, self.modulation(condition))

    @property
    def stack(self) -> list[AdaLNBlock]:
        """The blocks by their type."""
        return cast(list[AdaLNBlock], list(self.blocks))

    def modulations(self, condition: Tensor) -> list[Tensor]:
        """Return what `step` needs for conditions (B, L, W): one per block, and the last norm's."""
        condition = F.silu(condition)
        made = [block.modulation(condition) for block in self.stack]
        return [*made, self.modulation(condition)]

    def step(
        self, x: Tensor, modulations: Sequence[Tensor], cache: KeyValueCache,
        mask: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Map the next positions (B, L, W) to (B, L, W), extending the cache by them."""
        for block, made, cached in zip(self.stack, modulations[:-1], cache.layers(), strict=True):
            x = block(x, None, made, cached, mask)
        cache.advance(x.shape[1])
        return self._final(x, modulations[-1])

    def cache(self, rows: int, capacity: int) -> KeyValueCache:
        """Return an empty cache for ``rows`` sequences of at most ``capacity`` positions."""
        like = self.modulation.weight
        return KeyValueCache(
            len(self.blocks), rows=rows, heads=self.heads, capacity=capacity,
            width=self.width // self.heads, dtype=like.dtype, device=like.device,
        )  # fmt: skip

    def _final(self, x: Tensor, modulation: Tensor) -> Tensor:
        # Scale before shift: RAR's published weights have them in the other order here.
        scale, shift = modulation.chunk(2, dim=-1)
        x = self.norm(x)
        return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=self.eps), 1 + scale)


@torch.no_grad()
def initialise_adaln(trunk: AdaLNTrunk) -> None:
    """Make every block the identity: its gates start at 0, so the condition decides what grows."""
    for linear in [*(block.modulation for block in trunk.stack), trunk.modulation]:
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
