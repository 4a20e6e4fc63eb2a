"""LPIPS with a VGG16, AlexNet or SqueezeNet backbone: a learned perceptual distance.

Letters: B pictures, H x W pixels, c and h x w channels and size of one feature map.

    x, y --scale--> backbone --taps after ReLU--> unit length over c --> (fx - fy)^2
         --non-negative 1x1 head--> mean over h, w --> sum of the taps

A loss (VGG16, by custom) and a metric (all three; the net belongs to the metric's name) in one.
Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric",
arXiv 1801.03924, eq. 1.  No torchvision and no lpips package is needed, only their weight files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tok_core.frozen_network import FrozenNetwork
from tok_core.perceptual_backbones import Backbone, backbone_from, backbone_named, vgg
from tok_core.weight_files import find_weights, load_strictly, read_weights

HEADS_PROJECT = "richzhang/PerceptualSimilarity, lpips/weights/v0.1"


class _Head(nn.Module):
    """One non-negative 1x1 head; laid out so that its key reads ``model.1.weight``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # Slot 0 is the published module's dropout, which is off whenever distances are measured.
        self.model = nn.Sequential(nn.Identity(), nn.Conv2d(channels, 1, 1, bias=False))

    def forward(self, difference: Tensor) -> Tensor:
        return self.model(difference)


class LPIPS(FrozenNetwork):
    """Learned perceptual distance between pictures; frozen, float32, always in eval mode.

    Keys: ``features.N...`` as in torchvision's classifiers, ``lin{0..}.model.1.weight`` as in
    the published heads.

    Args:
        channels: width of each convolution stage of a VGG.
        layers: convolutions per stage; 2x2 max pooling stands between stages.
        backbone: another feature stack, in place of that VGG.

    Attributes:
        minimum_side: of pictures, in pixels.

    Example:
        >>> lpips = LPIPS.from_files()           # finds both files in the user's cache
        >>> lpips = LPIPS.named("alex")          # another net
        >>> lpips(x, y)                          # x, y in [-1, 1] -> mean distance, scalar
        >>> lpips(x, y, reduction="none").shape  # (B,)
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        channels: Sequence[int] = (64, 128, 256, 512, 512),
        layers: Sequence[int] = (2, 2, 3, 3, 3),
        *,
        backbone: Backbone | None = None,
    ) -> None:
        super().__init__()
        backbone = vgg(channels, layers) if backbone is None else backbone
        self.features, self.taps = backbone.features, backbone.taps
        self.minimum_side = backbone.minimum_side
        for index, width in enumerate(backbone.widths):
            self.add_module(f"lin{index}", _Head(width))
        shift = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
        scale = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
        self.register_buffer("shift", shift, persistent=False)
        self.register_buffer("scale", scale, persistent=False)
        self.requires_grad_(False).eval()

    @classmethod
    def from_files(
        cls,
        vgg16: str | os.PathLike[str] | None = None,
        heads: str | os.PathLike[str] | None = None,
    ) -> LPIPS:
        """Build from torchvision's VGG16 file and the lpips heads (v0.1), both local.

        Args:
            vgg16: path of ``vgg16-397923af.pth``; None searches the usual places.
            heads: path of the heads' ``vgg.pth``; None also looks into an installed
                ``lpips`` or ``torchmetrics``.

        Raises:
            WeightsError: a file is missing or does not fit.
        """
        return cls.named("vgg", vgg16, heads)

    @classmethod
    def named(
        cls,
        net: str,
        backbone: str | os.PathLike[str] | None = None,
        heads: str | os.PathLike[str] | None = None,
    ) -> LPIPS:
        """Build by the net's name from torchvision's classifier and the v0.1 heads, both local.

        Args:
            net: ``vgg``, ``alex`` (the package's default) or ``squeeze``. Their values differ.
            backbone: path of torchvision's file; None searches.
            heads: path of the heads' ``<net>.pth``; None also looks into an installed ``lpips``
                or ``torchmetrics``.

        Raises:
            ConfigError: an unknown net. WeightsError: a file is missing or does not fit.
        """
        path, heads_path = lpips_files(net, backbone, heads)
        state = {k: v for k, v in read_weights(path).items() if k.startswith("features.")}
        state |= read_weights(heads_path)
        return cls.from_state(state, source=f"{path.name} + {heads_path}", net=net)

    @classmethod
    def from_state(
        cls, state: Mapping[str, Tensor], *, source: str = "LPIPS weights", net: str = "vgg"
    ) -> LPIPS:
        """Build from tensors in our layout or in the lpips module's; sizes are read off them.

        Raises:
            WeightsError: keys or shapes do not form that net with heads.
        """
        state = _own_keys(state)
        module = cls(backbone=backbone_from(net, state, source=source))
        load_strictly(module, state, source=source)
        # Channels-last convolutions are the fast ones on CPUs and on tensor cores.
        return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def reference(self, target: Tensor) -> list[Tensor]:
        """Return the unit-length features of ``target`` (B, 3, H, W), without gradients."""
        with torch.no_grad():
            return self._unit_features(target)

    def layer_maps(self, x: Tensor, reference: Sequence[Tensor]) -> list[Tensor]:
        """Return the weighted squared differences per tap, each (B, 1, h, w).

        Args:
            x: (B, 3, H, W) in [-1, 1].
            reference: features of the other picture, from `reference`.
        """
        maps = []
        with torch.autocast(x.device.type, enabled=False):
            for index, (a, b) in enumerate(
                zip(self._unit_features(x), reference, strict=True)
            ):
                maps.append(getattr(self, f"lin{index}")((a - b).square()))
        return maps

    def distance(self, x: Tensor, reference: Sequence[Tensor]) -> Tensor:
        """Return the distance per picture (B,) to features made by `reference`."""
        maps = self.layer_maps(x, reference)
        return torch.stack([layer.mean(dim=(1, 2, 3)) for layer in maps]).sum(0)

    def forward(self, x: Tensor, y: Tensor, *, reduction: str = "mean") -> Tensor:
        """Return the distance between ``x`` and ``y``; gradients reach ``x`` alone.

        Args:
            x: (B, 3, H, W) in [-1, 1], sides at least `minimum_side` pixels (16 for VGG16).
            y: (B, 3, H, W) in [-1, 1], the picture to compare with.
            reduction: ``"mean"`` over the batch or ``"none"``.

        Returns:
            Scalar, or (B,) for ``"none"``; 0 for equal pictures.
        """
        distances = self.distance(x, self.reference(y))
        return distances if reduction == "none" else distances.mean()

    def spatial_map(self, x: Tensor, y: Tensor) -> Tensor:
        """Return where ``x`` and ``y`` (B, 3, H, W) differ: (B, 1, H, W), taps enlarged and added.

        Its mean is near the distance, not equal to it: enlarging weighs the borders otherwise.
        """
        maps = self.layer_maps(x, self.reference(y))
        size = x.shape[-2:]
        return torch.stack([
            F.interpolate(m, size=size, mode="bilinear", align_corners=False) for m in maps
        ]).sum(0)  # fmt: skip

    def _unit_features(self, x: Tensor) -> list[Tensor]:
        with torch.autocast(x.device.type, enabled=False):
            h = ((x.float() - self.shift) / self.scale).contiguous(
                memory_format=torch.channels_last
            )
            found = []
            for index, layer in enumerate(self.features):
                h = layer(h)
                if index in self.taps:
                    found.append(_unit_length(h))
            return found


def lpips_files(
    net: str,
    backbone: str | os.PathLike[str] | None = None,
    heads: str | os.PathLike[str] | None = None,
) -> tuple[Path, Path]:
    """Return the paths of the net's backbone and heads; WeightsError where one is missing."""
    found = find_weights(backbone_named(net).file, project="torchvision", explicit=backbone)
    name = f"{net}.pth"
    # The heads ship inside two packages that a user may have installed.
    packaged = (
        ("lpips", f"weights/v0.1/{name}"),
        ("torchmetrics", f"functional/image/lpips_models/{name}"),
    )
    return found, find_weights(name, project=HEADS_PROJECT, explicit=heads, packaged=packaged)


def _unit_length(features: Tensor) -> Tensor:
    # F.normalize would clamp the norm; the published form adds 1e-10 to it.
    norm = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    return features / (norm + 1e-10)


def _own_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename ``net.sliceS.N.*`` to ``features.N.*``; drop repeated heads and the constants."""
    renamed = {}
    for key, value in state.items():
        if key.startswith(("scaling_layer.", "lins.")):
            continue  # constants of the paper; the same heads under a second name
        renamed[re.sub(r"^net\.slice\d+\.", "features.", key)] = value
    return renamed


