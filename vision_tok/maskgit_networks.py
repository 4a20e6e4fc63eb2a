"""Convolutional networks of MaskGIT-VQGAN: encoder contiguous, decoder channels-last.

Letters: B batch, H W pixels, h w grid, Z latent channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tok_core.fast_group_norm import group_norm_silu
from vision_tok.upsample_conv import UpsampleConv

GROUPS, EPS = 32, 1e-6


class ResidualBlock(nn.Module):
    """Norm, SiLU, 3x3 convolution, twice; bias-free convolutions.

    Where the width changes there is no identity path: the published network applies the 1x1
    "shortcut" to the block's own output, ``h + shortcut(h)``, and its weights need exactly that.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, in_channels, eps=EPS)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(GROUPS, out_channels, eps=EPS)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.nin_shortcut = (
            nn.Conv2d(out_channels, out_channels, 1, bias=False)
            if in_channels != out_channels
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in, h, w) to (B, out, h, w)."""
        h = self.conv1(group_norm_silu(self.norm1, x))
        h = self.conv2(group_norm_silu(self.norm2, h, overwrite=True))
        other = x if self.nin_shortcut is None else self.nin_shortcut(h)
        return h + other if torch.is_grad_enabled() else h.add_(other)


class Level(nn.Module):
    """The residual blocks of one resolution and, in the decoder, the doubling after them."""

    def __init__(self, widths: Sequence[int], *, upsample: bool = False) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            ResidualBlock(a, b) for a, b in pairwise(widths)
        )
        self.upsample_conv = UpsampleConv(widths[-1], widths[-1]) if upsample else None

    def forward(self, x: Tensor) -> Tensor:
        """Run the level."""
        for block in self.block:
            x = block(x)
        return x if self.upsample_conv is None else self.upsample_conv(x)


class MaskGitEncoder(nn.Module):
    """Picture (B, 3, H, W) in [0, 1] to (B, Z, h, w), sizes floored at each halving.

    Args:
        hidden_channels: width of the finest level.
        channel_mult: width of every level over ``hidden_channels``, from fine to coarse.
        num_res_blocks: residual blocks per level.
        z_channels: Z.
    """

    def __init__(
        self, hidden_channels: int, channel_mult: Sequence[int], num_res_blocks: int,
        z_channels: int,
    ) -> None:  # fmt: skip
        super().__init__()
        widths = [hidden_channels * m for m in channel_mult]
        before = [hidden_channels, *widths[:-1]]
        self.conv_in = nn.Conv2d(3, hidden_channels, 3, padding=1, bias=False)
        self.down = nn.ModuleList(
            Level([a] + [b] * num_res_blocks) for a, b in zip(before, widths, strict=True)
        )
        self.mid = nn.ModuleList(
            ResidualBlock(widths[-1], widths[-1]) for _ in range(num_res_blocks)
        )
        self.norm_out = nn.GroupNorm(GROUPS, widths[-1], eps=EPS)
        self.conv_out = nn.Conv2d(widths[-1], z_channels, 1)

    def forward(self, picture: Tensor) -> Tensor:
        """Encode."""
        # Contiguous on purpose: torch's channels-last group norm rounds ten times worse on CPU, and
        # here rounding decides codes.
        x = self.conv_in(picture.contiguous())
        for i, level in enumerate(self.down):
            x = level(x)
            if i < len(self.down) - 1:
                x = F.avg_pool2d(x, 2)
        for block in self.mid:
            x = block(x)
        return self.conv_out(group_norm_silu(self.norm_out, x, overwrite=True))


class MaskGitDecoder(nn.Module):
    """Code vectors (B, Z, h, w) to a picture (B, 3, H, W), roughly in [0, 1]; arguments as above.

    ``up[i]`` is level i, so the last entry runs first.
    """

    def __init__(
        self, hidden_channels: int, channel_mult: Sequence[int], num_res_blocks: int,
        z_channels: int,
    ) -> None:  # fmt: skip
        super().__init__()
        widths = [hidden_channels * m for m in channel_mult]
        before = [*widths[1:], widths[-1]]
        self.conv_in = nn.Conv2d(z_channels, widths[-1], 3, padding=1)
        self.mid = nn.ModuleList(
            ResidualBlock(widths[-1], widths[-1]) for _ in range(num_res_blocks)
        )
        self.up = nn.ModuleList(
            Level([a] + [b] * num_res_blocks, upsample=i > 0)
            for i, (a, b) in enumerate(zip(before, widths, strict=True))
        )
        self.norm_out = nn.GroupNorm(GROUPS, widths[0], eps=EPS)
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """Decode; channels-last, which CPU convolutions run a third faster."""
        x = self.conv_in(_channels_last(z))
        for block in self.mid:
            x = block(x)
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(group_norm_silu(self.norm_out, x, overwrite=True)).contiguous()


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
