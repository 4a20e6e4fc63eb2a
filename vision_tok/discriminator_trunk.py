"""Frozen trunks that a discriminator's heads read: DINO's ViT, or a small packaged classifier.

    x in [-1, 1] --crop or resize to S x S--> (v - mean) / std --patches, class token, positions-->
      h_0 --blocks--> h_1 .. h_K         h_k = patch tokens + class token, (B, C, L)

Letters: B pictures, S side that the trunk sees, C its width, L tokens, K read-outs after blocks.
Caron et al., "DINO", arXiv 2104.14294 (version 1, ViT-S/16 in the published recipes).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tok_core.errors import ConfigError
from tok_core.json_options import parse_part
from tok_core.shipped_models import is_hub_id
from tok_core.weight_files import find_weights
from vision_tok.classifier_features import ClassifierFeatures
from vision_tok.tower_weights import fill_tower, find_tower, read_tower, tower_sizes
from vision_tok.vision_tower import TowerSizes, VisionTower

DINO_FILE, DINO_PROJECT = "dino_deitsmall16_pretrain.pth", "facebookresearch/dino (DINO ViT-S/16)"
FILE_ENDINGS = (".pth", ".pt", ".bin", ".safetensors")
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CROP_CHANCE = 0.5
LARGEST_MAP = 16  # side of a classifier's maps as the heads see them


@dataclass(frozen=True, kw_only=True)
class TrunkOptions:
    """Which frozen network the heads of a DINO discriminator read.

    Attributes:
        kind: ``dino`` (a ViT in DINO's or timm's names), ``classifier`` (a stack of convolutions
            such as the packaged ``assets/classifiers/procedural-v1``), or ``random`` (a ViT of
            ``sizes``, the same in every run; for machines without weights).
        weights: file, folder or hub id (``timm/vit_small_patch16_224.dino``); None searches
            DINO's ViT-S/16 on this machine (`find_weights`).
        sizes: of a ``random`` ViT, or what a ``dino`` file's shapes do not tell (``heads``).
        readouts: blocks (from 0) after which the tokens are read, beside those before block 0.
        strides, taps, side: of a ``classifier``, see `ClassifierFeatures`; empty taps read the
            last three convolutions.
    """

    kind: Literal["dino", "classifier", "random"] = "dino"
    weights: str | None = None
    sizes: dict[str, Any] | None = None
    readouts: tuple[int, ...] = (2, 5, 8, 11)
    strides: tuple[int, ...] = ()
    taps: tuple[int, ...] = ()
    side: int = 64


class FrozenTrunk(nn.Module):
    """Read-outs of pictures of any size; every tensor is a buffer that is not saved.

    Attributes:
        side: S. widths: C of each read-out. lengths: its L.
    """

    side: int
    widths: tuple[int, ...]
    lengths: tuple[int, ...]

    def fitted(self, x: Tensor) -> Tensor:
        """Bring pictures (B, 3, H, W) to S x S.

        Larger ones are cropped at random in half of the training calls, otherwise averaged over
        areas, as in eval mode; others are resized by bicubic interpolation.
        """
        height, width = x.shape[-2:]
        if (height, width) == (self.side, self.side):
            return x
        if min(height, width) < self.side:
            return F.interpolate(x, (self.side, self.side), mode="bicubic", align_corners=False)
        if self.training and float(torch.rand(())) <= CROP_CHANCE:
            top = int(torch.randint(height - self.side + 1, ()))
            left = int(torch.randint(width - self.side + 1, ()))
            return x[..., top : top + self.side, left : left + self.side]
        return F.interpolate(x, (self.side, self.side), mode="area")

    def _freeze(self) -> None:
        """Turn every parameter into a buffer outside the state dict.

        An engine may then switch the gradients of all a discriminator's parameters on and off, and
        save it, without touching the trunk.
        """
        for module in self.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                del module._parameters[name]
                module.register_buffer(name, parameter.detach(), persistent=False)


class DinoTrunk(FrozenTrunk):
    """Read-outs of a vision transformer with a class token.

    DINO's key biases, which the official code sets to zero, stay: softmax does not see them.

    Args:
        tower: with a class token and no norm before its blocks.
        readouts: blocks (from 0) after which tokens are read.

    Raises:
        ConfigError: another kind of tower, or a block that is not there.

    Example:
        >>> trunk = build_trunk(TrunkOptions(kind="dino"))   # doctest: +SKIP
        >>> [tuple(h.shape) for h in trunk(pictures)]        # doctest: +SKIP
        [(4, 384, 196), (4, 384, 196), (4, 384, 196), (4, 384, 196), (4, 384, 196)]
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, tower: VisionTower, readouts: Sequence[int] = (2, 5, 8, 11)) -> None:
        super().__init__()
        sizes = tower.sizes
        if tower.class_token is None or tower.norm_in is not None:
            raise ConfigError(
                "the discriminator's trunk is no DINO transformer (it needs a class token and no "
                f"norm before its blocks); give {DINO_FILE} of {DINO_PROJECT}"
            )
        blocks = sorted(set(readouts))
        if not blocks or blocks[0] < 0 or blocks[-1] >= len(tower.blocks):
            raise ConfigError(
                f"discriminator_trunk.readouts is {tuple(readouts)} and the trunk has "
                f"{len(tower.blocks)} blocks; give numbers from 0 to {len(tower.blocks) - 1}"
            )
        self.tower, self.readouts = tower, tuple(blocks)
        self.side = sizes.grid * sizes.patch_size
        self.widths = (sizes.width,) * (len(blocks) + 1)
        self.lengths = (sizes.grid**2,) * (len(blocks) + 1)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in IMAGENET)
        # ((x + 1) / 2 - mean) / std
        self.register_buffer("scale", 0.5 / std, persistent=False)
        self.register_buffer("shift", (0.5 - mean) / std, persistent=False)
        self._freeze()

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map pictures (B, 3, H, W) in [-1, 1] to one (B, C, L) per read-out."""
        tower = self.tower
        h = tower.embedded(self.fitted(x * self.scale + self.shift))
        found = [_tokens(h)]
        for index, block in enumerate(tower.blocks[: self.readouts[-1] + 1]):
            h = block(h)
            if index in self.readouts:
                found.append(_tokens(h))
        return found


class ClassifierTrunk(FrozenTrunk):
    """Maps of a small convolutional classifier, at most 16 x 16, row by row.

    Args:
        features: the classifier. strides: of its convolutions.
        taps: numbers of the convolutions whose maps are read; empty reads the last three.

    Example:
        >>> trunk = build_trunk(TrunkOptions(kind="classifier", strides=(2, 1, 2, 2, 1),
        ...                                  weights="assets/classifiers/procedural-v1"))
        >>> [tuple(h.shape) for h in trunk(torch.zeros(2, 3, 128, 128))]
        [(2, 64, 256), (2, 96, 64), (2, 128, 64)]
    """

    def __init__(
        self, features: ClassifierFeatures, strides: Sequence[int], taps: Sequence[int] = ()
    ) -> None:
        super().__init__()
        self.convolutions, self.side = features.convolutions, features.side
        count = len(self.convolutions)
        self.taps = tuple(sorted(set(taps))) or tuple(range(max(0, count - 3), count))
        sides, side = [], self.side
        for stride in strides:
            side = -(-side // stride)
            sides.append(min(side, LARGEST_MAP))
        self.lengths = tuple(sides[tap] ** 2 for tap in self.taps)
        self.widths = tuple(self.convolutions[tap].out_channels for tap in self.taps)  # type: ignore[misc]
        self._freeze()

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map pictures (B, 3, H, W) in [-1, 1] to one (B, C, L) per tap."""
        found, x = [], self.fitted(x)
        for index, layer in enumerate(self.convolutions):
            x = F.relu(layer(x))
            if index in self.taps:
                seen = F.adaptive_avg_pool2d(x, LARGEST_MAP) if x.shape[-1] > LARGEST_MAP else x
                found.append(seen.flatten(2))
        return found


def build_trunk(options: TrunkOptions | None = None) -> FrozenTrunk:
    """Load the trunk that ``options`` names; None means DINO's ViT-S/16.

    Raises:
        WeightsError: its file is not on this machine (which file, whose, where to put it), or it
            does not fit.
        ConfigError: options that do not go together.

    Example:
        >>> build_trunk(TrunkOptions(weights="dino_deitsmall16_pretrain.pth"))  # doctest: +SKIP
    """
    options = options or TrunkOptions()
    if options.kind == "classifier":
        if options.weights is None:
            raise ConfigError(
                "discriminator_trunk.kind is 'classifier' but weights is empty; name a folder such "
                "as assets/classifiers/procedural-v1"
            )
        return ClassifierTrunk(
            ClassifierFeatures.from_path(
                options.weights, strides=options.strides, taps=options.taps, side=options.side
            ),
            options.strides, options.taps,
        )  # fmt: skip
    if options.kind == "random":
        if options.weights is not None or not options.sizes:
            raise ConfigError(
                "discriminator_trunk.kind is 'random', which needs sizes and takes no weights; "
                "give sizes (patch_size, grid, width, layers, heads, mlp_width) alone"
            )
        sizes = replace(
            parse_part(TowerSizes, "discriminator_trunk.sizes", options.sizes), class_token=True
        )
        # Not saved with the run, so it has to come out the same when the run goes on.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return DinoTrunk(VisionTower(sizes, final_norm=False), options.readouts)
    place = options.weights
    elsewhere = place is not None and (
        Path(place).expanduser().is_dir()
        or (is_hub_id(place) and Path(place).suffix not in FILE_ENDINGS)
    )
    if place is None or not elsewhere:
        place = str(find_weights(DINO_FILE, project=DINO_PROJECT, explicit=place))
    return _dino(read_tower(place), place, options)


def trunk_from_state(
    state: dict[str, Tensor], options: TrunkOptions | None = None, source: str = "the trunk"
) -> DinoTrunk:
    """Build a DINO trunk from tensors by their official names."""
    return _dino(find_tower(state, source), source, options or TrunkOptions())


def _dino(found: Any, source: str, options: TrunkOptions) -> DinoTrunk:
    # The released discriminator approximates the GELU that DINO was trained with.
    sizes = tower_sizes(found, {"activation": "gelu_tanh", **(options.sizes or {})})
    tower = VisionTower(sizes, final_norm=False)
    fill_tower(tower, found, source)
    return DinoTrunk(tower, options.readouts)


def _tokens(h: Tensor) -> Tensor:
    """Return (B, C, L) of tokens (B, 1 + L, C): each patch with the class token added."""
    return (h[:, 1:] + h[:, :1]).transpose(1, 2)
