"""Semantic decoder: quantized semantic vectors to the features of a teacher.

    z (B, C, h, w) --1x1--> + positions, class token --ViT blocks--> norm --> MLP --> (B, N, T)

The decoder of BEiT v2's visual tokenizer, as TokenFlow uses it.
Peng et al., arXiv 2208.06366; Qu et al., arXiv 2412.03069.
Letters: B pictures, C code size, h w grid, N = h * w, W width, H heads, T teacher features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tok_core.errors import ConfigError
from tok_core.fast_linear import Linear, fast_linear
from tok_core.transformer import Mlp
from vision_tok.position_resize import POSITION_RULES, PositionRule, resized_positions


@dataclass(frozen=True, kw_only=True)
class SemanticDecoderOptions:
    """Sizes of the semantic decoder.

    Attributes:
        width: W. depth: blocks. heads: H; the published models have 12 for both widths.
        grid: side of the stored position table; None is that of the tokenizer.
        target_dim: T, features of the teacher.
        mlp_ratio: hidden width of each MLP over W.
        positions: what happens on another grid, see `resized_positions`.
    """

    width: int
    target_dim: int
    depth: int = 3
    heads: int = 12
    grid: int | None = None
    mlp_ratio: float = 4.0
    positions: PositionRule = "offset-0.1"


class KeylessBiasAttention(nn.Module):
    """Self-attention whose queries and values have biases and whose keys have none."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width, bias=False)
        self.query_bias = nn.Parameter(torch.zeros(width))
        self.value_bias = nn.Parameter(torch.zeros(width))
        self.out = Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, L, W) to (B, L, W)."""
        batch, length, width = x.shape
        none = torch.zeros_like(self.query_bias)
        bias = torch.cat((self.query_bias, none, self.value_bias))
        qkv = fast_linear(x, self.qkv.weight, bias)
        split = qkv.view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps=1e-6)
        self.attention = KeylessBiasAttention(width, heads)
        self.mlp_norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, round(width * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class SemanticDecoder(nn.Module):
    """A small ViT from semantic code vectors to teacher features.

    Args:
        code_dim: C.
        grid: side of the tokenizer's latents, which the position table takes where ``options``
            name none.
        options: everything else.

    Raises:
        ConfigError: sizes that do not go together.

    Example:
        >>> decoder = SemanticDecoder(8, 4, SemanticDecoderOptions(width=24, target_dim=10))
        >>> decoder(torch.zeros(2, 8, 4, 4)).shape
        torch.Size([2, 16, 10])
    """

    def __init__(self, code_dim: int, grid: int, options: SemanticDecoderOptions) -> None:
        super().__init__()
        _check(options)
        width, side = options.width, options.grid or grid
        self.positions = options.positions
        self.gradient_checkpointing = False
        self.patches = nn.Conv2d(code_dim, width, 1)
        self.class_token = nn.Parameter(torch.empty(width))
        self.position_table = nn.Parameter(torch.empty(side**2 + 1, width))
        self.blocks = nn.ModuleList(
            _Block(width, options.heads, options.mlp_ratio) for _ in range(options.depth)
        )
        self.norm_out = nn.LayerNorm(width, eps=1e-6)
        self.head = task_layer(width, options.target_dim)
        self._initialise()

    def forward(self, z: Tensor) -> Tensor:
        """Map (B, C, h, w) to teacher features (B, h * w, T), row-major."""
        x = self.patches(z).flatten(2).transpose(1, 2)
        size = (z.shape[-2], z.shape[-1])
        x = x + resized_positions(self.position_table[1:], size, self.positions)
        first = (self.class_token + self.position_table[0]).to(x.dtype)
        x = torch.cat((first.expand(len(x), 1, -1), x), dim=1)
        for block in self.blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return self.head(self.norm_out(x[:, 1:]))

    @torch.no_grad()
    def _initialise(self) -> None:
        for part in self.modules():
            if isinstance(part, nn.Linear | nn.Conv2d):
                nn.init.trunc_normal_(part.weight, std=0.02)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)
        for table in (self.class_token, self.position_table):
            nn.init.trunc_normal_(table, std=0.02)
        for depth, block in enumerate(self.blocks, start=1):
            # Residual branches shrink with depth, as BEiT starts.
            block.attention.out.weight.div_((2.0 * depth) ** 0.5)  # type: ignore[union-attr,operator]
            block.mlp.down.weight.div_((2.0 * depth) ** 0.5)  # type: ignore[union-attr,operator]


def task_layer(width: int, out: int) -> nn.Sequential:
    """Return Linear, tanh, Linear per token: TokenFlow's encode and decode task layers."""
    first, last = Linear(width, width), Linear(width, out)
    for layer in (first, last):
        nn.init.trunc_normal_(layer.weight, std=0.02)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(first, nn.Tanh(), last)


def _check(options: SemanticDecoderOptions) -> None:
    if min(options.width, options.heads, options.target_dim) < 1 or options.depth < 0:
        raise ConfigError(f"{options} holds a number that is too small; give positive sizes.")
    if options.width % options.heads:
        raise ConfigError(
            f"the semantic decoder is {options.width} wide, which {options.heads} heads cannot "
            "share; choose heads that divide the width."
        )
    if options.positions not in POSITION_RULES:
        raise ConfigError(
            f"positions '{options.positions}' is unknown; legal are {', '.join(POSITION_RULES)}."
        )
