"""Convolutional stem and head: pixels to grid tokens and back (the hybrid of the small models).

Letters: B batch, H W pixels, h w grid, C channels, D transformer width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class ConvBlock(nn.Module):
    """x + conv(SiLU(norm(conv(SiLU(norm(x)))))), 3x3, same size and channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(_groups(channels), channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(_groups(channels), channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(y)))


class ConvStem(nn.Module):
    """image (B, 3, H, W) -> strided 3x3 convolutions with one block per level -> (B, D, h, w).

    Args:
        channels: channels after each halving; the stride is 2 ** len(channels).
        width: channels D that come out.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        # The first halving folds 2x2 pixels into channels: full-resolution maps cost the most.
        sizes = [12, *channels]
        self.levels = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(sizes[i], sizes[i + 1], 3, stride=1 if i == 0 else 2, padding=1),
                ConvBlock(sizes[i + 1]),
            )
            for i in range(len(channels))
        )
        self.out = nn.Conv2d(sizes[-1], width, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = F.pixel_unshuffle(image, 2)
        for level in self.levels:
            x = level(x)
        return self.out(x)


class ConvHead(nn.Module):
    """(B, D, h, w) -> one block and a doubling per level -> image (B, 3, H, W).

    Args:
        channels: the stem's channels, from fine to coarse.
        width: channels D that come in.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        sizes = list(reversed(channels))
        self.into = nn.Conv2d(width, sizes[0], 1)
        self.levels = nn.ModuleList(ConvBlock(size) for size in sizes)
        self.up = nn.ModuleList(
            nn.Conv2d(sizes[i], 4 * (sizes[i + 1] if i + 1 < len(sizes) else 3), 3, padding=1)
            for i in range(len(sizes))
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x)
        for level, up in zip(self.levels, self.up, strict=True):
            x = F.pixel_shuffle(up(level(x)), 2)
        return x


def _groups(channels: int) -> int:
    return next(g for g in (32, 16, 8, 4, 2, 1) if channels % g == 0 and channels // g >= 4)
