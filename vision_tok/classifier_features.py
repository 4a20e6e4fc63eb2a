"""Dense features of a small convolutional classifier, the semantic teacher that ships with us.

    pictures --resize to its side--> convolutions + ReLU --tapped maps--> one vector per grid cell

Letters: B pictures, G grid side, T features.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tok_core.errors import ConfigError, WeightsError
from tok_core.full_float32 import full_float32
from tok_core.official_weights import read_state

WEIGHTS = "model.safetensors"
ASSETS = "assets/"


class ClassifierFeatures(nn.Module):
    """Feature maps of a stack of convolutions, brought to any square grid; frozen, float32.

    Args:
        state: ``convolutions.N.weight`` and ``.bias`` by name; anything else is left alone.
        strides: of the convolutions, in order; shapes do not tell them.
        taps: numbers of the convolutions whose maps become features; empty takes the last.
        side: pixels per side that the classifier was trained on.

    Raises:
        WeightsError: no convolutions in ``state``.
        ConfigError: strides or taps that do not fit them.

    Example:
        >>> teacher = ClassifierFeatures.from_path(
        ...     "assets/classifiers/procedural-v1", strides=(2, 1, 2, 2, 1), side=64)
        >>> teacher(torch.zeros(1, 3, 128, 128), 16).shape
        torch.Size([1, 256, 128])
    """

    def __init__(
        self, state: dict[str, Tensor], *, strides: Sequence[int], taps: Sequence[int] = (),
        side: int = 64,
    ) -> None:  # fmt: skip
        super().__init__()
        self.convolutions = nn.ModuleList()
        while (weight := state.get(f"convolutions.{len(self.convolutions)}.weight")) is not None:
            index = len(self.convolutions)
            out, into, kernel, _ = weight.shape
            stride = strides[index] if index < len(strides) else 1
            layer = nn.Conv2d(into, out, kernel, stride=stride, padding=kernel // 2)
            layer.weight.data = weight.float()
            layer.bias = nn.Parameter(state[f"convolutions.{index}.bias"].float())
            self.convolutions.append(layer)
        count = len(self.convolutions)
        if not count:
            raise WeightsError("the classifier holds no 'convolutions.0.weight'; give another.")
        self.taps, self.side = tuple(taps) or (count - 1,), side
        if len(strides) != count or not all(0 <= tap < count for tap in self.taps):
            raise ConfigError(
                f"strides {tuple(strides)} and taps {self.taps} came in for {count} convolutions; "
                f"give {count} strides, and taps from 0 to {count - 1}."
            )
        self.width = sum(self.convolutions[tap].out_channels for tap in self.taps)  # type: ignore[misc]
        self.requires_grad_(False).eval()

    @classmethod
    def from_path(
        cls, path: str, *, strides: Sequence[int], taps: Sequence[int] = (), side: int = 64
    ) -> ClassifierFeatures:
        """Read a folder with model.safetensors, or the file itself.

        Args:
            path: of the folder or file; ``assets/...`` is also found inside the package.
            strides, taps, side: as in the constructor.

        Raises:
            WeightsError: nothing there.
        """
        place = Path(path).expanduser()
        if not place.exists() and path.startswith(ASSETS):
            from assets import asset_path

            with suppress(FileNotFoundError):  # said below
                place = asset_path(path.removeprefix(ASSETS))
        file = place / WEIGHTS if place.is_dir() else place
        if not file.is_file():
            raise WeightsError(
                f"there is no classifier at '{path}'; give a folder with {WEIGHTS}, such as "
                "assets/classifiers/procedural-v1."
            )
        return cls(read_state(file), strides=strides, taps=taps, side=side)

    @torch.no_grad()
    def forward(self, x: Tensor, grid: int) -> Tensor:
        """Map pictures (B, 3, H, W) in [-1, 1] to features (B, G * G, T), row-major."""
        with full_float32(x.device.type):
            x = x.float()
            if tuple(x.shape[-2:]) != (self.side, self.side):
                size = (self.side, self.side)
                x = F.interpolate(x, size, mode="bicubic", antialias=True).clamp(-1, 1)
            maps = []
            for index, layer in enumerate(self.convolutions):
                x = F.relu(layer(x))
                if index in self.taps:
                    maps.append(_on_grid(x, grid))
            return torch.cat(maps, dim=1).flatten(2).transpose(1, 2)


def _on_grid(x: Tensor, grid: int) -> Tensor:
    if x.shape[-1] >= grid:
        return F.adaptive_avg_pool2d(x, grid)
    return F.interpolate(x, (grid, grid), mode="bilinear", align_corners=False)
