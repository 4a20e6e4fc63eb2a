"""A perceptual-like distance from image structure alone: no network, no weight file.

Letters: B pictures, H x W pixels; level 0 is the full picture, each further level half its size.

At each level of a Gaussian pyramid two things are compared that a pixel error hardly sees:

    edges      mean |d x - d y| over four directional differences d (right, down, both diagonals):
               sharpness and placement of contours (blur loses them first)
    structure  1 - mean of (2 cov(x, y) + c) / (var x + var y + c) in 7 x 7 windows: whether local
               contrast goes up and down at the same places, with the same strength (texture); this
               is the contrast-structure term of multi-scale SSIM (Wang et al. 2003, eq. 6 and 7)

Both ignore a slow change of brightness, which plain L1 or L2 beside this loss takes care of.
The combination, the weights and the constants are our own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Luma, and two colour differences; structure is seen in brightness far more than in colour.
_OPPONENT = ((0.299, 0.587, 0.114), (-0.169, -0.331, 0.5), (0.5, -0.419, -0.081))
_CHANNEL_WEIGHTS = (0.8, 0.1, 0.1)
_BINOMIAL = (1.0, 4.0, 6.0, 4.0, 1.0)
# (0.03 * range)^2 as in SSIM, for our range of 2: keeps flat windows from dividing noise by noise.
_STABILITY = (0.03 * 2.0) ** 2
_WINDOW = 7


class WeightlessPerceptual(nn.Module):
    """Multi-scale edge and local-structure distance; 0 for equal pictures, symmetric.

    Args:
        levels: pyramid levels; fewer are used where a side would fall below 8 pixels.
        edge_weight: weight of the edge term (about 0 to 1).
        structure_weight: weight of the structure term (0 to 2; 1 for unrelated textures).

    Example:
        >>> WeightlessPerceptual()(x, y)   # x, y (B, 3, H, W) in [-1, 1] -> scalar
    """

    kernel: Tensor
    opponent: Tensor
    channel_weights: Tensor

    def __init__(
        self, levels: int = 4, edge_weight: float = 1.0, structure_weight: float = 0.5
    ) -> None:
        super().__init__()
        self.levels = levels
        self.edge_weight = edge_weight
        self.structure_weight = structure_weight
        binomial = torch.tensor(_BINOMIAL) / sum(_BINOMIAL)
        kernel = torch.outer(binomial, binomial).expand(3, 1, 5, 5).contiguous()
        self.register_buffer("kernel", kernel, persistent=False)
        self.register_buffer("opponent", torch.tensor(_OPPONENT), persistent=False)
        weights = torch.tensor(_CHANNEL_WEIGHTS).view(1, 3, 1, 1)
        self.register_buffer("channel_weights", weights, persistent=False)

    def reference(self, target: Tensor) -> list[Tensor]:
        """Return the pyramid of ``target`` (B, 3, H, W) in [-1, 1]."""
        with torch.autocast(target.device.type, enabled=False):
            level = torch.einsum("oc,bchw->bohw", self.opponent, target.float())
            pyramid = [level]
            while len(pyramid) < self.levels and min(level.shape[-2:]) >= 16:
                level = F.conv2d(F.pad(level, (2, 2, 2, 2), mode="reflect"), self.kernel,
                                 stride=2, groups=3)
                pyramid.append(level)
            return pyramid

    def distance(self, x: Tensor, reference: list[Tensor]) -> Tensor:
        """Return the distance per picture (B,) to a pyramid made by `reference`."""
        total = x.new_zeros(x.shape[0], dtype=torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            for a, b in zip(self.reference(x), reference, strict=True):
                edges = sum(
                    self._mean(_charbonnier(_difference(a, d) - _difference(b, d)))
                    for d in ((0, 1), (1, 0), (1, 1), (1, -1))
                ) / 4
                structure = self._mean(1.0 - _structure(a, b))
                total = total + self.edge_weight * edges + self.structure_weight * structure
        return total / len(reference)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the mean distance over the batch, a scalar; gradients reach ``x`` alone."""
        with torch.no_grad():
            reference = self.reference(y)
        return self.distance(x, reference).mean()

    def _mean(self, values: Tensor) -> Tensor:
        return (values.mean(dim=(2, 3), keepdim=True) * self.channel_weights).sum(dim=(1, 2, 3))


def _difference(x: Tensor, step: tuple[int, int]) -> Tensor:
    """Difference of each pixel to its neighbour ``step`` = (rows, columns) away."""
    down, right = step
    h, w = x.shape[-2:]
    if right < 0:
        return x[..., down:, : w + right] - x[..., : h - down, -right:]
    return x[..., down:, right:] - x[..., : h - down, : w - right]


def _charbonnier(x: Tensor, eps: float = 1e-3) -> Tensor:
    # |x| with a smooth bottom: its gradient does not jump where the edge is already right.
    return torch.sqrt(x.square() + eps**2) - eps


def _structure(a: Tensor, b: Tensor) -> Tensor:
    window = min(_WINDOW, *a.shape[-2:])
    means = F.avg_pool2d(torch.cat((a, b, a * a, b * b, a * b), dim=1), window, stride=1)
    mean_a, mean_b, square_a, square_b, product = means.chunk(5, dim=1)
    covariance = product - mean_a * mean_b
    spread = square_a - mean_a.square() + square_b - mean_b.square()
    return (2 * covariance + _STABILITY) / (spread.clamp_min(0) + _STABILITY)
