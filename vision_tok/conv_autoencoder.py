"""The convolutional autoencoder of the VQGAN family: one topology under five published layouts.

    picture (B, 3, H, W) --ConvEncoder--> (B, Z, h, w)        (B, Z, h, w) --ConvDecoder--> picture

    encoder   3x3 in, levels from fine to coarse, middle, norm, SiLU, 3x3 out
    decoder   3x3 in, middle, levels from coarse to fine (one block more each), norm, SiLU, 3x3 out

LlamaGen's VQ-16 and VQ-8, TokenFlow's pixel branch, taming's VQGAN, VAR's VQVAE and diffusers'
VQModel all are this network; `vision_tok.conv_autoencoder_keys` knows their names.
Esser et al., arXiv 2012.09841; Sun et al., arXiv 2406.06525.

Letters: B batch, H W pixels, h w grid, M modulating channels, Z latent channels, F = H / h.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tok_core.errors import ConfigError
from vision_tok.conv_blocks import HalvingConv, Level, Middle, activate, make_norm, start_level
from vision_tok.conv_sizes import ConvSizes
from vision_tok.upsample_conv import UpsampleConv


class ConvEncoder(nn.Module):
    """Pictures (B, 3, F h, F w) in [-1, 1] to latents (B, Z, h, w).

    Args:
        sizes: of this side; ``modulated_by`` is not for encoders.

    Attributes:
        factor: F.

    Raises:
        ConfigError: modulated norms.

    Example:
        >>> ConvEncoder(ConvSizes())(torch.zeros(1, 3, 64, 96)).shape
        torch.Size([1, 256, 4, 6])
    """

    def __init__(self, sizes: ConvSizes) -> None:
        super().__init__()
        if sizes.modulated_by:
            raise ConfigError("modulated_by belongs to the decoder; leave it out of the encoder")
        self.sizes, self.factor = sizes, sizes.factor
        before = [sizes.channels, *sizes.widths[:-1]]
        self.conv_in = nn.Conv2d(3, sizes.channels, 3, padding=1)
        last = len(sizes.widths) - 1
        self.levels = nn.ModuleList(
            Level(
                [a] + [b] * sizes.res_blocks, sizes, attends=sizes.attends(i),
                resample=HalvingConv(b) if i < last else None,
            )
            for i, (a, b) in enumerate(zip(before, sizes.widths, strict=True))
        )  # fmt: skip
        self.middle = Middle(sizes.widths[-1], sizes)
        self.norm_out = make_norm(sizes, sizes.widths[-1])
        self.conv_out = nn.Conv2d(sizes.widths[-1], sizes.z_channels, 3, padding=1)
        self.apply(start_level)

    def forward(self, picture: Tensor) -> Tensor:
        """Encode."""
        x = self.conv_in(_channels_last(picture))
        for level in self.levels:
            x = level(x)
        x = self.middle(x)
        return self.conv_out(activate(self.norm_out, x, None, overwrite=True))


class ConvDecoder(nn.Module):
    """Latents (B, Z, h, w) to pictures (B, 3, F h, F w), roughly in [-1, 1], not clamped.

    ``levels`` are in the order in which they run: the first is the coarsest.

    Args:
        sizes: of this side.

    Attributes:
        factor: F.

    Example:
        >>> ConvDecoder(ConvSizes())(torch.zeros(1, 256, 4, 6)).shape
        torch.Size([1, 3, 64, 96])
    """

    def __init__(self, sizes: ConvSizes) -> None:
        super().__init__()
        self.sizes, self.factor = sizes, sizes.factor
        widths = sizes.widths[::-1]
        before = [widths[0], *widths[:-1]]
        self.conv_in = nn.Conv2d(sizes.z_channels, widths[0], 3, padding=1)
        self.middle = Middle(widths[0], sizes)
        last = len(widths) - 1
        self.levels = nn.ModuleList(
            Level(
                [a] + [b] * (sizes.res_blocks + 1), sizes, attends=sizes.attends(last - i),
                resample=UpsampleConv(b, b) if i < last else None,
            )
            for i, (a, b) in enumerate(zip(before, widths, strict=True))
        )  # fmt: skip
        self.norm_out = make_norm(sizes, widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], 3, 3, padding=1)
        self.apply(start_level)

    def forward(self, z: Tensor, modulation: Tensor | None = None) -> Tensor:
        """Decode; ``modulation`` (B, M, h, w) for modulated norms only."""
        x = self.middle(self.conv_in(_channels_last(z)), modulation)
        for level in self.levels:
            x = level(x, modulation)
        x = self.conv_out(activate(self.norm_out, x, modulation, overwrite=True))
        return x.contiguous()


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
