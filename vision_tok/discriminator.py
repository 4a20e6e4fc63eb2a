"""The blur-pool patch discriminator of the TiTok family.

Letters: B pictures, H x W pixels, C channels.

    x --5x5 conv, LeakyReLU--> [3x3 conv, blur stride 2, GroupNorm, LeakyReLU] x stages
      --adaptive max-pool 16x16--> 1x1 conv, LeakyReLU, 5x5 conv --> one logit per cell (B,1,16,16)

Anti-aliased down-sampling after Zhang, arXiv 1904.11486.  It takes pictures in [0, 1].
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_BINOMIAL = (1.0, 3.0, 3.0, 1.0)


class Blur(nn.Module):
    """4x4 binomial blur with stride 2; (B, C, h, w) -> (B, C, ceil(h/2), ceil(w/2)).

    Borders are zeros: one before, one after an even side, two after an odd one.
    """

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        row = torch.tensor(_BINOMIAL)
        # The outer product sums to 64.  A buffer, since the published loss state holds it.
        self.register_buffer("kernel", (torch.outer(row, row) / 64.0).view(1, 1, 4, 4))

    def forward(self, x: Tensor) -> Tensor:
        """Blur and halve each channel by itself."""
        h, w = x.shape[-2:]
        x = F.pad(x, (1, 1 + w % 2, 1, 1 + h % 2))
        kernel = self.kernel.to(x.dtype).expand(x.shape[1], 1, 4, 4)
        return F.conv2d(x, kernel, stride=2, groups=x.shape[1])


class _GroupNorm(nn.GroupNorm):
    """Group normalisation over contiguous memory.

    torch's channels-last CPU kernel is 20 times less exact (2.6e-5 on logits against 1.3e-6).
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.contiguous())


class Discriminator(nn.Module):
    """Patch discriminator with blurred down-sampling; larger logits mean more real.

    Args:
        channels: width of the first stage; the next are 1, 2, 4, ... times as wide.
        stages: down-samplings by 2.
        groups: groups of the group normalisation (eps 1e-5).
        slope: of the leaky ReLUs.
        grid: side of the pooled logit map.

    Example:
        >>> Discriminator()(torch.rand(2, 3, 256, 256)).shape
        torch.Size([2, 1, 16, 16])
    """

    def __init__(
        self,
        channels: int = 128,
        stages: int = 3,
        groups: int = 32,
        slope: float = 0.1,
        grid: int = 16,
    ) -> None:
        super().__init__()
        self.channels, self.stages = channels, stages
        self.block_in = nn.Sequential(nn.Conv2d(3, channels, 5, padding=2), nn.LeakyReLU(slope))
        widths = [channels] + [channels * 2**stage for stage in range(stages)]
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, 3, padding=1),
                Blur(),
                _GroupNorm(groups, after, eps=1e-5),
                nn.LeakyReLU(slope),
            )
            for before, after in pairwise(widths)
        )
        self.pool = nn.AdaptiveMaxPool2d((grid, grid))
        last = widths[-1]
        self.to_logits = nn.Sequential(
            nn.Conv2d(last, last, 1), nn.LeakyReLU(slope), nn.Conv2d(last, 1, 5, padding=2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, 1, grid, grid) for pictures (B, 3, H, W) in [0, 1]."""
        h = self.block_in(x.contiguous(memory_format=torch.channels_last))
        for block in self.blocks:
            h = block(h)
        return self.to_logits(self.pool(h))
