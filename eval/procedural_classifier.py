"""The procedural classifier: a small network that tells the twelve procedural shapes apart.

    pictures uint8 (B, 3, H, W) ──resize──▶ 64 x 64 ──▶ five 3x3 convolutions ──▶ logits (B, 12)
                                              means of four of their outputs ──▶ features (B, D)

It exists so that sets of pictures can be compared on a machine without anybody's weight files:
its features define ``frechet/procedural-v1`` (see `eval.procedural_distance` and
docs/procedural_distance.md for what that number can and cannot tell). Make it again with

    python -m eval.procedural_classifier --out assets/classifiers/procedural-v1

Letters: B pictures, H W pixels, D = 296 features.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eval.feature_extractor import FrozenExtractor
from tok_core.errors import MediaError, WeightsError
from tok_core.full_float32 import full_float32
from tok_core.official_weights import read_state

VERSION = "procedural-v1"
SIDE = 64
# Width, kernel and stride of each convolution, then whether its mean joins the features. Early
# means see noise and colour, which the classes say nothing about; late ones see shapes.
LAYERS = ((24, 5, 2, True), (48, 3, 1, True), (96, 3, 2, True), (128, 3, 2, False),
          (128, 3, 1, True))  # fmt: skip
DIMENSION = sum(width for width, _, _, tapped in LAYERS if tapped)
WEIGHTS, FACTS = "model.safetensors", "classifier.json"
RESIZE = "bicubic with antialias to 64 x 64 in floats, clamped to 0..255, not rounded"


class ProceduralClassifier(FrozenExtractor):
    """The network with its batch norms folded in; frozen, float32, always in eval mode.

    Args:
        classes: number of labels. sha256: of the weight file, for protocols.

    Example:
        >>> network = shipped_classifier()
        >>> network.features(pictures, ("features",))["features"].shape
        torch.Size([8, 296])
    """

    name = VERSION
    feature_tap, logits_tap = "features", "logits"
    spatial_tap: str | None = None

    def __init__(self, classes: int = 12, *, sha256: str = "") -> None:
        super().__init__()
        self.sha256 = sha256
        self.dimensions: Mapping[str, int] = {"features": DIMENSION, "logits": classes}
        self.convolutions = nn.ModuleList()
        width_in = 3
        for width, kernel, stride, _ in LAYERS:
            self.convolutions.append(
                nn.Conv2d(width_in, width, kernel, stride=stride, padding=kernel // 2)
            )
            width_in = width
        self.head = nn.Linear(DIMENSION, classes)
        self.requires_grad_(False).eval()

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str]) -> ProceduralClassifier:
        """Load what the training command wrote.

        Raises:
            WeightsError: a file is missing, damaged or of another version.
        """
        folder = Path(folder)
        try:
            facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
            digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
            classes = len(facts["classes"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WeightsError(
                f"{folder} holds no procedural classifier ({type(error).__name__}: {error}); make "
                f"one with: python -m eval.procedural_classifier --out {folder}"
            ) from None
        if facts.get("name") != VERSION:
            raise WeightsError(
                f"{folder} holds the classifier '{facts.get('name')}' and this package reads "
                f"'{VERSION}'; install the package that made it."
            )
        network = cls(classes, sha256=digest)
        state = {key: value.float() for key, value in read_state(folder / WEIGHTS).items()}
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            raise WeightsError(
                f"{folder / WEIGHTS} does not fit the procedural classifier "
                f"({str(error).splitlines()[-1].strip()}); make it again."
            ) from None
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (B, D) and logits (B, 12) of (B, 3, 64, 64) in [-1, 1]."""
        means = []
        for layer, (_, _, _, tapped) in zip(self.convolutions, LAYERS, strict=True):
            x = F.relu(layer(x), inplace=True)
            if tapped:
                means.append(x.mean((2, 3)))
        features = torch.cat(means, 1)
        return features, self.head(features)

    @torch.no_grad()
    def features(self, images: Tensor, taps: Collection[str]) -> dict[str, Tensor]:
        """Return (B, D) float32 for each tap (``features``, ``logits``) of uint8 (B, 3, H, W)."""
        with full_float32(images.device.type):
            values = self(resized(images).contiguous(memory_format=torch.channels_last))
        found = dict(zip(("features", "logits"), values, strict=True))
        return {tap: found[tap] for tap in taps}

    def protocol(self) -> dict[str, Any]:
        """Return what its numbers depend on."""
        return {
            "extractor": self.name, "extractor_sha256": self.sha256, "extractor_resize": RESIZE,
            "precision": "float32",
        }  # fmt: skip


def resized(images: Tensor) -> Tensor:
    """Return uint8 (B, 3, H, W) as float32 (B, 3, 64, 64) in [-1, 1]; 64 x 64 stays exact.

    Raises:
        MediaError: not uint8 pictures.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise MediaError(
            f"the classifier got {images.dtype} of shape {tuple(images.shape)}; give uint8 "
            "pictures (B, 3, H, W)."
        )
    x = images.float()
    if images.shape[-2:] != (SIDE, SIDE):
        x = F.interpolate(x, (SIDE, SIDE), mode="bicubic", antialias=True).clamp(0.0, 255.0)
    return x / 127.5 - 1.0


@cache
def shipped_classifier() -> ProceduralClassifier:
    """Return the classifier that comes with the package; loaded once.

    Raises:
        WeightsError: this installation does not hold it.
    """
    from assets import asset_path

    try:
        folder = asset_path(f"classifiers/{VERSION}")
    except FileNotFoundError as error:
        raise WeightsError(
            f"{error}; make it with: python -m eval.procedural_classifier --out FOLDER"
        ) from None
    return ProceduralClassifier.from_folder(folder)


def main() -> int:
    """Train and write the classifier; see `eval.procedural_recipe`."""
    from eval.procedural_recipe import main as train

    return train()


if __name__ == "__main__":
    sys.exit(main())
