"""Pre-norm transformer with full attention, as in CLIP's ViT.

    x -> norm -> attention -> + -> norm -> MLP (erf GELU) -> +

Letters: B batch, L sequence, W width, H heads, D = W / H.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tok_core.fast_linear import Linear


class SelfAttention(nn.Module):
    """Multi-head self-attention with packed query, key, value projection and biases.

    Args:
        width: W, a multiple of ``heads``.
        heads: H; scores are scaled by ``(W / H) ** -0.5``.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width)
        self.out = Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend over (B, L, W); ``mask`` (B, L) bool is True where a position may be seen."""
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        seen = None if mask is None else mask[:, None, None, :]
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width))


class Mlp(nn.Module):
    """Two linear layers around an exact (erf) GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = Linear(width, hidden)
        self.down = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., W) to (..., W)."""
        return self.down(F.gelu(self.up(x)))


class LayerScale(nn.Module):
    """A learned factor per channel on what a block adds (Touvron et al., arXiv 2103.17239).

    Args:
        width: W.
        start: value of every factor at first; 1e-5 in DINOv2.
    """

    def __init__(self, width: int, start: float = 1e-5) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), start))

    def forward(self, x: Tensor) -> Tensor:
        """Scale (..., W)."""
        return x * self.gamma


class DropPath(nn.Module):
    """Leave out what a block adds, item by item, in training (Huang et al., arXiv 1603.09382).

    Args:
        rate: chance that an item of the batch does without; what stays is divided by 1 - rate.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Drop whole items of (B, L, W) in training mode."""
        if not self.training or not self.rate:
            return x
        kept = x.new_empty(x.shape[0], *[1] * (x.ndim - 1)).bernoulli_(1 - self.rate)
        return x * kept / (1 - self.rate)


class TransformerBlock(nn.Module):
    """One pre-norm block: ``x += attention(norm(x)); x += mlp(norm(x))``.

    Args:
        width: W.
        heads: H.
        mlp_ratio: hidden width of the MLP over W.
        eps: of both layer norms.
    """

    def __init__(
        self, width: int, heads: int, mlp_ratio: float = 4.0, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps=eps)
        self.attention = SelfAttention(width, heads)
        self.mlp_norm = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, int(width * mlp_ratio))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map (B, L, W) to (B, L, W); ``mask`` as in `SelfAttention`."""
        x = x + self.attention(self.attention_norm(x), mask)
        return x + self.mlp(self.mlp_norm(x))


class TransformerBlocks(nn.ModuleList):
    """A stack of blocks that can trade time for memory (gradient checkpointing).

    Example:
        >>> blocks = TransformerBlocks(layers=2, width=32, heads=4)
        >>> blocks(torch.zeros(1, 5, 32)).shape
        torch.Size([1, 5, 32])
    """

    def __init__(
        self, layers: int, width: int, heads: int, mlp_ratio: float = 4.0, eps: float = 1e-5
    ) -> None:
        super().__init__(TransformerBlock(width, heads, mlp_ratio, eps) for _ in range(layers))
        # diffusers' enable_gradient_checkpointing() finds and sets this attribute.
        self.gradient_checkpointing = False

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Run every block over (B, L, W)."""
        for block in self:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, mask, use_reentrant=False)
            else:
                x = block(x, mask)
        return x


@torch.no_grad()
def initialise_transformer(module: nn.Module) -> None:
    """Initialise linear and convolution layers, norms and attention the way TiTok does.

    Weights of linear layers and convolutions normal(0, 0.02), biases 0, norms 1 and 0; the packed
    attention projection keeps Xavier-uniform (torch's nn.MultiheadAttention).
    """
    if all(parameter.is_meta for parameter in module.parameters()):
        return  # there is nothing to draw, which takes torch longer than all the rest
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            nn.init.normal_(part.weight, std=0.02)
        elif isinstance(part, nn.LayerNorm | nn.GroupNorm):
            nn.init.ones_(part.weight)
        else:
            continue
        if part.bias is not None:
            nn.init.zeros_(part.bias)
    for part in module.modules():
        if isinstance(part, SelfAttention):
            nn.init.xavier_uniform_(part.qkv.weight)
