"""Backbones of the learned perceptual distances: the feature stacks of three old classifiers.

    VGG16         5 stages of 3x3 convolutions between 2x2 max pools      tap: end of each stage
    AlexNet       5 convolutions, the first two followed by 3x3 max pools  tap: each
    SqueezeNet    a convolution and 8 fire modules, 3 max pools of 3x3     7 taps

Every layer sits at the place it has in torchvision's ``features``, so that file's keys fit.  Taps
are taken after ReLU.  No torchvision is needed, only its weight files.  Sizes are read off the
weights, so that a shrunken network works, too.

Simonyan and Zisserman, arXiv 1409.1556; Krizhevsky, arXiv 1404.5997; Iandola et al., arXiv
1602.07360 (version 1.1).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tok_core.errors import ConfigError, WeightsError, nearest


class Backbone(NamedTuple):
    """A feature stack and where the distance looks into it.

    Attributes:
        features: layers by their place in torchvision's ``features``.
        taps: places whose output is compared. widths: channels of each.
        minimum_side: smallest side of a picture, in pixels, that leaves something at every tap.
    """

    features: nn.Sequential
    taps: tuple[int, ...]
    widths: tuple[int, ...]
    minimum_side: int


class _Fire(nn.Module):
    """1x1 down to a few channels, then 1x1 and 3x3 side by side; the ReLU ends it."""

    def __init__(self, width_in: int, squeeze: int, expand1x1: int, expand3x3: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(width_in, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand1x1, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand3x3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x).relu()
        return torch.cat([self.expand1x1(x), self.expand3x3(x)], dim=1).relu()


def vgg(
    channels: Sequence[int] = (64, 128, 256, 512, 512), layers: Sequence[int] = (2, 2, 3, 3, 3)
) -> Backbone:
    """Return a VGG: ``layers`` convolutions of ``channels`` width per stage, pools between."""
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
    side = 2 ** (len(taps) - 1)
    return Backbone(nn.Sequential(*modules), tuple(taps), tuple(channels), side)


def alexnet(
    channels: Sequence[int] = (64, 192, 384, 256, 256), kernels: Sequence[int] = (11, 5, 3, 3, 3)
) -> Backbone:
    """Return an AlexNet (the one-branch form) of these widths and kernel sides."""
    modules: list[nn.Module] = []
    taps: list[int] = []
    width_in = 3
    for index, (width, kernel) in enumerate(zip(channels, kernels, strict=True)):
        # The first convolution pads by 2 whatever its kernel, the others keep the size.
        stride, padding = (4, 2) if index == 0 else (1, kernel // 2)
        modules += [nn.Conv2d(width_in, width, kernel, stride, padding), nn.ReLU(inplace=True)]
        taps.append(len(modules) - 1)
        if index < 2:
            modules.append(nn.MaxPool2d(3, 2))
        width_in = width
    # Two pools of 3 by 2 need 7 places after the first convolution.
    side = 4 * 6 + kernels[0] - 4
    return Backbone(nn.Sequential(*modules), tuple(taps), tuple(channels), side)


_FIRES = {
    3: (16, 64, 64), 4: (16, 64, 64), 6: (32, 128, 128), 7: (32, 128, 128), 9: (48, 192, 192),
    10: (48, 192, 192), 11: (64, 256, 256), 12: (64, 256, 256),
}  # fmt: skip


def squeezenet(
    width: int = 64, fires: Mapping[int, tuple[int, int, int]] | None = None
) -> Backbone:
    """Return a SqueezeNet 1.1.

    Args:
        width: of the first convolution.
        fires: (squeeze, expand1x1, expand3x3) channels of the fire module at each place; None
            for the published ones.
    """
    fires = _FIRES if fires is None else fires
    modules: list[nn.Module] = [nn.Conv2d(3, width, 3, 2), nn.ReLU(inplace=True)]
    widths = [width]
    for place in range(2, 13):
        if place in _FIRES:
            modules.append(_Fire(widths[-1], *fires[place]))
            widths.append(sum(fires[place][1:]))
        else:
            modules.append(nn.MaxPool2d(3, 2, ceil_mode=True))
    taps = (1, 4, 7, 9, 10, 11, 12)
    # widths[0] is the first convolution's, then those of places 3, 4, 6, 7, 9, 10, 11, 12.
    kept = tuple(widths[i] for i in (0, 2, 4, 5, 6, 7, 8))
    return Backbone(nn.Sequential(*modules), taps, kept, 17)


class BackboneFile(NamedTuple):
    """A backbone by name: torchvision's file, and how its sizes are read off the weights."""

    file: str
    build: Callable[[Mapping[str, Tensor]], Backbone]


def backbone_named(net: str) -> BackboneFile:
    """Return ``vgg``, ``alex`` or ``squeeze``; ConfigError for another name."""
    if net not in BACKBONES:
        legal = ", ".join(BACKBONES) + nearest(net, BACKBONES)
        raise ConfigError(f"perceptual network '{net}' is unknown; legal are {legal}")
    return BACKBONES[net]


def _vgg_from(state: Mapping[str, Tensor]) -> Backbone:
    channels: list[int] = []
    layers: list[int] = []
    previous = None
    for index in _places(state, "weight"):
        # Within a stage convolutions stand 2 apart (ReLU); pooling makes it 3.
        if previous is None or index - previous > 2:
            channels.append(state[f"features.{index}.weight"].shape[0])
            layers.append(0)
        layers[-1] += 1
        previous = index
    return vgg(channels, layers)


def _alexnet_from(state: Mapping[str, Tensor]) -> Backbone:
    weights = [state[f"features.{index}.weight"] for index in _places(state, "weight")]
    return alexnet([w.shape[0] for w in weights], [w.shape[-1] for w in weights])


def _squeezenet_from(state: Mapping[str, Tensor]) -> Backbone:
    fires = dict(_FIRES)
    parts = ("squeeze", "expand1x1", "expand3x3")
    for place, published in _FIRES.items():
        # A part that the weights lack keeps its size here; strict loading then names it.
        found = [state.get(f"features.{place}.{part}.weight") for part in parts]
        squeeze, one, three = (
            size if w is None else w.shape[0] for w, size in zip(found, published, strict=True)
        )
        fires[place] = (squeeze, one, three)
    return squeezenet(state[f"features.{_places(state, 'weight')[0]}.weight"].shape[0], fires)


def _places(state: Mapping[str, Tensor], rest: str) -> list[int]:
    pattern = re.compile(rf"features\.(\d+)\.{re.escape(rest)}")
    return sorted(int(match[1]) for key in state if (match := pattern.fullmatch(key)))


def backbone_from(net: str, state: Mapping[str, Tensor], *, source: str) -> Backbone:
    """Return an unfilled backbone of the sizes that ``features.*`` tensors have.

    Args:
        net: ``vgg``, ``alex`` or ``squeeze``.
        state: tensors by torchvision's key names; other keys are not looked at.
        source: what they are, for the error message.

    Raises:
        ConfigError: an unknown net. WeightsError: no convolution among the keys.

    Example:
        >>> backbone_from("vgg", read_weights("vgg16-397923af.pth"), source="my file").taps
        (3, 8, 15, 22, 29)
    """
    build = backbone_named(net).build
    if not _places(state, "weight"):
        raise WeightsError(
            f"{source} holds no key like 'features.0.weight'; a {net.upper()} state dict of "
            "torchvision is needed"
        )
    return build(state)


BACKBONES: Mapping[str, BackboneFile] = {
    "vgg": BackboneFile("vgg16-397923af.pth", _vgg_from),
    "alex": BackboneFile("alexnet-owt-7be5be79.pth", _alexnet_from),
    "squeeze": BackboneFile("squeezenet1_1-b8a52dc0.pth", _squeezenet_from),
}
