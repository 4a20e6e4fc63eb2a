"""DISTS: a distance of structure and texture, blind to how a texture's grains happen to lie.

Letters: B pictures, H x W pixels, c channels of one feature map, C of the picture and all taps.

    x, y --ImageNet mean, std--> VGG16 with L2 pooling --> [picture, 5 taps], C channels in all
         --> mean and variance of each channel over its map
    1 - sum_c (alpha_c * likeness of means + beta_c * likeness of variances), alpha + beta sum to 1

Ding, Ma, Wang, Simoncelli, "Image Quality Assessment: Unifying Structure and Texture Similarity",
arXiv 2004.07728, eq. 5 to 7.  A loss and a metric in one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tok_core.frozen_network import FrozenNetwork
from tok_core.perceptual_backbones import Backbone, backbone_from, backbone_named, vgg
from tok_core.weight_files import find_weights, load_strictly, read_weights

# Published under the bare name weights.pt, which says too little in a folder of many.
WEIGHTS_FILE = "dists_weights.pt"
WEIGHTS_PROJECT = "dingkeyan93/DISTS (weights.pt there; torchmetrics brings it along)"
C1, C2 = 1e-6, 1e-6


class _L2Pool(nn.Module):
    """Root of the local mean of squares under a 3x3 Hann window, every second place."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        hann = torch.tensor([0.25, 0.5, 0.25])
        self.register_buffer("kernel", torch.outer(hann, hann)[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.kernel.expand(x.shape[1], -1, -1, -1)
        pooled = F.conv2d(x.square(), kernel, stride=2, padding=1, groups=x.shape[1])
        return (pooled + 1e-12).sqrt()


class DISTS(FrozenNetwork):
    """Deep image structure and texture distance; frozen, float32, always in eval mode.

    Keys: ``features.N.weight/bias`` as in torchvision's VGG16, ``alpha`` and ``beta``
    (1, C, 1, 1) as in the published file.

    Args:
        backbone: a VGG; None for VGG16.

    Example:
        >>> dists = DISTS.from_files()           # finds both files in the user's cache
        >>> dists(x, y)                          # x, y in [-1, 1] -> mean distance, scalar
    """

    alpha: Tensor
    beta: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone | None = None) -> None:
        super().__init__()
        backbone = vgg() if backbone is None else backbone
        self.features = nn.Sequential(*(
            _L2Pool() if isinstance(layer, nn.MaxPool2d) else layer for layer in backbone.features
        ))  # fmt: skip
        self.taps, self.minimum_side = backbone.taps, 1
        total = 3 + sum(backbone.widths)
        for name in ("alpha", "beta"):
            weight = torch.full((1, total, 1, 1), 0.5 / total)
            self.register_parameter(name, nn.Parameter(weight))
        for name, three in (("mean", (0.485, 0.456, 0.406)), ("std", (0.229, 0.224, 0.225))):
            self.register_buffer(name, torch.tensor(three).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    @classmethod
    def from_files(
        cls,
        vgg16: str | os.PathLike[str] | None = None,
        weights: str | os.PathLike[str] | None = None,
    ) -> DISTS:
        """Build from torchvision's VGG16 file and the published alpha and beta, both local.

        Args:
            vgg16: path of ``vgg16-397923af.pth``; None searches.
            weights: path of the alpha and beta file; None also looks into ``torchmetrics``.

        Raises:
            WeightsError: a file is missing or does not fit.
        """
        path, weights_path = dists_files(vgg16, weights)
        state = {k: v for k, v in read_weights(path).items() if k.startswith("features.")}
        state |= read_weights(weights_path)
        return cls.from_state(state, source=f"{path.name} + {weights_path}")

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], *, source: str = "DISTS weights") -> DISTS:
        """Build from tensors by our keys; sizes are read off them. WeightsError if they misfit."""
        module = cls(backbone_from("vgg", state, source=source))
        load_strictly(module, state, source=source)
        return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def reference(self, target: Tensor) -> list[Tensor]:
        """Return the picture and its features, without gradients, from (B, 3, H, W) in [-1, 1]."""
        with torch.no_grad():
            return self._maps(target)

    def distance(self, x: Tensor, reference: list[Tensor]) -> Tensor:
        """Return the distance per picture (B,) to what `reference` made, float64."""
        likeness = []
        with torch.autocast(x.device.type, enabled=False):
            for a, b in zip(self._maps(x), reference, strict=True):
                likeness.append(_likeness(a, b))
            means, variances = (torch.cat(part, dim=1) for part in zip(*likeness, strict=True))
            # In float64: 1 minus a number near 1 leaves little of float32.
            alpha, beta = self.alpha.double().flatten(), self.beta.double().flatten()
            total = (alpha + beta).sum()
            return 1 - (means @ alpha + variances @ beta) / total

    def forward(self, x: Tensor, y: Tensor, *, reduction: str = "mean") -> Tensor:
        """Return the distance between ``x`` and ``y``; gradients reach ``x`` alone.

        Args:
            x: (B, 3, H, W) in [-1, 1].
            y: (B, 3, H, W) in [-1, 1], the picture to compare with.
            reduction: ``"mean"`` over the batch or ``"none"``.

        Returns:
            Scalar float32, or (B,) for ``"none"``; 0 for equal pictures, at most about 1.
        """
        distances = self.distance(x, self.reference(y)).float()
        return distances if reduction == "none" else distances.mean()

    def _maps(self, x: Tensor) -> list[Tensor]:
        with torch.autocast(x.device.type, enabled=False):
            picture = (x.float() + 1) / 2
            h = ((picture - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
            found = [picture]
            for index, layer in enumerate(self.features):
                h = layer(h)
                if index in self.taps:
                    found.append(h)
            return found


def dists_files(
    vgg16: str | os.PathLike[str] | None = None, weights: str | os.PathLike[str] | None = None
) -> tuple[Path, Path]:
    """Return the paths of VGG16 and of alpha and beta; WeightsError where one is missing."""
    found = find_weights(backbone_named("vgg").file, project="torchvision", explicit=vgg16)
    packaged = (("torchmetrics", "functional/image/dists_models/weights.pt"),)
    return found, find_weights(
        WEIGHTS_FILE, project=WEIGHTS_PROJECT, explicit=weights, packaged=packaged
    )


def _likeness(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return how alike means and variances of each channel are, float64 (B, c) each."""
    mean_a, mean_b = a.mean(dim=(2, 3), keepdim=True), b.mean(dim=(2, 3), keepdim=True)
    off_a, off_b = a - mean_a, b - mean_b
    var_a, var_b, covariance = (
        product.mean(dim=(2, 3)).double()
        for product in (off_a.square(), off_b.square(), off_a * off_b)
    )
    mean_a, mean_b = mean_a.double().flatten(1), mean_b.double().flatten(1)
    means = (2 * mean_a * mean_b + C1) / (mean_a.square() + mean_b.square() + C1)
    return means, (2 * covariance + C2) / (var_a + var_b + C2)
