"""The views of a picture that generators are trained on: its centre, mirrored, ten crops.

    centre      adm crop to S
    flips       the same, and mirrored
    ten-crop    adm crop to int(1.1 S); its four corners and centre at S, then those of its mirror
    twenty-crop the same, and the ten of an adm crop to int(1.05 S)

Source: Sun et al., "Autoregressive Model Beats Diffusion: Llama for Scalable Image Generation",
arXiv 2406.06525, whose codes are extracted beforehand from ten crops.  Letter: S side in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping

from PIL import Image

from tok_core.errors import ConfigError, nearest
from tok_core.evaluation_crop import adm_crop

# Sides of the centre crops that ten-crop cuts, in units of S; LlamaGen's second set has the other.
CROP_RANGE, SECOND_RANGE = 1.1, 1.05
_FIVE = ("upper left", "upper right", "lower left", "lower right", "centre")
_TEN = (*_FIVE, *(f"mirrored {name}" for name in _FIVE))
VIEWS: Mapping[str, tuple[str, ...]] = {
    "centre": ("centre",),
    "flips": ("centre", "mirrored centre"),
    "ten-crop": _TEN,
    "twenty-crop": (*_TEN, *(f"{name} of {SECOND_RANGE}" for name in _TEN)),
}


def crop_views(image: Image.Image, size: int, recipe: str) -> list[Image.Image]:
    """Return the views of an RGB picture at S x S, in the order of ``VIEWS[recipe]``.

    Args:
        image: RGB, any size; one smaller than the crop is enlarged.
        size: S.
        recipe: one of `VIEWS`.  Corners of a mirrored picture are named as they lie in the mirror.

    Raises:
        ConfigError: unknown recipe.

    Example:
        >>> [view.size for view in crop_views(Image.new("RGB", (90, 70)), 32, "flips")]
        [(32, 32), (32, 32)]
    """
    if recipe not in VIEWS:
        legal = ", ".join(VIEWS) + nearest(recipe, VIEWS)
        raise ConfigError(f"views '{recipe}' are unknown; legal are {legal}")
    ranges = {"ten-crop": (CROP_RANGE,), "twenty-crop": (CROP_RANGE, SECOND_RANGE)}
    if recipe in ranges:
        squares = [adm_crop(image, int(ratio * size)) for ratio in ranges[recipe]]
        return [
            view for square in squares for whole in (square, _mirrored(square))
            for view in _five(whole, size)
        ]  # fmt: skip
    centre = adm_crop(image, size)
    return [centre, _mirrored(centre)][: len(VIEWS[recipe])]


def _five(square: Image.Image, size: int) -> list[Image.Image]:
    far = square.width - size
    middle = round(far / 2.0)
    places = ((0, 0), (far, 0), (0, far), (far, far), (middle, middle))
    return [square.crop((left, top, left + size, top + size)) for left, top in places]


def _mirrored(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
