"""Sine and cosine positions of a grid: neighbours begin alike, far cells differ.

    row y of G:    sin(f_k y), cos(f_k y)    f_k from pi / 2G to pi / 2, W / 4 steps
    column x of G: the same, in the other half of the channels

A transformer that starts from nothing has to find out which query belongs to which patch.  From
random tables a small one does not in thousands of steps; from these it does in hundreds.  MAE's
tables reach wavelengths of 10,000 cells, which says nothing on grids of 8; these end at 4 G.

He et al., "Masked Autoencoders Are Scalable Vision Learners", arXiv 2111.06377, use fixed ones.
Letters: G grid side, W width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Of every wave: as strong as patch features at the start, so that neither drowns the other.
AMPLITUDE = 0.5


def sincos_positions(grid: int, width: int) -> Tensor:
    """Return positions (G * G, W), row-major.

    Args:
        grid: G. width: W; what is left over from a multiple of 4 stays 0.

    Example:
        >>> sincos_positions(8, 128).shape
        torch.Size([64, 128])
    """
    count = width // 4
    lowest = math.pi / (2 * grid)
    frequencies = lowest * float(grid) ** torch.linspace(0, 1, count)
    angles = torch.arange(grid)[:, None] * frequencies
    waves = AMPLITUDE * torch.cat((angles.sin(), angles.cos()), dim=1)
    table = torch.zeros(grid, grid, width)
    table[..., : 2 * count] = waves[:, None]
    table[..., 2 * count : 4 * count] = waves
    return table.flatten(0, 1)
