"""Start a vision tower from published weights of another patch size and position grid.

    patch kernel (W, 3, p, p) --pseudo-inverse of the resize p' -> p--> (W, 3, p', p')
    positions (G G, W) --bicubic, antialiased--> (G' G', W)

A patch resized from p to p' pixels then gives what it gave before, in the least-squares sense.

Beyer et al., "FlexiViT", arXiv 2212.08013, section 3.2; timm resizes the same way.  Letters: W
width, p p' pixels per patch before and after, G G' grid sides.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tok_core.errors import WeightsError
from vision_tok.position_resize import resized_positions
from vision_tok.tower_weights import FoundTower, fill_tower, read_tower, tower_sizes
from vision_tok.vision_tower import TowerSizes, VisionTower


def start_tower(tower: VisionTower, path: str) -> None:
    """Fill a tower from a file, folder or hub id, resizing patches and positions to its own.

    Raises:
        WeightsError: nothing there, or a network of another width, depth or kind.

    Example:
        >>> start_tower(encoder.tower, "vit_base_patch14_dinov2.lvd142m.safetensors")
        ... # doctest: +SKIP
    """
    found = read_tower(path)
    theirs, ours = tower_sizes(found), tower.sizes
    if (theirs.width, theirs.layers) != (ours.width, ours.layers):
        raise WeightsError(
            f"'{path}' is {theirs.width} wide and {theirs.layers} blocks deep but this model's "
            f"transformer {ours.width} and {ours.layers}; make the sizes agree, or choose other "
            "weights."
        )
    fill_tower(tower, resized_tower(found, ours), path)


def resized_tower(found: FoundTower, sizes: TowerSizes) -> FoundTower:
    """Return a published tower with patches and positions brought to the given sizes.

    Args:
        found: the tower.
        sizes: ``patch_size`` and ``grid`` of these are what it gets.
    """
    theirs = tower_sizes(found)
    state, words = dict(found.state), found.words
    kernel, table = f"{words['patches']}.weight", words["position_table"]
    state[kernel] = resized_patches(state[kernel], sizes.patch_size)
    rows = state[table].reshape(-1, theirs.width)
    prefix = int(theirs.class_token)
    grid = resized_positions(rows[prefix:], (sizes.grid, sizes.grid), "antialias")
    state[table] = torch.cat((rows[:prefix], grid))
    return found._replace(state=state)


def resized_patches(kernel: Tensor, size: int) -> Tensor:
    """Return a patch kernel (W, C, p, p) for patches of ``size`` pixels, by pseudo-inverse.

    Example:
        >>> resized_patches(torch.zeros(768, 3, 14, 14), 16).shape
        torch.Size([768, 3, 16, 16])
    """
    side = kernel.shape[-1]
    if side == size:
        return kernel
    pixels = torch.eye(side * side).view(-1, 1, side, side)
    resize = F.interpolate(pixels, (size, size), mode="bicubic", antialias=True)
    # Rows are old pixels, columns new ones: what undoes the resize, pixel by pixel.
    inverse = torch.linalg.pinv(resize.flatten(1).double())
    flat = kernel.double().flatten(2) @ inverse.t()
    return flat.unflatten(2, (size, size)).to(kernel.dtype)
