"""Convolutional stem and head: pixels to grid features and back.

Both work on two grids: the coarse one (h, w) that the transformer attends over, and the fine one
(2h, 2w) whose cells seed the latents and take their tokens back.

Letters: B batch, H W pixels, h w coarse grid, C channels, D transformer width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tok_core.transformer import TransformerBlock


class ConvBlock(nn.Module):
    """x + conv(SiLU(norm(conv(SiLU(norm(x)))))), 3x3, same size and channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(_groups(channels), channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(_groups(channels), channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to the same shape."""
        y = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(y)))


class ConvStem(nn.Module):
    """image (B, 3, H, W) -> 2x2 pixels into channels -> a convolution and a block per level.

    Args:
        channels: channels per level, at least two; the coarse stride is 2 ** len(channels).
        width: D that comes out on both grids.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        # The first halving is a reshape: maps at full resolution would cost the most.
        sizes = [12, *channels]
        self.levels = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(sizes[i], sizes[i + 1], 3, stride=1 if i == 0 else 2, padding=1),
                ConvBlock(sizes[i + 1]),
            )
            for i in range(len(channels))
        )
        self.fine = nn.Conv2d(channels[-2], width, 1)
        self.coarse = nn.Conv2d(channels[-1], width, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return coarse (B, h*w, D) and fine (B, 4*h*w, D) features in raster order."""
        x = F.pixel_unshuffle(image, 2)
        for level in self.levels[:-1]:
            x = level(x)
        coarse = self.coarse(self.levels[-1](x))
        return coarse.flatten(2).transpose(1, 2), self.fine(x).flatten(2).transpose(1, 2)


class ConvHead(nn.Module):
    """coarse and fine maps -> a block and a doubling per level -> image (B, 3, H, W).

    Args:
        channels: the stem's channels, from fine to coarse.
        width: D that comes in on both grids.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        sizes = list(reversed(channels))
        self.coarse = nn.Conv2d(width, sizes[0], 1)
        self.fine = nn.Conv2d(width, sizes[1], 1)
        self.levels = nn.ModuleList(ConvBlock(size) for size in sizes)
        self.up = nn.ModuleList(
            nn.Conv2d(sizes[i], 4 * (sizes[i + 1] if i + 1 < len(sizes) else 3), 3, padding=1)
            for i in range(len(sizes))
        )

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """Map (B, D, h, w) and (B, D, 2h, 2w) to (B, 3, H, W)."""
        x = F.pixel_shuffle(self.up[0](self.levels[0](self.coarse(coarse))), 2) + self.fine(fine)
        for level, up in zip(self.levels[1:], self.up[1:], strict=True):
            x = F.pixel_shuffle(up(level(x)), 2)
        return x


@torch.no_grad()
def initialise_hybrid(module: nn.Module) -> None:
    """Start every layer at torch's own scale and every residual branch close to nothing.

    The network then begins as a plain path from each cell through its token back to its cell.
    TiTok's normal(0, 0.02) is not for it: with projections that small the first steps drag all
    latents into the three dimensions of a mean colour, and quantization keeps them there.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            part.reset_parameters()
    for part in module.modules():
        if isinstance(part, ConvBlock):
            nn.init.zeros_(part.conv2.weight)
        elif isinstance(part, TransformerBlock):
            for last in (part.attention.out, part.mlp.down):
                nn.init.normal_(last.weight, std=0.01)
                nn.init.zeros_(last.bias)


def _groups(channels: int) -> int:
    return next(g for g in (32, 16, 8, 4, 2, 1) if channels % g == 0 and channels // g >= 4)
