"""Learned positions of a vision transformer on another grid than they were trained on.

Letters: G side of the stored grid, h w the grid that is asked for, W width.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from tok_core.errors import MediaError

PositionRule = Literal["offset-0.1", "size", "antialias", "none"]
POSITION_RULES: tuple[PositionRule, ...] = ("offset-0.1", "size", "antialias", "none")
# DINO's guard against a floor that falls one short; the sampling points really move with it.
OFFSET = 0.1


def resized_positions(table: Tensor, size: tuple[int, int], rule: PositionRule) -> Tensor:
    """Return the positions of another grid, bicubic; the stored ones where the grids agree.

    Args:
        table: (G * G, W) row-major, without those of prefix tokens.
        size: (h, w).
        rule: ``offset-0.1`` resizes by the factors (h + 0.1) / G and (w + 0.1) / G, as DINO,
            BEiT-v2 and TokenFlow do; ``size`` resizes to (h, w) exactly, as transformers does;
            ``antialias`` does so with antialiasing, as timm does; ``none`` allows the stored grid
            alone.

    Returns:
        (h * w, W) row-major.

    Raises:
        MediaError: another grid with rule ``none``.

    Source: Caron et al., "Emerging Properties in Self-Supervised Vision Transformers",
    arXiv 2104.14294, released code.

    Example:
        >>> resized_positions(torch.zeros(196, 768), (16, 16), "offset-0.1").shape
        torch.Size([256, 768])
    """
    side = round(len(table) ** 0.5)
    if size == (side, side):
        return table
    if rule == "none":
        raise MediaError(
            f"the pictures make a {size[0]} x {size[1]} grid but this transformer's positions are "
            f"those of {side} x {side}; give pictures of its own size, or set positions to 'size'."
        )
    grid = table.view(1, side, side, -1).permute(0, 3, 1, 2).float()
    if rule in ("size", "antialias"):
        smooth = rule == "antialias"
        grid = F.interpolate(
            grid, size=size, mode="bicubic", align_corners=False, antialias=smooth
        )
    else:
        factors = tuple((n + OFFSET) / side for n in size)
        grid = F.interpolate(grid, scale_factor=factors, mode="bicubic", align_corners=False)
    return grid.flatten(2)[0].t().to(table.dtype)
