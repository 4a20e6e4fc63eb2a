"""Hybrid decoder: tokens return to their cells, transformer, convolutional head (ours).

    z_q -> embed -> onto mask tokens + latents -> blocks -> coarse and fine maps -> head -> image

Letters: B batch, h w coarse grid, N tokens, k kept tokens, D width, C token size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tok_core.transformer import TransformerBlocks
from vision_tok.conv_stem import ConvHead, initialise_hybrid
from vision_tok.grid_seed import cells_of_tokens, parent_cells


class HybridDecoder(nn.Module):
    """Any prefix of the tokens to a picture.

    Each token's embedding is added onto the mask token of its coarse cell; after the blocks the
    latents themselves are laid onto the fine grid, with one learned vector where no token came.

    Args:
        image_size: side of the square output in pixels.
        channels: of the head, from fine to coarse.
        width, layers, heads: of the transformer.
        num_tokens: N.
        token_size: C.
    """

    cells: Tensor
    parents: Tensor

    def __init__(
        self, *, image_size: int, channels: Sequence[int], width: int, layers: int, heads: int,
        num_tokens: int, token_size: int, mlp_ratio: float = 4.0, eps: float = 1e-5,
    ) -> None:  # fmt: skip
        super().__init__()
        self.side = image_size // 2 ** len(channels)
        cells = cells_of_tokens(num_tokens, 2 * self.side, 2 * self.side)
        parents = parent_cells(cells, 2 * self.side)
        self.register_buffer("cells", torch.tensor(cells), persistent=False)
        self.register_buffer("parents", torch.tensor(parents), persistent=False)
        self.embed = nn.Linear(token_size, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.empty_token = nn.Parameter(torch.empty(1, 1, width))
        self.positional_embedding = nn.Parameter(torch.empty(self.side**2, width))
        self.fine_positional_embedding = nn.Parameter(torch.empty(4 * self.side**2, width))
        self.latent_positional_embedding = nn.Parameter(torch.empty(num_tokens, width))
        self.blocks = TransformerBlocks(layers, width, heads, mlp_ratio, eps)
        self.norm = nn.LayerNorm(width, eps=eps)
        self.head = ConvHead(channels, width)
        self.initialise()

    def initialise(self) -> None:
        """Tokens and positions normal(0, 0.02), all layers as in `initialise_hybrid`."""
        initialise_hybrid(self)
        for name, parameter in self.named_parameters():
            if name.endswith(("_token", "positional_embedding")):
                nn.init.normal_(parameter, std=0.02)

    def forward(self, z_q: Tensor, keep: Tensor | None = None) -> Tensor:
        """Decode kept tokens.

        Args:
            z_q: (B, k, C) quantized latents of the first k tokens.
            keep: bool (B, k), False where an item of the batch keeps fewer; None keeps all.

        Returns:
            (B, 3, H, W), not clamped.
        """
        batch, k, _ = z_q.shape
        cells, parents = self.cells[:k], self.parents[:k]
        embedded = self.embed(z_q) + self.latent_positional_embedding[:k]
        if keep is not None:
            embedded = embedded * keep[..., None]
        masks = (self.mask_token + self.positional_embedding).expand(batch, -1, -1)
        masks = masks.index_add(1, parents, embedded.to(masks.dtype))
        seen = None if keep is None else torch.cat([keep.new_ones(batch, masks.shape[1]), keep], 1)
        x = self.norm(self.blocks(torch.cat([masks, embedded], dim=1), seen))
        coarse, latents = x.split([masks.shape[1], k], dim=1)
        if keep is not None:
            latents = torch.where(keep[..., None], latents, self.empty_token.to(latents.dtype))
        fine = self.empty_token.to(latents.dtype).expand(batch, 4 * self.side**2, -1)
        fine = fine.index_copy(1, cells, latents) + self.fine_positional_embedding
        return self.head(_to_map(coarse, self.side), _to_map(fine, 2 * self.side))


def _to_map(x: Tensor, side: int) -> Tensor:
    return x.transpose(1, 2).reshape(x.shape[0], -1, side, side)
