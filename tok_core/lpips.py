"""LPIPS with a VGG16 backbone: a learned perceptual distance, as a loss and as a metric.

Letters: B pictures, H x W pixels, c and h x w channels and size of one feature map.

    x, y --scale--> VGG16 --5 taps after ReLU--> unit length over c --> (fx - fy)^2
         --non-negative 1x1 head--> mean over h, w --> sum of the 5 taps

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric",
arXiv 1801.03924, eq. 1.  No torchvision and no lpips package is needed, only their weight files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from tok_core.errors import WeightsError
from tok_core.weight_files import find_weights, load_strictly, read_weights

VGG16_FILE = "vgg16-397923af.pth"
HEADS_FILE = "vgg.pth"
HEADS_PROJECT = "richzhang/PerceptualSimilarity, lpips/weights/v0.1"
# The heads ship inside two packages that a user may have installed.
HEADS_PACKAGED = (
    ("lpips", "weights/v0.1/vgg.pth"),
    ("torchmetrics", "functional/image/lpips_models/vgg.pth"),
)


class _Head(nn.Module):
    """One non-negative 1x1 head; laid out so that its key reads ``model.1.weight``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # Slot 0 is the published module's dropout, which is off whenever distances are measured.
        self.model = nn.Sequential(nn.Identity(), nn.Conv2d(channels, 1, 1, bias=False))

    def forward(self, difference: Tensor) -> Tensor:
        return self.model(difference)


class LPIPS(nn.Module):
    """Learned perceptual distance between pictures; frozen, float32, always in eval mode.

    Keys: ``features.N.weight/bias`` as in torchvision's VGG16, ``lin{0..4}.model.1.weight`` as
    in the published heads.

    Args:
        channels: width of each convolution stage.
        layers: convolutions per stage; 2x2 max pooling stands between stages.

    Example:
        >>> lpips = LPIPS.from_files()           # finds both files in the user's cache
        >>> lpips(x, y)                          # x, y in [-1, 1] -> mean distance, scalar
        >>> lpips(x, y, reduction="none").shape  # (B,)
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        channels: Sequence[int] = (64, 128, 256, 512, 512),
        layers: Sequence[int] = (2, 2, 3, 3, 3),
    ) -> None:
        super().__init__()
        modules: list[nn.Module] = []
        taps: list[int] = []
        width_in = 3
        for width, count in zip(channels, layers, strict=True):
            if modules:
                modules.append(nn.MaxPool2d(2))
            for _ in range(count):
                modules += [nn.Conv2d(width_in, width, 3, padding=1), nn.ReLU(inplace=True)]
                width_in = width
            taps.append(len(modules) - 1)
        self.features = nn.Sequential(*modules)
        self.taps = tuple(taps)
        for index, width in enumerate(channels):
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
        path = find_weights(VGG16_FILE, project="torchvision", explicit=vgg16)
        state = {k: v for k, v in read_weights(path).items() if k.startswith("features.")}
        path = find_weights(
            HEADS_FILE, project=HEADS_PROJECT, explicit=heads, packaged=HEADS_PACKAGED
        )
        return cls.from_state({**state, **read_weights(path)}, source=f"{VGG16_FILE} + {path}")

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], *, source: str = "LPIPS weights") -> LPIPS:
        """Build from tensors in our layout or in the lpips module's; sizes are read off them.

        Raises:
            WeightsError: keys or shapes do not form a VGG of consecutive stages with heads.
        """
        state = _own_keys(state)
        convolutions = sorted(
            int(key.split(".")[1])
            for key in state
            if re.fullmatch(r"features\.\d+\.weight", key)
        )
        channels: list[int] = []
        layers: list[int] = []
        previous = None
        for index in convolutions:
            # Within a stage convolutions stand 2 apart (ReLU); pooling makes it 3.
            if previous is None or index - previous > 2:
                channels.append(state[f"features.{index}.weight"].shape[0])
                layers.append(0)
            layers[-1] += 1
            previous = index
        if not channels:
            raise WeightsError(
                f"{source} holds no key like 'features.0.weight'; a VGG16 state dict is needed"
            )
        module = cls(channels, layers)
        load_strictly(module, state, source=source)
        # Channels-last convolutions are the fast ones on CPUs and on tensor cores.
        return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def train(self, mode: bool = True) -> LPIPS:
        """Stay in eval mode whatever the surrounding module does."""
        return super().train(False)

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
            x: (B, 3, H, W) in [-1, 1], sides at least 16 pixels.
            y: (B, 3, H, W) in [-1, 1], the picture to compare with.
            reduction: ``"mean"`` over the batch or ``"none"``.

        Returns:
            Scalar, or (B,) for ``"none"``; 0 for equal pictures.
        """
        distances = self.distance(x, self.reference(y))
        return distances if reduction == "none" else distances.mean()

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


