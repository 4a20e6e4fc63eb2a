"""DINO-head discriminator: small heads judge what a frozen self-supervised trunk sees.

    x --trunk, frozen--> h_0 (before block 0), h_1 .. h_K (after chosen blocks)   (B, C, L) each
    h_k --1x conv, norm, LeakyReLU--> y --(y + LeakyReLU(norm(9x conv y))) / sqrt 2--> 1x conv
    --> L logits per head, all heads side by side (B, sum L)

Letters: B pictures, C trunk width, L tokens of one read-out, K read-outs.  Convolutions run along
the tokens, row by row, and carry spectral norm.  After Sauer et al., "StyleGAN-T", arXiv
2301.09515, in the form that XQ-GAN (arXiv 2412.01762) and RobusTok (arXiv 2509.12474) train with.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from tok_core.errors import ConfigError
from vision_tok.discriminator_trunk import FrozenTrunk

SLOPE = 0.2
VIRTUAL_BATCH = 8
KERNEL = 9


class LocalBatchNorm(nn.Module):
    """Batch norm over virtual batches of about eight neighbours, in training and in eval mode.

    The batch is cut into ceil(B / 8) runs of consecutive items; each is normalised by its own
    statistics over items and tokens (biased variance), then scaled and shifted.  Where the official
    view needs equal runs, ours differ by one item at most when they cannot be equal.  The
    statistics are one process's: several processes give what one gives on the joined batch where
    the runs fall alike, as with a multiple of eight pictures per process.

    Args:
        width: C. virtual: items per run. eps: added to the variance.

    Example:
        >>> LocalBatchNorm(24)(torch.randn(16, 24, 5)).shape
        torch.Size([16, 24, 5])
    """

    def __init__(self, width: int, virtual: int = VIRTUAL_BATCH, eps: float = 1e-6) -> None:
        super().__init__()
        self.virtual, self.eps = virtual, eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, L) to (B, C, L)."""
        runs = torch.tensor_split(x, math.ceil(len(x) / self.virtual))
        return torch.cat([self._normalised(run) for run in runs])

    def _normalised(self, run: Tensor) -> Tensor:
        return F.batch_norm(run, None, None, self.weight, self.bias, training=True, eps=self.eps)


class _Head(nn.Module):
    """(B, C, L) to logits (B, L)."""

    def __init__(self, width: int, kernel: int, virtual: int, spectral: bool) -> None:
        super().__init__()
        normed = spectral_norm if spectral else _unchanged
        self.enter = normed(nn.Conv1d(width, width, 1))
        self.enter_norm = LocalBatchNorm(width, virtual)
        self.mix = normed(
            nn.Conv1d(width, width, kernel, padding=kernel // 2, padding_mode="circular")
        )
        self.mix_norm = LocalBatchNorm(width, virtual)
        self.judge = normed(nn.Conv1d(width, 1, 1))

    def forward(self, h: Tensor) -> Tensor:
        y = F.leaky_relu(self.enter_norm(self.enter(h)), SLOPE)
        mixed = F.leaky_relu(self.mix_norm(self.mix(y)), SLOPE)
        return self.judge((y + mixed) / math.sqrt(2)).flatten(1)


class DinoDiscriminator(nn.Module):
    """Larger logits mean more real; takes pictures in [-1, 1] of any size.

    The state dict holds the heads alone: the trunk's tensors are buffers that are not saved.

    Args:
        trunk: where the heads read; it never trains.
        kernel: taps of each head's wide convolution, odd.
        virtual: items per run of the batch norm.
        spectral: divide each convolution's weight by its largest singular value, by one power
            iteration per training pass; frozen in eval mode.

    Raises:
        ConfigError: an even kernel, or one that reaches round the read-out more than once.

    Example:
        >>> discriminator = DinoDiscriminator(build_trunk(options))  # doctest: +SKIP
        >>> discriminator(torch.zeros(2, 3, 256, 256)).shape         # doctest: +SKIP
        torch.Size([2, 980])
    """

    def __init__(
        self, trunk: FrozenTrunk, *, kernel: int = KERNEL, virtual: int = VIRTUAL_BATCH,
        spectral: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.trunk = trunk
        shortest = min(trunk.lengths)
        if shortest < 2:
            raise ConfigError(
                "a read-out of the discriminator's trunk has a single token, which a batch norm "
                "cannot judge; give a trunk with a larger grid"
            )
        if kernel < 1 or kernel % 2 == 0 or kernel // 2 > shortest:
            raise ConfigError(
                f"the heads' kernel is {kernel} and the shortest read-out of the trunk has "
                f"{shortest} tokens; give an odd kernel of at most {2 * shortest + 1}"
            )
        if virtual < 1:
            raise ConfigError(f"the virtual batch is {virtual}; give at least 1 (8 is published)")
        self.heads = nn.ModuleList(
            _Head(width, kernel, virtual, spectral) for width in trunk.widths
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, sum of the read-outs' L) for pictures (B, 3, H, W) in [-1, 1]."""
        readouts = self.trunk(x)
        return torch.cat(
            [head(h) for head, h in zip(self.heads, readouts, strict=True)], dim=1
        )


def _unchanged(layer: nn.Module) -> nn.Module:
    return layer
