"""TiTok encoder: a picture and N learned queries go in, N latents come out.

    image -> patches ┐
    class token      ├-> + positions -> norm -> blocks -> last N -> norm -> projection -> z
    N latent queries ┘

Letters: B batch, S image side, G grid cells per side, N tokens, W width, C token size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tok_core.fast_linear import Linear
from tok_core.transformer import TransformerBlocks, initialise_transformer
from vision_tok.titok_config import TiTokConfig


class PatchStem(nn.Module):
    """One strided convolution: (B, 3, S, S) -> patch tokens (B, G * G, W), row by row."""

    def __init__(self, patch_size: int, width: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(3, width, patch_size, stride=patch_size)

    def forward(self, image: Tensor) -> Tensor:
        """Cut the image into patches and project each."""
        return self.projection(image).flatten(2).transpose(1, 2)


class TiTokEncoder(nn.Module):
    """Picture to latents (Yu et al., arXiv 2406.07550, section 3.2).

    Args:
        config: of the whole model.
        out_channels: channels of z: C, or 2 C for mean and log-variance.
    """

    def __init__(self, config: TiTokConfig, out_channels: int) -> None:
        super().__init__()
        width, size = config.encoder_size.width, config.encoder_size
        self.num_tokens = config.num_tokens
        self.legacy_reshape = config.legacy_reshape
        self.stem = PatchStem(config.patch_size, width)
        self.class_embedding = nn.Parameter(torch.empty(1, width))
        self.positional_embedding = nn.Parameter(torch.empty(config.grid**2 + 1, width))
        self.latent_token_positional_embedding = nn.Parameter(torch.empty(self.num_tokens, width))
        self.norm_in = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.blocks = TransformerBlocks(
            size.layers, width, size.num_heads, config.mlp_ratio, config.layer_norm_eps
        )
        self.norm_out = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.projection = Linear(width, out_channels)
        self.initialise()

    def initialise(self) -> None:
        """Linear layers normal(0, 0.02), positions and class token normal times W ** -0.5."""
        initialise_transformer(self)
        normal_by_width(self)

    def forward(self, image: Tensor, latent_tokens: Tensor) -> Tensor:
        """Encode pictures.

        Args:
            image: (B, 3, S, S) in [-1, 1].
            latent_tokens: (N, W) learned queries.

        Returns:
            (B, N, out_channels).
        """
        batch = image.shape[0]
        # The published networks were trained on pictures in [0, 1].
        patches = self.stem((image + 1) / 2)
        classes = self.class_embedding.expand(batch, 1, -1).to(patches.dtype)
        picture = torch.cat([classes, patches], dim=1) + self.positional_embedding
        queries = latent_tokens + self.latent_token_positional_embedding
        x = torch.cat([picture, queries.expand(batch, -1, -1).to(picture.dtype)], dim=1)
        x = self.blocks(self.norm_in(x))
        return self.projection(self._per_token(self.norm_out(x[:, -self.num_tokens :])))

    def _per_token(self, latents: Tensor) -> Tensor:
        """Return the (B, N, W) rows to project; re-viewed, not transposed, for legacy weights."""
        if not self.legacy_reshape:
            return latents
        batch, tokens, width = latents.shape
        # Output j then mixes the flat entries j, j + N, j + 2 N, ... of the whole buffer.
        return latents.reshape(batch, width, tokens).transpose(1, 2)


def normal_by_width(module: nn.Module) -> None:
    """Draw the module's own tokens and positions from normal(0, 1 / W), W their last axis."""
    for parameter in module.parameters(recurse=False):
        nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
