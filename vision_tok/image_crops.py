"""Random training crops: a square of a picture, scaled to the network's side, maybe mirrored.

Spec of the published recipes: shorter side resized to S (bicubic, antialiased, on 8-bit pixels),
random S x S crop, horizontal flip; or, as guided-diffusion and XQ-GAN do, to a random whole number
of pixels above S, after halving by boxes.  Other crop scales are ours.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tok_core.evaluation_crop import resized_by_boxes
from tok_core.procedural_draws import Array, Draws

_BICUBIC = Image.Resampling.BICUBIC


def random_crop(
    image: Image.Image,
    size: int,
    draws: Draws,
    *,
    crop_scale: tuple[float, float] = (1.0, 1.0),
    native_scale: tuple[float, float] | None = None,
    crop_fraction: tuple[float, float] | None = None,
    flip: bool = True,
) -> Image.Image:
    """Return one random S x S crop of an RGB picture.

    Args:
        image: of any size; one smaller than the crop is enlarged.
        size: S.
        draws: the item's random numbers.
        crop_scale: side of the square as a share of the picture's shorter side, log-uniform
            between the two; (1, 1) is the published recipe.
        native_scale: if given, side of the square in units of S picture pixels instead, so 1 is
            the picture's own resolution and 4 shrinks fourfold; never beyond the shorter side.
        crop_fraction: if given, guided-diffusion's crop instead: S as a share of the shorter side
            that the picture is resized to, a whole number drawn between the two shares.
        flip: mirror every other crop.

    Example::

        random_crop(picture, 64, draws, native_scale=(1.0, 4.0))
    """
    if crop_fraction is not None:
        crop = _fraction_crop(image, size, draws, crop_fraction)
        return _mirrored(crop) if flip and draws.chance(0.5) else crop
    width, height = image.size
    short = min(width, height)
    if native_scale is not None:
        side = min(float(short), size * draws.log_uniform(*native_scale))
        if side < size * 1.02 and short >= size:
            side = float(size)  # close to native: cut whole pixels rather than resample them
    else:
        side = short * draws.log_uniform(*crop_scale)
    left, upper = (width - side) * draws.uniform(), (height - side) * draws.uniform()
    if side == size:
        left, upper = int(left), int(upper)
        crop = image.crop((left, upper, left + size, upper + size))
    else:
        box = (left, upper, min(left + side, width), min(upper + side, height))
        crop = image.resize((size, size), _BICUBIC, box=box, reducing_gap=None)
    return _mirrored(crop) if flip and draws.chance(0.5) else crop


def shortest_sides(size: int, crop_fraction: tuple[float, float]) -> tuple[int, int]:
    """Return the smallest and largest shorter side that `random_crop` draws for these shares.

    Example::

        shortest_sides(256, (0.8, 1.0))  # (256, 320)
    """
    low, high = crop_fraction
    return math.ceil(size / high), math.ceil(size / low)


def box_crop(image: Image.Image, size: int, short: int, top: int, left: int) -> Image.Image:
    """Return the S x S window at (top, left) of a picture whose shorter side became ``short``.

    Source: guided-diffusion's training crop, which XQ-GAN and RobusTok follow.
    """
    resized = resized_by_boxes(image, short)
    return resized.crop((left, top, left + size, top + size))


def _fraction_crop(
    image: Image.Image, size: int, draws: Draws, crop_fraction: tuple[float, float]
) -> Image.Image:
    resized = resized_by_boxes(image, draws.integer(*shortest_sides(size, crop_fraction)))
    top = draws.integer(0, resized.height - size)
    left = draws.integer(0, resized.width - size)
    return resized.crop((left, top, left + size, top + size))


def _mirrored(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """Return the central square of an RGB picture at S x S, as evaluation takes it."""
    width, height = image.size
    side = min(width, height)
    left, upper = (width - side) // 2, (height - side) // 2
    box = (left, upper, left + side, upper + side)
    return image.crop(box) if side == size else image.resize((size, size), _BICUBIC, box=box)


def colour_change(draws: Draws, strength: float) -> Array:
    """Return a (3, 4) affine colour map [A | b] for values in [-1, 1]: light, contrast, tint.

    ``strength`` is the spread of each change, 0 (none) to about 0.3.  It lets a few photographs
    stand for the colours of many.
    """
    gains = np.exp(strength * draws.normals(3) * 0.5 + 0.5 * strength * draws.normals(1))
    saturation = float(np.exp(1.5 * strength * draws.normals(1))[0])
    mean = np.full((3, 3), 1.0 / 3.0)
    matrix = gains[:, None] * (mean + saturation * (np.eye(3) - mean))
    if draws.chance(min(1.0, 2.0 * strength)):
        matrix = matrix[np.argsort(draws.uniforms(3))]  # exchange the channels
    shift = 0.5 * strength * draws.normals(1) + 0.25 * strength * draws.normals(3)
    return np.concatenate([matrix, shift[:, None]], axis=1)


def to_tensor(image: Image.Image, change: Array | None = None) -> Tensor:
    """Return (3, S, S) float32 in [-1, 1], through a `colour_change` if one is given."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    values = pixels.to(torch.float32).div_(127.5).sub_(1.0).contiguous()
    if change is not None:
        affine = torch.from_numpy(change).float()
        values = (affine[:, :3] @ values.flatten(1) + affine[:, 3:]).clamp_(-1.0, 1.0)
        values = values.reshape(3, *pixels.shape[1:])
    return values
