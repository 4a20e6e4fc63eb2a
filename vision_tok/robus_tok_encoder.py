"""RobusTok encoder: a picture and learned queries go through one ViT; the queries come out.

    [class, patches] + positions ------------------ + level 0 --+
    P x [g * g queries + positions on g x g] ------ + level i --+--> blocks --> norm --> queries

Li et al., "ImageFolder", arXiv 2410.01756; "XQ-GAN", arXiv 2412.01762.  Letters: B batch, S side
in pixels, P branches, g side of the code grid, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vision_tok.robus_tok_config import RobusTokConfig
from vision_tok.vision_tower import VisionTower

# Of queries and mask tokens: nearly nothing; their positions tell them apart.
TOKEN_STD = 1e-6


class RobusTokEncoder(nn.Module):
    """Picture to one feature per query, in DINOv2's ViT.

    Queries have no positions of their own: they borrow those of the patches, resized to g x g.

    Args:
        config: of the whole model.

    Attributes:
        latent_tokens: (P g g, W), branch after branch.
        level_table: (1 + P, W): picture, then every branch.

    Example:
        >>> RobusTokEncoder(config)(torch.zeros(1, 3, 256, 256)).shape  # doctest: +SKIP
        torch.Size([1, 256, 768])
    """

    def __init__(self, config: RobusTokConfig) -> None:
        super().__init__()
        side = config.encoder
        self.branches, self.code_grid = config.branches, config.code_grid
        self.tower = VisionTower(
            config.tower(side), positions="antialias", drop_path=config.drop_path,
            position_start=config.position_start,
        )  # fmt: skip
        queries = config.branches * config.code_grid**2
        self.latent_tokens = nn.Parameter(torch.empty(queries, side.width))
        self.level_table = level_table(1 + config.branches, side.width)
        nn.init.normal_(self.latent_tokens, std=TOKEN_STD)

    def forward(self, x: Tensor) -> Tensor:
        """Map pictures (B, 3, S, S) in [-1, 1] to (B, P g g, W), branch after branch, row-major."""
        picture = self.tower.embedded(x)
        places = self.tower.grid_positions((self.code_grid, self.code_grid))
        queries = self.latent_tokens.unflatten(0, (self.branches, -1)) + places
        # Levels by place, not by a stored list: any picture size keeps its own.
        queries = (queries + self.level_table[1:, None]).flatten(0, 1)
        queries = queries.expand(len(x), -1, -1)
        tokens = torch.cat((picture + self.level_table[0], queries), dim=1)
        return self.tower.run(tokens)[:, -queries.shape[1] :]


def level_table(rows: int, width: int) -> nn.Parameter:
    """Return fresh level embeddings (rows, width)."""
    table = nn.Parameter(torch.empty(rows, width))
    nn.init.trunc_normal_(table, std=(1 / (3 * width)) ** 0.5)
    return table
