"""PatchGAN: a discriminator that judges overlapping patches, as VQGANs train against.

    x --4x4 conv stride 2, LeakyReLU--> [4x4 conv stride 2, BatchNorm, LeakyReLU] x (layers - 1)
      --4x4 conv, BatchNorm, LeakyReLU--> 4x4 conv --> one logit per patch

Isola et al., arXiv 1611.07004, in the form of taming's and LlamaGen's released code.  Statistics of
the batch norm are those of one process's pictures, real and reconstructed apart: several processes
do not give exactly what one gives on the joined batch.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

SLOPE = 0.2
WIDEST = 8  # times the first stage's channels


class PatchDiscriminator(nn.Module):
    """Larger logits mean more real; takes pictures in [-1, 1].

    Args:
        channels: width of the first stage; it doubles per stage, up to eight times.
        layers: stages of stride 2.

    Example:
        >>> PatchDiscriminator()(torch.zeros(2, 3, 256, 256)).shape
        torch.Size([2, 1, 30, 30])
    """

    def __init__(self, channels: int = 64, layers: int = 3) -> None:
        super().__init__()
        widths = [channels * min(2**stage, WIDEST) for stage in range(layers + 1)]
        parts: list[nn.Module] = [nn.Conv2d(3, channels, 4, 2, 1), nn.LeakyReLU(SLOPE)]
        for stage, (before, after) in enumerate(pairwise(widths)):
            stride = 2 if stage < layers - 1 else 1
            parts += [
                nn.Conv2d(before, after, 4, stride, 1, bias=False), nn.BatchNorm2d(after),
                nn.LeakyReLU(SLOPE),
            ]  # fmt: skip
        self.main = nn.Sequential(*parts, nn.Conv2d(widths[-1], 1, 4, 1, 1))
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Convolutions normal(0, 0.02), gains of the norms normal(1, 0.02), their shifts 0."""
        for part in self.main:
            if isinstance(part, nn.Conv2d):
                nn.init.normal_(part.weight, 0.0, 0.02)
            elif isinstance(part, nn.BatchNorm2d):
                nn.init.normal_(part.weight, 1.0, 0.02)
                nn.init.zeros_(part.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, 1, h, w) for pictures (B, 3, H, W) in [-1, 1]."""
        return self.main(x.contiguous(memory_format=torch.channels_last))
