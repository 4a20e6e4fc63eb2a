"""Semantic encoder: an adapter from any vision transformer to features on a square token grid.

    pictures in [-1, 1] --normalisation--> network, n blocks (-> norm) --> (B, N, W), prefix dropped

Letters: B pictures, S their side in pixels, G grid side, N = G * G, W width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tok_core.errors import ConfigError, nearest
from tok_core.json_options import parse_part
from vision_tok.position_resize import POSITION_RULES, PositionRule
from vision_tok.timm_tower import TimmTower
from vision_tok.tower_start import resized_tower
from vision_tok.tower_weights import fill_tower, read_tower, tower_sizes
from vision_tok.transformers_tower import TransformersTower, architecture_of
from vision_tok.vision_tower import TowerSizes, VisionTower

KINDS = ("tower", "transformers", "timm")
Channels = tuple[float, float, float]
# (mean, std) of pictures in [0, 1].
NORMALIZATIONS: dict[str, tuple[Channels, Channels]] = {
    "clip": (
        (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711),
    ),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SemanticEncoderOptions:
    """Which network, and which of its features.

    Attributes:
        kind: ``tower`` (our CLIP and SigLIP tower, no library needed), ``transformers`` or
            ``timm``.
        weights: where to start from: for ``tower`` a file, folder or hub id of CLIP or SigLIP in
            OpenAI's (``ViT-B-16.pt`` too) or transformers' layout, for ``transformers`` a folder
            or hub id, for ``timm`` a file or ``pretrained``. None starts at random. A saved
            tokenizer holds its weights itself and names none.
        sizes: of the tower; None reads them off ``weights``.
        architecture: of the transformers model, its config as an object with ``model_type``; None
            reads it from ``weights``.
        name: of the timm model.
        normalization: ``none`` hands the picture on in [-1, 1]; ``clip``, ``half``, ``imagenet``
            and ``custom`` take (v - mean) / std of the picture v clamped to [0, 1].
        mean, std: per channel, for ``custom``.
        block: blocks to run; None runs all.
        final_norm: apply the network's last layer norm to every token.
        prefix: tokens before the patches, for ``transformers``; None counts them.
        positions: what happens at another resolution than the network's own: ``offset-0.1``,
            ``size``, ``antialias`` or ``none``, see `vision_tok.position_resize`. A ``tower`` with
            ``antialias`` also takes ``weights`` of another patch size or grid than its ``sizes``
            say, and resizes both as timm does.
        stride: pixels per token, where a timm model cannot tell.
    """

    kind: Literal["tower", "transformers", "timm"] = "tower"
    weights: str | None = None
    sizes: TowerSizes | None = None
    architecture: dict[str, Any] | None = None
    name: str | None = None
    normalization: Literal["none", "clip", "half", "imagenet", "custom"] = "none"
    mean: Channels | None = None
    std: Channels | None = None
    block: int | None = None
    final_norm: bool = True
    prefix: int | None = None
    positions: PositionRule = "none"
    stride: int | None = None


class SemanticEncoder(nn.Module):
    """A vision transformer with its own view of pictures that come in [-1, 1].

    Args:
        options: which network; ``weights`` are read now, unless it is built on meta.

    Attributes:
        options: with sizes spelled out and without ``weights``, ready to be saved.
        width: W.

    Raises:
        ConfigError: options that do not go together, or a library that is not installed.
        WeightsError: weights that are missing or do not fit.

    Example:
        >>> options = parse_encoder({"sizes": {"patch_size": 8, "grid": 4, "width": 32, "heads": 2,
        ...                                    "layers": 1, "mlp_width": 64}})
        >>> SemanticEncoder(options)(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 16, 32])
    """

    def __init__(self, options: SemanticEncoderOptions) -> None:
        super().__init__()
        _check(options)
        self.network, self.options = _build(options)
        self.width: int = self.network.width

    def grid_of(self, side: int) -> int:
        """Return G for pictures of S pixels per side."""
        return self.network.grid_of(side, side)[0]

    def normalised(self, x: Tensor) -> Tensor:
        """Return what the network sees of pictures (B, 3, S, S) in [-1, 1]."""
        options = self.options
        if options.normalization == "none":
            return x
        if options.normalization == "custom":
            mean, std = options.mean, options.std
        else:
            mean, std = NORMALIZATIONS[options.normalization]
        unit = ((x + 1) * 127.5).clamp(0, 255) / 255
        return (unit - x.new_tensor(mean).view(3, 1, 1)) / x.new_tensor(std).view(3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map pictures (B, 3, S, S) in [-1, 1] to features (B, N, W), row-major."""
        return self.network(self.normalised(x))

    def class_feature(self, x: Tensor) -> Tensor:
        """Map pictures (B, 3, S, S) in [-1, 1] to the class token (B, W).

        Raises:
            ConfigError: the network has none.
        """
        return self.network.class_feature(self.normalised(x))


def parse_encoder(value: object, name: str = "semantic_encoder") -> SemanticEncoderOptions:
    """Build options from a JSON object; ConfigError for unknown or missing ones."""
    options = parse_part(SemanticEncoderOptions, name, value)
    if isinstance(options.sizes, Mapping):
        sizes = parse_part(TowerSizes, f"{name}.sizes", options.sizes)
        options = dataclasses.replace(options, sizes=sizes)
    return options


def plain_encoder(options: SemanticEncoderOptions) -> dict[str, Any]:
    """Return options as plain JSON values, without those left at their defaults."""
    plain = {}
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if value == field.default:
            continue
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            value = dataclasses.asdict(value)
            if not value.get("layer_scale"):  # configs of towers without one never named it
                value.pop("layer_scale", None)
        plain[field.name] = list(value) if isinstance(value, tuple) else value
    return plain


def _build(options: SemanticEncoderOptions) -> tuple[Any, SemanticEncoderOptions]:
    choice: dict[str, Any] = {"block": options.block, "final_norm": options.final_norm,
                              "positions": options.positions}  # fmt: skip
    network: VisionTower | TransformersTower | TimmTower
    if options.kind == "tower":
        # On meta nothing is read, where the sizes are known.
        on_meta = torch.empty(0).is_meta
        wanted = options.weights is not None and not (on_meta and options.sizes is not None)
        found = read_tower(options.weights) if wanted and options.weights else None
        sizes = options.sizes
        if sizes is None:
            assert found is not None
            sizes = tower_sizes(found)
        network = VisionTower(sizes, **choice)
        if found is not None and not on_meta:
            if options.positions == "antialias":  # timm's rule resizes patches, too
                found = resized_tower(found, sizes)
            fill_tower(network, found, str(options.weights))
        return network, dataclasses.replace(options, sizes=sizes, weights=None)
    if options.kind == "transformers":
        architecture = options.architecture or architecture_of(str(options.weights))
        network = TransformersTower(architecture, prefix=options.prefix, **choice)
        options = dataclasses.replace(options, architecture=architecture)
    else:
        network = TimmTower(str(options.name), stride=options.stride, **choice)
    if options.weights is not None and not next(network.parameters()).is_meta:
        network.load(options.weights)
    return network, dataclasses.replace(options, weights=None)


def _check(options: SemanticEncoderOptions) -> None:
    legal = (*NORMALIZATIONS, "none", "custom")
    for name, value, choices in (
        ("kind", options.kind, KINDS), ("normalization", options.normalization, legal),
        ("positions", options.positions, POSITION_RULES),
    ):  # fmt: skip
        if value not in choices:
            raise ConfigError(
                f"{name} is '{value}'; legal are {', '.join(choices)}{nearest(str(value), choices)}"
            )
    if options.kind == "tower" and options.sizes is None and options.weights is None:
        raise ConfigError("a tower needs sizes, or weights to read them off; give one of the two.")
    if options.kind == "transformers" and not (options.architecture or options.weights):
        raise ConfigError("kind 'transformers' needs an architecture or weights; give one.")
    if options.kind == "timm" and not options.name:
        raise ConfigError("kind 'timm' needs the name of a timm model; give one.")
    custom = options.normalization == "custom"
    for name, values in (("mean", options.mean), ("std", options.std)):
        if custom and (values is None or len(values) != 3):
            raise ConfigError(f"normalization 'custom' needs {name}; give three numbers.")
        if not custom and values is not None:
            raise ConfigError(
                f"{name} is given but normalization is '{options.normalization}'; set it to "
                "'custom', or leave mean and std out."
            )
