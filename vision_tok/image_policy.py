"""How a picture of any size meets a network of one size: resize, crop or tile, and back.

    picture (3, H, W) --prepare--> (T, 3, S, S) --network--> (T, 3, S, S) --restore--> (3, H, W)

What restore needs follows from the policy, the extent and S alone, which is all that a token file
keeps.  Letters: H W extent in pixels, S side of the network's input, T inputs of one picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tok_core.errors import ConfigError, MediaError, nearest

POLICIES: tuple[str, ...] = ("resize", "crop", "tile")
_BICUBIC = Image.Resampling.BICUBIC  # antialiased in Pillow


@dataclass(frozen=True)
class Geometry:
    """Where the inputs of one picture lie.

    Args:
        policy: "resize", "crop" or "tile".
        extent: (H, W) in pixels of what restore gives back: the picture, or its crop.
        size: S, side of the network's input.
        overlap: least overlap of neighbouring tiles in pixels, 0..S-1; None = S // 8.
        box: left, upper, right, lower of the crop in the picture it came from, if known.

    Raises:
        ConfigError: unknown policy, or a number out of range.
    """

    policy: str
    extent: tuple[int, int]
    size: int
    overlap: int | None = None
    box: tuple[int, int, int, int] | None = None

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ConfigError(f"policy '{self.policy}' is unknown; legal are "
                              f"{', '.join(POLICIES)}{nearest(self.policy, POLICIES)}")
        if self.size < 1 or len(self.extent) != 2 or min(self.extent) < 1:
            raise ConfigError(f"a picture of extent {tuple(self.extent)} for inputs of side "
                              f"{self.size} is impossible; sides are 1 pixel or more")
        if self.overlap is not None and not 0 <= self.overlap < self.size:
            raise ConfigError(f"an overlap of {self.overlap} pixels is impossible for tiles of "
                              f"{self.size}; give 0 to {self.size - 1}")

    @cached_property
    def rows(self) -> tuple[int, ...]:
        """First row of every row of tiles."""
        return self._starts(self.extent[0])

    @cached_property
    def columns(self) -> tuple[int, ...]:
        """First column of every column of tiles."""
        return self._starts(self.extent[1])

    @property
    def tiles(self) -> int:
        """T, the number of network inputs."""
        return len(self.rows) * len(self.columns) if self.policy == "tile" else 1

    def _starts(self, length: int) -> tuple[int, ...]:
        """Spread the fewest tiles evenly, so that all overlaps are alike and none is cut off."""
        overlap = self.size // 8 if self.overlap is None else self.overlap
        if length <= self.size:
            return (0,)
        count = math.ceil((length - overlap) / (self.size - overlap))
        slack = length - self.size
        return tuple((2 * i * slack + count - 1) // (2 * (count - 1)) for i in range(count))


def prepare(
    image: Tensor | Image.Image, policy: str, size: int, *, overlap: int | None = None
) -> tuple[Tensor, Geometry]:
    """Turn one picture into network inputs.

    Args:
        image: PIL image, or (3, H, W) float in [-1, 1].
        policy: "resize" squeezes the whole picture into the square, "crop" takes the central
            square and scales it, "tile" cuts overlapping native tiles; a side shorter than a tile
            is continued by reflection.
        size: S.
        overlap: of tiles, in pixels; leave None for whatever goes into a token file.

    Returns:
        inputs (T, 3, S, S) float in [-1, 1] and the geometry that `restore` takes.

    Raises:
        ConfigError: unknown policy or impossible size; MediaError: image has another shape.

    Example::

        inputs, geometry = prepare(read_image("cat.jpg").pixels, "tile", 64)
        picture = restore(inputs, geometry)  # the cat again, (3, H, W)
    """
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
            raise MediaError(f"a picture of shape {tuple(image.shape)} was given; (3, H, W) is "
                             "legal")
        height, width = image.shape[1:]
    else:
        image = image.convert("RGB")
        width, height = image.size
    box = None
    extent = (height, width)
    if policy == "crop":
        side = min(extent)
        left, upper = (width - side) // 2, (height - side) // 2
        box, extent = (left, upper, left + side, upper + side), (side, side)
    geometry = Geometry(policy, extent, size, overlap, box)
    if policy == "tile":
        return _cut(image, geometry), geometry
    return _resize(image, (size, size), box)[None], geometry


def restore(batch: Tensor, geometry: Geometry) -> Tensor:
    """Put network outputs together to one picture of exactly ``geometry.extent``.

    Args:
        batch: (T, 3, S, S) float in [-1, 1].

    Returns:
        (3, H, W) float32 in [-1, 1] on the CPU; tiles are blended with squared-sine windows.

    Raises:
        MediaError: the batch has another shape than the geometry says.
    """
    expected = (geometry.tiles, 3, geometry.size, geometry.size)
    if tuple(batch.shape) != expected:
        raise MediaError(f"outputs of shape {tuple(batch.shape)} do not make a picture of extent "
                         f"{geometry.extent} by policy '{geometry.policy}'; {expected} does")
    batch = batch.detach().to("cpu", torch.float32)
    if geometry.policy != "tile":
        return _resize(batch[0], geometry.extent, None)
    height, width = geometry.extent
    # Windows are normalised per axis, so the sum needs no plane of weights: memory stays at the
    # outputs and one picture.
    down = _windows(geometry.rows, geometry.size, height)
    across = _windows(geometry.columns, geometry.size, width)
    picture = torch.zeros(3, height, width)
    tiles = iter(batch)
    for top, fall in zip(geometry.rows, down, strict=True):
        for left, rise in zip(geometry.columns, across, strict=True):
            part = next(tiles)[:, : len(fall), : len(rise)]
            place = picture[:, top : top + len(fall), left : left + len(rise)]
            place.addcmul_(part, fall[:, None] * rise)
    return picture.clamp_(-1.0, 1.0)


def _resize(
    image: Tensor | Image.Image, extent: tuple[int, int], box: tuple[int, int, int, int] | None
) -> Tensor:
    """Bicubic resize with antialiasing to (3, *extent) in [-1, 1]; a tensor stays in floats."""
    # Pillow's filter may look beyond the box, as in "resize the shorter side, then crop".
    height, width = extent
    if isinstance(image, Image.Image):
        left, upper, right, lower = box or (0, 0, *image.size)
        if (right - left, lower - upper) == (width, height):
            return _to_tensor(image.crop((left, upper, right, lower)))
        return _to_tensor(image.resize((width, height), _BICUBIC, box=box))
    image = image.detach().to("cpu", torch.float32)
    left, upper, right, lower = box or (0, 0, image.shape[2], image.shape[1])
    if (right - left, lower - upper) == (width, height):
        return image[:, upper:lower, left:right].clamp(-1.0, 1.0)
    planes = [Image.fromarray(np.ascontiguousarray(plane.numpy())) for plane in image]
    scaled = [np.array(plane.resize((width, height), _BICUBIC, box=box)) for plane in planes]
    return torch.from_numpy(np.stack(scaled)).clamp_(-1.0, 1.0)


def _to_tensor(image: Image.Image) -> Tensor:
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    return pixels.to(torch.float32).div_(127.5).sub_(1.0)


def _cut(image: Tensor | Image.Image, geometry: Geometry) -> Tensor:
    """Cut tiles in raster order, (T, 3, S, S); each is converted alone to save memory."""
    size = geometry.size
    height, width = geometry.extent
    batch = torch.empty(geometry.tiles, 3, size, size)
    short_rows, short_columns = max(0, size - height), max(0, size - width)
    number = 0
    for top in geometry.rows:
        for left in geometry.columns:
            right, bottom = min(left + size, width), min(top + size, height)
            if isinstance(image, Image.Image):
                tile = _to_tensor(image.crop((left, top, right, bottom)))
            else:
                tile = image[:, top:bottom, left:right].detach().to("cpu", torch.float32)
            if short_rows or short_columns:
                padding = ((0, 0), (0, short_rows), (0, short_columns))
                tile = torch.from_numpy(np.pad(tile.numpy(), padding, mode="reflect"))
            batch[number] = tile
            number += 1
    return batch


def _windows(starts: tuple[int, ...], size: int, length: int) -> list[Tensor]:
    """Return one weight vector per tile along an axis; at every pixel they sum to 1."""
    if len(starts) == 1:
        return [torch.ones(min(size, length))]
    weights = []
    for number, start in enumerate(starts):
        weight = torch.ones(size, dtype=torch.float64)
        if number > 0:
            weight *= _ramp(starts[number - 1] + size - start, size)
        if number < len(starts) - 1:
            weight *= _ramp(start + size - starts[number + 1], size).flip(0)
        weights.append(weight)
    total = torch.zeros(length, dtype=torch.float64)
    for start, weight in zip(starts, weights, strict=True):
        total[start : start + size] += weight
    return [(w / total[s : s + size]).float() for s, w in zip(starts, weights, strict=True)]


def _ramp(overlap: int, size: int) -> Tensor:
    """Rise as a squared sine over the first ``overlap`` of ``size`` pixels, then stay at 1."""
    ramp = torch.ones(size, dtype=torch.float64)
    steps = (torch.arange(overlap, dtype=torch.float64) + 0.5) / max(1, overlap)
    ramp[:overlap] = torch.sin(0.5 * math.pi * steps) ** 2
    return ramp
