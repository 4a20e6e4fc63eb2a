"""Hybrid encoder: convolutional stem, grid-seeded latents, transformer (ours).

    image -> stem -> coarse tokens + latents seeded by fine cells -> blocks -> last N -> z

Letters: B batch, H W pixels, h w coarse grid, N latents, D width, C token size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tok_core.transformer import TransformerBlocks
from vision_tok.conv_stem import ConvStem, initialise_hybrid
from vision_tok.grid_seed import cells_of_tokens


class HybridEncoder(nn.Module):
    """Picture to latents without a discovery phase: every latent starts at a cell of its own.

    Args:
        image_size: side of the square input in pixels.
        channels: of the stem; the coarse stride is 2 ** len(channels).
        width, layers, heads: of the transformer.
        num_tokens: N.
        token_size: C of the latents.
        out_channels: channels of z (2 * C for Gaussian moments).
    """

    cells: Tensor

    def __init__(
        self, *, image_size: int, channels: Sequence[int], width: int, layers: int, heads: int,
        num_tokens: int, out_channels: int, mlp_ratio: float = 4.0, eps: float = 1e-5,
    ) -> None:  # fmt: skip
        super().__init__()
        coarse = image_size // 2 ** len(channels)
        self.num_tokens = num_tokens
        self.stem = ConvStem(channels, width)
        cells = cells_of_tokens(num_tokens, 2 * coarse, 2 * coarse)
        self.register_buffer("cells", torch.tensor(cells), persistent=False)
        self.positional_embedding = nn.Parameter(torch.empty(coarse**2, width))
        self.latent_positional_embedding = nn.Parameter(torch.empty(num_tokens, width))
        self.blocks = TransformerBlocks(layers, width, heads, mlp_ratio, eps)
        self.norm = nn.LayerNorm(width, eps=eps)
        self.project = nn.Linear(width, out_channels)
        self.initialise()

    def initialise(self) -> None:
        """Positions normal(0, 0.02), all layers as in `initialise_hybrid`."""
        initialise_hybrid(self)
        for position in (self.positional_embedding, self.latent_positional_embedding):
            nn.init.normal_(position, std=0.02)

    def forward(self, image: Tensor) -> Tensor:
        """Map images (B, 3, H, W) in [-1, 1] to latents (B, N, out_channels)."""
        coarse, fine = self.stem(image)
        seeds = fine.index_select(1, self.cells) + self.latent_positional_embedding
        x = self.blocks(torch.cat([coarse + self.positional_embedding, seeds], dim=1))
        return self.project(self.norm(x[:, -self.num_tokens :]))
