"""Vocos backbone: latents to features at frame rate, without any upsampling.

    z (B, T, D) --embed--> position net --norm--> [ConvNeXt block]* --norm--> (B, T, C)

Siuzdak 2023, arXiv 2306.00814, section 3 (backbone); Ji et al. 2024, arXiv 2408.16532 (position
net).  Letters: B batch, T frames, D latent width, C channels, H hidden channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audio_tok.adaptive_norm import AdaptiveNorm
from audio_tok.padded_conv import PaddedConv1d
from audio_tok.position_net import PositionNet
from tok_core.fast_linear import Linear

KERNEL = 7
EPS = 1e-6
_START_STD = 0.02


class ConvNeXtBlock1d(nn.Module):
    """x + gamma * narrow(GELU(widen(norm(depthwise(x))))); (B, T, C) both ways."""

    def __init__(
        self, channels: int, hidden: int, rows: int, *, gamma: float, causal: bool
    ) -> None:
        super().__init__()
        self.depthwise = PaddedConv1d(channels, channels, KERNEL, groups=channels, causal=causal)
        self.norm = AdaptiveNorm(channels, rows, EPS)
        self.widen = Linear(channels, hidden)
        self.narrow = Linear(hidden, channels)
        self.gamma = nn.Parameter(torch.full((channels,), gamma))

    def forward(self, x: Tensor, row: Tensor) -> Tensor:
        """Refine the frames."""
        return self.refine(x, self.depthwise(x), row)

    def refine(self, x: Tensor, neighbours: Tensor, row: Tensor) -> Tensor:
        """Finish the block from its input and the output of its depthwise convolution."""
        y = self.narrow(F.gelu(self.widen(self.norm(neighbours, row))))
        return torch.addcmul(x, y, self.gamma)


class VocosBackbone(nn.Module):
    """Latents to the features that the head reads.

    Args:
        latent_dim: D. width: C, a multiple of 32 with attention. hidden: H of the blocks.
        layers: number of ConvNeXt blocks.
        attention: put the position net before them.
        condition_ids: rows of the adaptive norms.
        dropout: inside the position net.
        causal: no frame depends on later ones. attention_window: frames back, see `PositionNet`.

    Example:
        >>> backbone = VocosBackbone(512, 768, 2304, 12)
        >>> backbone(torch.zeros(1, 75, 512), torch.zeros(1, dtype=torch.int64)).shape
        torch.Size([1, 75, 768])
    """

    def __init__(
        self,
        latent_dim: int,
        width: int,
        hidden: int,
        layers: int,
        *,
        attention: bool = True,
        condition_ids: int = 4,
        dropout: float = 0.1,
        causal: bool = False,
        attention_window: int | None = None,
    ) -> None:
        super().__init__()
        self.embed = PaddedConv1d(latent_dim, width, KERNEL, causal=causal)
        self.position_net = (
            PositionNet(width, dropout=dropout, causal=causal, window=attention_window)
            if attention
            else None
        )
        self.norm = AdaptiveNorm(width, condition_ids, EPS)
        self.blocks = nn.ModuleList(
            ConvNeXtBlock1d(width, hidden, condition_ids, gamma=1 / layers, causal=causal)
            for _ in range(layers)
        )
        self.final_norm = nn.LayerNorm(width, eps=EPS)
        self._start()

    def _start(self) -> None:
        # The position net keeps the ordinary start, as in the reference.
        for part in (self.embed, *self.blocks):
            for module in part.modules():
                if isinstance(module, PaddedConv1d | nn.Linear):
                    nn.init.trunc_normal_(module.weight, std=_START_STD)
                    nn.init.zeros_(module.bias)

    def forward(self, z: Tensor, row: Tensor) -> Tensor:
        """Map latents (B, T, D) to features (B, T, C); ``row`` int64 (1,) or (B,)."""
        x = self.embed(z)
        if self.position_net is not None:
            x = self.position_net(x)
        x = self.norm(x, row)
        for block in self.blocks:
            x = block(x, row)
        return self.final_norm(x)
