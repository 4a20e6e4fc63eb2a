"""The crops that published image scores were measured on, pixel for pixel.

    adm             halve by boxes while twice too large, bicubic to the side, centre crop
    shorter-side    bicubic to the side, centre crop (torchvision's Resize and CenterCrop)
    lanczos-1.125   Lanczos to 1.125 times the side, centre crop (VAR)
    none            the picture as it is

All run on 8-bit RGB with Pillow's antialiased kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tok_core.errors import ConfigError, nearest

_BICUBIC, _LANCZOS = Image.Resampling.BICUBIC, Image.Resampling.LANCZOS


def adm_crop(image: Image.Image, side: int) -> Image.Image:
    """Crop as guided-diffusion does, which LlamaGen, MAR and most gFID tables follow."""
    image = resized_by_boxes(image, side)
    return _window(image, side, (image.width - side) // 2, (image.height - side) // 2)


def resized_by_boxes(image: Image.Image, short: int) -> Image.Image:
    """Bring a picture's shorter side to ``short`` pixels as guided-diffusion does.

    Halved by boxes while twice too large, then bicubic.

    Example:
        >>> resized_by_boxes(Image.new("RGB", (100, 70)), 35).size
        (50, 35)
    """
    while min(image.size) >= 2 * short:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = short / min(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale)), _BICUBIC)


def shorter_side_crop(image: Image.Image, side: int) -> Image.Image:
    """Crop as torchvision's Resize and CenterCrop do on pictures, which TiTok follows."""
    return _torchvision(image, side, side, _BICUBIC)


def lanczos_crop(image: Image.Image, side: int) -> Image.Image:
    """Crop as VAR's data pipeline does."""
    return _torchvision(image, side, round(1.125 * side), _LANCZOS)


CROPS: Mapping[str, Callable[[Image.Image, int], Image.Image]] = {
    "adm": adm_crop,
    "shorter-side": shorter_side_crop,
    "lanczos-1.125": lanczos_crop,
    "none": lambda image, side: image,
}


def evaluation_crop(image: Image.Image, crop: str, side: int | None) -> Image.Image:
    """Return the part of an RGB picture that a protocol looks at.

    Args:
        image: RGB, any size. crop: one of `CROPS`. side: of the square, in pixels; without it
            the picture stays as it is.

    Raises:
        ConfigError: unknown crop, or a side below 1.

    Example:
        >>> evaluation_crop(Image.new("RGB", (100, 70)), "adm", 48).size
        (48, 48)
    """
    if crop not in CROPS:
        legal = ", ".join(CROPS) + nearest(crop, CROPS)
        raise ConfigError(f"crop '{crop}' is unknown; legal are {legal}")
    if side is None:
        return image
    if side < 1:
        raise ConfigError(f"a side of {side} pixels was asked for; legal is 1 or more.")
    return CROPS[crop](image, side)


def image_bytes(image: Image.Image) -> Tensor:
    """Return uint8 (3, H, W) of an RGB picture."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def _torchvision(
    image: Image.Image, side: int, short: int, kernel: Image.Resampling
) -> Image.Image:
    width, height = image.size
    # The longer side is cut off to a whole number there, and the window rounds half to even.
    if width <= height:
        size = (short, int(short * height / width))
    else:
        size = (int(short * width / height), short)
    image = image.resize(size, kernel)
    left, upper = round((image.width - side) / 2.0), round((image.height - side) / 2.0)
    return _window(image, side, left, upper)


def _window(image: Image.Image, side: int, left: int, upper: int) -> Image.Image:
    return image.crop((left, upper, left + side, upper + side))
