"""DiffAugment: random changes that real and generated pictures suffer alike before the judge.

    x --translation--> --brightness, saturation, contrast--> --cutout--> x'
    warm-up blur: x * gaussian(sigma),  sigma = s sqrt(H / 2),  s falling to 0

Every step is differentiable in x, so that gradients reach the generator.  Letters: B pictures,
H x W pixels, u uniform draws in [0, 1).  Zhao et al., "DiffAugment", arXiv 2006.10738, with one
gate per step and call instead of always, as XQ-GAN (arXiv 2412.01762) trains; the blur after
Sauer et al., "StyleGAN-XL", arXiv 2202.00273.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

TRANSLATION = 0.125  # of each side
CUTOUT = 0.2  # of each side


class AugmentDraws(NamedTuple):
    """The random numbers of one call.

    Attributes:
        gates: (3,) one for translation, colour and cutout; a step runs where it is at most the
            probability.
        values: (7, B, 1, 1) per picture: rows and columns of the translation, brightness,
            saturation, contrast, rows and columns of the cutout.
    """

    gates: Tensor
    values: Tensor


def augment_draws(batch: int, device: torch.device | str = "cpu") -> AugmentDraws:
    """Draw for ``batch`` pictures: gates on the CPU (they decide what runs), the rest on device."""
    return AugmentDraws(torch.rand(3), torch.rand(7, batch, 1, 1, device=device))


def diff_augment(
    x: Tensor, draws: AugmentDraws, *, probability: float = 1.0,
    translation: float = TRANSLATION, cutout: float = CUTOUT,
) -> Tensor:  # fmt: skip
    """Return changed pictures, differentiable in ``x``.

    Args:
        x: pictures (B, 3, H, W) in [-1, 1] (results may lie outside).
        draws: as `augment_draws` makes them.
        probability: of each of the three steps.
        translation: largest shift as a share of each side; what enters is 0.
        cutout: sides of the erased rectangle as a share of the picture's; it may stick out.

    Example:
        >>> diff_augment(x, augment_draws(len(x), x.device)).shape == x.shape
        True
    """
    shift, colour, cut = (float(gate) <= probability for gate in draws.gates)
    u = draws.values
    if shift:
        x = _translated(x, u[0], u[1], translation)
    if colour:
        x = _recoloured(x, u[2:5])
    return _cut_out(x, u[5], u[6], cutout) if cut else x


def warm_up_blur(x: Tensor, schedule: float) -> Tensor:
    """Return pictures blurred by a Gaussian of ``schedule`` times sqrt(H / 2) pixels.

    Args:
        x: pictures (B, 3, H, W). schedule: 1 full, 0 none.

    The kernel is 2^-(t / sigma)^2 over |t| <= floor(3 sigma), normalised; pictures go on beyond
    their border as in a mirror.
    """
    sigma = schedule * math.sqrt(x.shape[-2] / 2)
    if math.floor(3 * sigma) < 1:
        return x
    return _blurred(_blurred(x, sigma).transpose(2, 3), sigma).transpose(2, 3)


def _blurred(x: Tensor, sigma: float) -> Tensor:
    """Blur along the last axis."""
    radius = min(math.floor(3 * sigma), x.shape[-1] - 1)  # a mirror shows no more than that
    t = torch.arange(-radius, radius + 1, device=x.device, dtype=torch.float32)
    kernel = torch.exp2(-(t / sigma).square())
    kernel = (kernel / kernel.sum()).to(x.dtype).expand(x.shape[1], 1, 1, -1)
    x = F.pad(x, (radius, radius, 0, 0), mode="reflect")
    return F.conv2d(x, kernel, groups=x.shape[1])


def blur_schedule(step: int, start: int, length: int) -> float:
    """Return 1 up to step ``start``, then a line down to 0 at ``start + length``; 0 for no length.

    Published: length 1, so that the pictures are sharp one step after the discriminator starts.
    """
    if length == 0:
        return 0.0
    return min(1.0, max(0.0, 1.0 - (step - start) / length))


def _translated(x: Tensor, down: Tensor, right: Tensor, share: float) -> Tensor:
    """Shift each picture by whole pixels; zeros come in."""
    height, width = x.shape[-2:]
    down, right = _moved(down, round(height * share)), _moved(right, round(width * share))
    rows = torch.arange(height, device=x.device).view(1, -1, 1) + down
    columns = torch.arange(width, device=x.device) + right
    inside = ((rows >= 0) & (rows < height)) & ((columns >= 0) & (columns < width))
    place = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
    flat = place.flatten(1)[:, None].expand(-1, x.shape[1], -1)
    return x.flatten(2).gather(2, flat).view_as(x) * inside[:, None]


def _moved(u: Tensor, most: int) -> Tensor:
    """Return whole shifts in -most..most, (B, 1, 1)."""
    return (u.reshape(-1, 1, 1) * (2 * most + 1)).floor().long() - most


def _recoloured(x: Tensor, u: Tensor) -> Tensor:
    brightness, saturation, contrast = (part.reshape(-1, 1, 1, 1) for part in u)
    x = x + (brightness - 0.5)
    grey = x.mean(dim=1, keepdim=True)
    x = (x - grey) * (2 * saturation) + grey
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    return (x - mean) * (contrast + 0.5) + mean


def _cut_out(x: Tensor, row: Tensor, column: Tensor, share: float) -> Tensor:
    """Set one rectangle per picture to 0."""
    hidden = []
    for u, side in ((row, x.shape[-2]), (column, x.shape[-1])):
        length = round(side * share)
        centre = (u.reshape(-1, 1) * (side + 1 - length % 2)).floor().long()
        first = centre - length // 2
        at = torch.arange(side, device=x.device)
        # A rectangle that sticks out is held at the border.
        hidden.append((at >= first) & (at < first + length))
    erased = hidden[0][:, :, None] & hidden[1][:, None, :]
    return x * ~erased[:, None]
