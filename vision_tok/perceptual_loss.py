"""Perceptual losses for image tokenizers; all take pictures in [-1, 1], unclamped is fine.

Letters: B pictures, H x W pixels, K classes.

Every kind offers ``reference(target)``, made once per batch without gradients, and
``distance(x, reference) -> (B,)``, so that several reconstructions of the same batch (full and
shortened) share the target's features.
"""

from __future__ import annotations

import os
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tok_core.frozen_network import FrozenNetwork
from tok_core.lpips import LPIPS
from tok_core.weight_files import find_weights, load_strictly, read_weights
from vision_tok.convnext import ConvNeXt, sizes_from_state
from vision_tok.weightless_perceptual import WeightlessPerceptual

CONVNEXT_FILE = "convnext_small-0c510722.pth"
PerceptualKind = Literal["none", "weightless", "lpips", "convnext", "mixed"]


class ConvNeXtLogits(FrozenNetwork):
    """Mean squared difference of a frozen classifier's logits, TiTok's perceptual loss.

    Both pictures are resized to 224 x 224 (bilinear, antialiased), normalised with the ImageNet
    statistics and classified; the loss compares all K logits.  Yu et al., arXiv 2406.07550,
    section 3.3 and its released training code's form.

    Args:
        network: classifier of normalised pictures (B, 3, size, size) -> (B, K).
        size: pixels per side that the classifier sees.

    Example:
        >>> loss = ConvNeXtLogits.from_file()      # torchvision's ConvNeXt-Small, from the cache
        >>> loss(reconstruction, picture)          # scalar
    """

    imagenet_mean: Tensor
    imagenet_std: Tensor

    def __init__(self, network: nn.Module, size: int = 224) -> None:
        super().__init__()
        self.network = network
        self.size = size
        mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
        std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
        self.register_buffer("imagenet_mean", mean)
        self.register_buffer("imagenet_std", std)
        self.requires_grad_(False).eval()

    @classmethod
    def from_file(cls, path: str | os.PathLike[str] | None = None) -> ConvNeXtLogits:
        """Build from torchvision's ``convnext_small-0c510722.pth`` (ImageNet1K_V1), local only.

        Args:
            path: the file, or another ConvNeXt's in the same layout; None searches.

        Raises:
            WeightsError: the file is missing or does not fit.
        """
        found = find_weights(CONVNEXT_FILE, project="torchvision", explicit=path)
        state = read_weights(found)
        setting, classes = sizes_from_state(state, source=str(found))
        network = ConvNeXt(setting, classes)
        load_strictly(network, state, source=str(found))
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return cls(network)

    def resize(self, x: Tensor) -> Tensor:
        """Return (B, 3, size, size) of pictures (B, 3, H, W), in the same range."""
        return F.interpolate(
            x, size=(self.size, self.size), mode="bilinear", align_corners=False, antialias=True
        )

    def logits(self, x: Tensor) -> Tensor:
        """Return class logits (B, K) of pictures (B, 3, H, W) in [-1, 1]."""
        with torch.autocast(x.device.type, enabled=False):
            x = self.resize((x.float() + 1) / 2)
            return self.network((x - self.imagenet_mean) / self.imagenet_std)

    def reference(self, target: Tensor) -> Tensor:
        """Return the target's logits (B, K), without gradients."""
        with torch.no_grad():
            return self.logits(target)

    def distance(self, x: Tensor, reference: Tensor) -> Tensor:
        """Return the mean squared difference of the logits per picture (B,)."""
        return (self.logits(x) - reference).square().mean(dim=1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the mean over the batch, a scalar; gradients reach ``x`` alone."""
        return self.distance(x, self.reference(y)).mean()


class MixedPerceptual(nn.Module):
    """(1.0 LPIPS + 0.1 ConvNeXt logits) / 1.1, the single-stage recipe's loss.

    That recipe weights it by 1.1 again (Kim et al., arXiv 2501.07730).
    """

    def __init__(
        self,
        lpips: LPIPS,
        convnext: ConvNeXtLogits,
        lpips_share: float = 1.0,
        convnext_share: float = 0.1,
    ) -> None:
        super().__init__()
        self.lpips = lpips
        self.convnext = convnext
        self.shares = (lpips_share, convnext_share)

    def reference(self, target: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return both networks' view of the target."""
        return self.lpips.reference(target), self.convnext.reference(target)

    def distance(self, x: Tensor, reference: tuple[list[Tensor], Tensor]) -> Tensor:
        """Return the weighted mean of both distances per picture (B,)."""
        a, b = self.shares
        return (
            a * self.lpips.distance(x, reference[0]) + b * self.convnext.distance(x, reference[1])
        ) / (a + b)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the mean over the batch, a scalar; gradients reach ``x`` alone."""
        return self.distance(x, self.reference(y)).mean()


def build_perceptual(
    kind: PerceptualKind,
    *,
    vgg16: str | None = None,
    lpips_heads: str | None = None,
    convnext: str | None = None,
) -> nn.Module | None:
    """Return the perceptual loss of that name, or None for ``"none"``.

    Args:
        kind: ``none``, ``weightless`` (needs no file), ``lpips``, ``convnext`` or ``mixed``.
        vgg16: path of torchvision's VGG16 file; None searches, and so for the other two.
        lpips_heads: path of the LPIPS heads.
        convnext: path of torchvision's ConvNeXt-Small file.

    Raises:
        WeightsError: a file is not on this machine; it names the file and where to put it.
    """
    if kind == "none":
        return None
    if kind == "weightless":
        return WeightlessPerceptual()
    if kind == "lpips":
        return LPIPS.from_files(vgg16, lpips_heads)
    if kind == "convnext":
        return ConvNeXtLogits.from_file(convnext)
    return MixedPerceptual(
        LPIPS.from_files(vgg16, lpips_heads), ConvNeXtLogits.from_file(convnext)
    )
