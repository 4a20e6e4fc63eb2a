"""Semantic teacher: a frozen network whose features the semantic tokens have to reproduce.

Letters: B pictures, G grid side, N = G * G, T features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from tok_core.errors import ConfigError, WeightsError
from tok_core.frozen_network import FrozenNetwork
from tok_core.full_float32 import full_float32
from vision_tok.classifier_features import ClassifierFeatures
from vision_tok.semantic_encoder import SemanticEncoder, SemanticEncoderOptions
from vision_tok.tower_weights import read_tower, tower_sizes


@dataclass(frozen=True, kw_only=True)
class TeacherOptions:
    """Which network teaches; the options of `SemanticEncoderOptions` mean the same here.

    Attributes:
        kind: ``tower``, ``transformers``, ``timm``, or ``classifier`` (a stack of convolutions
            such as the packaged ``assets/classifiers/procedural-v1``).
        weights: always needed: a teacher is not saved with the run.
        project: multiply every token by the tower's projection into the space shared with text.
        pool: the one feature per picture that `SemanticTeacher.class_feature` returns: ``class``,
            the class token, or ``patches``, the mean of the patch tokens.
        strides, taps, side: of a ``classifier``, see `ClassifierFeatures`.
    """

    weights: str
    kind: Literal["tower", "transformers", "timm", "classifier"] = "tower"
    name: str | None = None
    sizes: dict[str, Any] | None = None
    normalization: Literal["none", "clip", "half", "imagenet", "custom"] = "none"
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    block: int | None = None
    final_norm: bool = True
    prefix: int | None = None
    positions: Literal["offset-0.1", "size", "antialias", "none"] = "none"
    stride: int | None = None
    project: bool = False
    pool: Literal["class", "patches"] = "class"
    strides: tuple[int, ...] = ()
    taps: tuple[int, ...] = ()
    side: int = 64


class SemanticTeacher(FrozenNetwork):
    """Frozen features of pictures, in float32 and always in eval mode.

    Args:
        network: maps (B, 3, S, S) in [-1, 1] to (B, N, W).
        projection: (W, T), or None for T = W.
        pool: as `TeacherOptions`.

    Example:
        >>> teacher = build_teacher(TeacherOptions(weights="clip-vit-base-patch16", project=True,
        ...                                        normalization="clip"))  # doctest: +SKIP
        >>> teacher(pictures, 14).shape  # doctest: +SKIP
        torch.Size([4, 196, 512])
    """

    projection: Tensor | None

    def __init__(
        self, network: SemanticEncoder | ClassifierFeatures, projection: Tensor | None = None,
        pool: str = "class",
    ) -> None:  # fmt: skip
        super().__init__()
        self.network, self.pool = network, pool
        self.register_buffer("projection", projection)
        self.width = network.width if projection is None else projection.shape[1]
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, x: Tensor, grid: int) -> Tensor:
        """Return features (B, N, T) of pictures (B, 3, S, S) in [-1, 1], row-major.

        Args:
            x: pictures.
            grid: G that the tokenizer predicts.

        Raises:
            ConfigError: the teacher sees another grid.
        """
        if isinstance(self.network, ClassifierFeatures):
            return self.network(x, grid)
        with full_float32(x.device.type):
            features = self.network(x.float())
            if features.shape[1] != grid * grid:
                raise ConfigError(
                    f"the teacher gives {features.shape[1]} features per picture but the tokenizer "
                    f"predicts {grid * grid}; choose a teacher with the tokenizer's patch size, or "
                    "another image size."
                )
            return features if self.projection is None else features @ self.projection

    @torch.no_grad()
    def class_feature(self, x: Tensor) -> Tensor:
        """Return one feature (B, T) per picture (B, 3, H, W) in [-1, 1], float32.

        A classifier has no class token: its feature is the mean of its last maps.

        Raises:
            ConfigError: ``pool`` is ``class`` and the network has no class token.
        """
        if isinstance(self.network, ClassifierFeatures):
            return self.network(x, 1)[:, 0]
        with full_float32(x.device.type):
            if self.pool == "class":
                feature = self.network.class_feature(x.float())
            else:
                feature = self.network(x.float()).mean(1)
            return feature if self.projection is None else feature @ self.projection


def build_teacher(options: TeacherOptions) -> SemanticTeacher:
    """Load the teacher that ``options`` names.

    Raises:
        WeightsError: no such file or folder, or it does not fit.
        ConfigError: options that do not go together.

    Example:
        >>> options = TeacherOptions(kind="classifier", strides=(2, 1, 2, 2, 1),
        ...                          weights="assets/classifiers/procedural-v1")
        >>> build_teacher(options).width
        128
    """
    if options.kind == "classifier":
        return SemanticTeacher(
            ClassifierFeatures.from_path(
                options.weights, strides=options.strides, taps=options.taps, side=options.side
            )
        )
    shared = (
        "weights", "name", "normalization", "mean", "std", "block", "final_norm", "prefix",
        "positions", "stride",
    )  # fmt: skip
    values = {name: getattr(options, name) for name in shared}
    projection = None
    if options.kind == "tower":
        found = read_tower(options.weights)
        values["sizes"] = tower_sizes(found, options.sizes)
        projection = found.projection if options.project else None
        if options.project and projection is None:
            raise WeightsError(
                f"the teacher '{options.weights}' has no projection; set project to false, or give "
                "the whole CLIP model."
            )
    elif options.project:
        raise ConfigError(f"kind '{options.kind}' has no projection; use kind 'tower' for it.")
    network = SemanticEncoder(SemanticEncoderOptions(kind=options.kind, **values))
    projection = None if projection is None else projection.float()
    return SemanticTeacher(network, projection, options.pool)
