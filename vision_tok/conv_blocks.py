"""Blocks of the VQGAN family's convolutional autoencoder, in channels-last memory.

    level     residual blocks, attention after each where the level has it, then half or double size
    middle    residual block, attention, residual block

Letters: B batch, H W pixels, h w grid, C channels, M channels of the modulating map, N = h * w.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tok_core.errors import ConfigError
from tok_core.fast_group_norm import group_norm_silu
from tok_core.level_keeping import keep_level
from vision_tok.conv_sizes import ConvSizes

EPS = 1e-6
# Of the start of what is added to the residual stream, so that its level holds. A tiny VQGAN's
# squared error after 1,000 pictures: 0.147 with torch's start, 0.095 with 1, 0.081 with 0.3.
RESIDUAL_GAIN = 0.3


class ModulatedNorm(nn.Module):
    """``norm(x) * scale(m) + shift(m)`` for a small map m, doubled to the size of x."""

    def __init__(self, groups: int, channels: int, modulated_by: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=EPS)
        self.scale = nn.Conv2d(modulated_by, channels, 1)
        self.shift = nn.Conv2d(modulated_by, channels, 1)

    def forward(self, x: Tensor, m: Tensor | None) -> Tensor:
        """Map (B, C, H, W) and (B, M, h, w) to (B, C, H, W)."""
        if m is None:
            raise ConfigError(
                "this decoder's norms are modulated by the code vectors; give them as modulation="
            )
        # The 1x1 convolutions come first: they see h * w cells instead of H * W.
        scale, shift = (
            F.interpolate(conv(m), size=x.shape[-2:], mode="nearest")
            for conv in (self.scale, self.shift)
        )
        return torch.addcmul(shift, _normalise(self.norm, x), scale)


class ResidualBlock(nn.Module):
    """x + conv(dropout(SiLU(norm(conv(SiLU(norm(x))))))); a 1x1 "shortcut" where widths change."""

    def __init__(self, before: int, after: int, sizes: ConvSizes) -> None:
        super().__init__()
        self.norm1 = make_norm(sizes, before)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.norm2 = make_norm(sizes, after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        self.shortcut = nn.Conv2d(before, after, 1) if before != after else None
        self.dropout = sizes.dropout

    def forward(self, x: Tensor, m: Tensor | None = None) -> Tensor:
        """Map (B, before, h, w) to (B, after, h, w)."""
        h = self.conv1(activate(self.norm1, x, m))
        h = activate(self.norm2, h, m, overwrite=True)
        h = self.conv2(F.dropout(h, self.dropout, self.training))
        other = x if self.shortcut is None else self.shortcut(x)
        return h + other if torch.is_grad_enabled() else h.add_(other)


class GridAttention(nn.Module):
    """x + out(attention over all N cells of norm(x)), one head of C channels."""

    def __init__(self, channels: int, sizes: ConvSizes) -> None:
        super().__init__()
        self.norm = make_norm(sizes, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, m: Tensor | None = None) -> Tensor:
        """Map (B, C, h, w) to the same."""
        normal = self.norm(x, m) if isinstance(self.norm, ModulatedNorm) else _normalise(
            self.norm, x
        )
        # (B, 3C, h, w) channels-last is (B, 1, N, 3C) in memory: no copy on the way in.
        rows = self.qkv(normal).permute(0, 2, 3, 1).flatten(1, 2)[:, None]
        mixed = F.scaled_dot_product_attention(*rows.chunk(3, dim=-1))
        back = mixed[:, 0].unflatten(1, x.shape[-2:]).permute(0, 3, 1, 2)
        return x + self.out(back)


class HalvingConv(nn.Conv2d):
    """3x3 convolution of stride 2 over a map padded by zeros at the right and bottom only."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, stride=2)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Conv2d's own name
        """Map (B, C, 2 h, 2 w) to (B, C, h, w)."""
        return super().forward(F.pad(input, (0, 1, 0, 1)))


class Level(nn.Module):
    """The blocks of one resolution, attention after each where there is any, then resampling."""

    def __init__(
        self, widths: Sequence[int], sizes: ConvSizes, *, attends: bool, resample: nn.Module | None
    ) -> None:
        super().__init__()
        pairs = list(pairwise(widths))
        self.blocks = nn.ModuleList(ResidualBlock(a, b, sizes) for a, b in pairs)
        self.attentions = nn.ModuleList(GridAttention(b, sizes) for _, b in pairs if attends)
        self.resample = resample
        # diffusers' enable_gradient_checkpointing() finds and sets this attribute.
        self.gradient_checkpointing = False

    def forward(self, x: Tensor, m: Tensor | None = None) -> Tensor:
        """Run the level."""
        for i, block in enumerate(self.blocks):
            x = self._run(block, x, m)
            if self.attentions:
                x = self._run(self.attentions[i], x, m)
        return x if self.resample is None else self.resample(x)

    def _run(self, part: nn.Module, x: Tensor, m: Tensor | None) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(part, x, m, use_reentrant=False)
        return part(x, m)


class Middle(nn.Module):
    """Residual block, attention, residual block at the coarsest resolution."""

    def __init__(self, channels: int, sizes: ConvSizes) -> None:
        super().__init__()
        self.first = ResidualBlock(channels, channels, sizes)
        self.attention = GridAttention(channels, sizes) if sizes.mid_attention else None
        self.last = ResidualBlock(channels, channels, sizes)

    def forward(self, x: Tensor, m: Tensor | None = None) -> Tensor:
        """Map (B, C, h, w) to the same."""
        x = self.first(x, m)
        return self.last(x if self.attention is None else self.attention(x, m), m)


def make_norm(sizes: ConvSizes, channels: int) -> nn.Module:
    """Return a group norm over ``channels``, modulated where the sizes say so."""
    if sizes.modulated_by:
        return ModulatedNorm(sizes.groups, channels, sizes.modulated_by)
    return nn.GroupNorm(sizes.groups, channels, eps=EPS)


def activate(
    norm: nn.Module, x: Tensor, m: Tensor | None, *, overwrite: bool = False
) -> Tensor:
    """Return ``silu(norm(x))``; a modulated norm needs m, another may overwrite x."""
    if isinstance(norm, ModulatedNorm):
        y = norm(x, m)
        return F.silu(y, inplace=not y.requires_grad)
    assert isinstance(norm, nn.GroupNorm)
    return group_norm_silu(norm, x, overwrite=overwrite)


def _normalise(norm: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    # As in group_norm_silu: torch 2.13's backward of a channels-last norm of a frozen input.
    frozen = x.device.type == "cpu" and torch.is_grad_enabled() and not x.requires_grad
    return norm(x.contiguous() if frozen else x)


def start_level(module: nn.Module) -> None:
    """Give one module of a side its start; for `torch.nn.Module.apply`, which comes to parts first.

    Convolutions keep the level of what they read, residual branches add little to the stream, and
    modulated norms begin near plain ones.
    """
    if isinstance(module, nn.Conv2d):
        keep_level(module.weight, module.bias)
    elif isinstance(module, ResidualBlock):
        keep_level(module.conv2.weight, module.conv2.bias, RESIDUAL_GAIN)
    elif isinstance(module, GridAttention):
        keep_level(module.out.weight, module.out.bias, RESIDUAL_GAIN)
    elif isinstance(module, ModulatedNorm) and module.scale.bias is not None:
        nn.init.ones_(module.scale.bias)
