"""TiTok decoder: the first k tokens and a grid of identical mask tokens give a picture.

    class token      ┐
    G * G mask tokens├-> + positions -> norm -> blocks -> the G * G cells -> norm -> head
    k latents (+text)┘

Letters: B batch, G grid cells per side, N tokens, k of them given, W width, C token size,
P patch size, K proxy codes, T text positions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tok_core.errors import TokenError
from tok_core.fast_linear import Linear
from tok_core.transformer import TransformerBlocks, initialise_transformer
from vision_tok.titok_config import TextOptions, TiTokConfig
from vision_tok.titok_encoder import normal_by_width


class LegacyHead(nn.Module):
    """Cells (B, W, G, G) -> logits (B, K, G, G) over a teacher's codes; tanh, not GELU."""

    def __init__(self, width: int, proxy_codebook_size: int) -> None:
        super().__init__()
        self.hidden = Linear(width, 2 * width)
        self.logits = Linear(2 * width, proxy_codebook_size)

    def forward(self, cells: Tensor) -> Tensor:
        """Predict the proxy code of every cell."""
        rows = cells.permute(0, 2, 3, 1)
        return self.logits(torch.tanh(self.hidden(rows))).permute(0, 3, 1, 2)


class DirectHead(nn.Module):
    """Cells (B, W, G, G) -> picture (B, 3, G P, G P): unfold every cell, then one 3x3 convolution.

    Pixels of a patch lie in the channels as (row, column, colour), the colour fastest.
    """

    def __init__(self, width: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.pixels = Linear(width, 3 * patch_size**2)
        self.smooth = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, cells: Tensor) -> Tensor:
        """Paint; the network's [0, 1] becomes [-1, 1]."""
        batch, _, rows, columns = cells.shape
        p = self.patch_size
        x = self.pixels(cells.permute(0, 2, 3, 1)).view(batch, rows, columns, p, p, 3)
        picture = x.permute(0, 5, 1, 3, 2, 4).reshape(batch, 3, rows * p, columns * p)
        return self.smooth(picture) * 2 - 1


class TiTokDecoder(nn.Module):
    """Any prefix of the quantized tokens to proxy-code logits or pixels.

    Args:
        config: of the whole model.
    """

    def __init__(self, config: TiTokConfig) -> None:
        super().__init__()
        width, size, eps = config.decoder_size.width, config.decoder_size, config.layer_norm_eps
        self.grid = config.grid
        self.token_projection = Linear(config.token_size, width)
        self.class_embedding = nn.Parameter(torch.empty(1, width))
        self.positional_embedding = nn.Parameter(torch.empty(self.grid**2 + 1, width))
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.latent_token_positional_embedding = nn.Parameter(torch.empty(config.num_tokens, width))
        self.norm_in = nn.LayerNorm(width, eps=eps)
        self.blocks = TransformerBlocks(size.layers, width, size.num_heads, config.mlp_ratio, eps)
        self.norm_out = nn.LayerNorm(width, eps=eps)
        self.text = None if config.text is None else TextGuidance(config.text, width)
        self.head: nn.Module
        if config.head == "legacy":
            self.head = LegacyHead(width, config.proxy_codebook_size)
        else:
            self.head = DirectHead(width, config.patch_size)
        self.initialise()

    def initialise(self) -> None:
        """Linear layers normal(0, 0.02), tokens and positions normal times W ** -0.5."""
        initialise_transformer(self)
        normal_by_width(self)
        if self.text is not None:
            normal_by_width(self.text)

    def forward(
        self, z_q: Tensor, keep: Tensor | None = None, condition: Tensor | None = None
    ) -> Tensor:
        """Decode kept tokens.

        Args:
            z_q: (B, k, C) quantized latents of the first k tokens, 1 <= k <= N.
            keep: bool (B, k), False where an item of the batch keeps fewer; None keeps all. Masked
                tokens are hidden from attention, which gives what slicing gives.
            condition: (B, T, E) text features, for a text-aware decoder.

        Returns:
            Logits (B, K, G, G) with the legacy head, else a picture in [-1, 1], not clamped.
        """
        batch, k, _ = z_q.shape
        cells = self.grid**2
        tokens = self.token_projection(z_q) + self.latent_token_positional_embedding[:k]
        start = torch.cat([self.class_embedding, self.mask_token[0].expand(cells, -1)])
        start = (start + self.positional_embedding).expand(batch, -1, -1)
        parts = [start.to(tokens.dtype), tokens, *self._text(condition, batch)]
        seen = None
        if keep is not None:
            known = [keep.new_ones(batch, part.shape[1]) for part in parts]
            seen = torch.cat([known[0], keep, *known[2:]], dim=1)
        x = self.blocks(self.norm_in(torch.cat(parts, dim=1)), seen)
        x = self.norm_out(x[:, 1 : cells + 1])
        return self.head(x.transpose(1, 2).unflatten(2, (self.grid, self.grid)))

    def _text(self, condition: Tensor | None, batch: int) -> list[Tensor]:
        if self.text is None:
            if condition is not None:
                raise TokenError("this decoder takes no condition; leave it out.")
            return []
        legal = (batch, *self.text.shape)
        if condition is None or tuple(condition.shape) != legal:
            got = "nothing" if condition is None else f"shape {tuple(condition.shape)}"
            raise TokenError(
                f"this decoder is conditioned on text but got {got}; pass CLIP text features of "
                f"shape {legal} as condition."
            )
        return [self.text(condition)]


class TextGuidance(nn.Module):
    """Text features (B, T, E) to decoder positions (B, T, W) (TA-TiTok, arXiv 2501.07730)."""

    def __init__(self, options: TextOptions, width: int) -> None:
        super().__init__()
        self.shape = (options.context_length, options.embed_dim)
        self.projection = Linear(options.embed_dim, width)
        self.positional_embedding = nn.Parameter(torch.empty(options.context_length, width))

    def forward(self, features: Tensor) -> Tensor:
        """Project every text position."""
        return self.projection(features) + self.positional_embedding
