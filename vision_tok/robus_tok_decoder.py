"""RobusTok decoder: code features and a grid of mask tokens go through one ViT; the grid paints.

    [class, mask tokens] + positions ------------ + level 0 --+
    [class, g * g code features] + positions ---- + level 1 --+--> blocks --> norm --> pixels

Both halves begin with the same class token: leaving out the second would shift every code.

Li et al., "XQ-GAN", arXiv 2412.01762.  Letters: B batch, S side in pixels, G cells per side, p
pixels per cell, g side of the code grid, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tok_core.fast_linear import Linear
from vision_tok.robus_tok_config import RobusTokConfig
from vision_tok.robus_tok_encoder import TOKEN_STD, level_table
from vision_tok.vision_tower import VisionTower


class RobusTokDecoder(nn.Module):
    """Code features to a picture, in DINOv2's ViT without its patch convolution.

    Args:
        config: of the whole model.

    Attributes:
        mask_token: (W,). level_table: (2, W): picture, codes.
        to_pixel: W to p * p * 3 values, rows of the cell first, colours last.

    Example:
        >>> RobusTokDecoder(config)(torch.zeros(1, 256, 768)).shape  # doctest: +SKIP
        torch.Size([1, 3, 256, 256])
    """

    def __init__(self, config: RobusTokConfig) -> None:
        super().__init__()
        side = config.decoder
        self.grid, self.code_grid = config.grid, config.code_grid
        self.patch_size = config.patch_size
        self.tower = VisionTower(
            config.tower(side), positions="antialias", drop_path=config.drop_path,
            position_start=config.position_start, sees=False,
        )  # fmt: skip
        self.mask_token = nn.Parameter(torch.empty(side.width))
        self.level_table = level_table(2, side.width)
        self.to_pixel = Linear(side.width, 3 * config.patch_size**2)
        nn.init.normal_(self.mask_token, std=TOKEN_STD)

    def forward(self, codes: Tensor) -> Tensor:
        """Map code features (B, g g, W), row-major, to pictures (B, 3, S, S), not clamped."""
        cells = self.grid**2
        levels = self.level_table
        masks = self.mask_token.expand(len(codes), cells, -1)
        picture = self.tower.placed(masks, (self.grid, self.grid)) + levels[0]
        placed = self.tower.placed(codes, (self.code_grid, self.code_grid)) + levels[1]
        x = self.tower.run(torch.cat((picture, placed), dim=1))
        return self._unfolded(self.to_pixel(x[:, 1 : cells + 1]))

    def _unfolded(self, pixels: Tensor) -> Tensor:
        """Bring cells (B, G G, p p 3) to pictures (B, 3, G p, G p)."""
        batch, p = len(pixels), self.patch_size
        x = pixels.view(batch, self.grid, self.grid, p, p, 3).permute(0, 5, 1, 3, 2, 4)
        return x.reshape(batch, 3, self.grid * p, self.grid * p)
