"""Config of RobusTok and XQ-GAN: plain JSON in, one frozen, checked object out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from tok_core.errors import ConfigError, nearest
from tok_core.json_options import parse_part
from tok_core.quantizer_dropout import QuantizerDropout
from tok_core.scales import Scales
from vision_tok.titok_config import QuantizerOptions
from vision_tok.vision_tower import PositionStart, TowerSizes
from vision_tok.vqgan_config import MultiScaleOptions

KINDS = ("vector", "multi_scale", "binary")
SEMANTIC_BRANCHES = ("last", "all")


@dataclass(frozen=True, kw_only=True)
class SideOptions:
    """One vision transformer; the defaults are DINOv2's ViT-B.

    Attributes:
        width: W. layers: blocks. heads: of each. mlp_width: hidden width, None for 4 W.
        weights: DINOv2 weights to start from, a file in timm's layout; read when the model is made
            and not kept in the config. Patches and positions are resized to this model's.
    """

    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_width: int | None = None
    weights: str | None = None


@dataclass(frozen=True, kw_only=True)
class UnitOptions(QuantizerOptions):
    """How the codebooks of kind ``vector`` train; see `tok_core.vector_quantizer`.

    Attributes:
        average_usage: keep running averages of hits, as the released code does.
        dropout: share of a batch that the semantic loss leaves out (XQ-GAN's codebook_drop, which
            has nothing else to drop on one scale).
    """

    average_usage: bool = False
    dropout: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ResidualOptions(MultiScaleOptions):
    """How the codebooks of kind ``multi_scale`` train; see `tok_core.phi_residual`.

    Attributes:
        sum_commitment: sum the commitment over scales, as XQ-GAN's release does; False averages,
            as Adobe's does.
        official_usage: count updates of the average usage as the releases do.
        dropout: r, share of a batch that may lose fine scales, and which the semantic loss leaves
            out. start_drop: least number of scales kept.
    """

    sum_commitment: bool = True
    official_usage: bool = False
    dropout: float = 0.1
    start_drop: int = 3


@dataclass(frozen=True, kw_only=True)
class BinaryOptions:
    """How kind ``binary`` trains; see `tok_core.binary_spherical`.

    Attributes:
        phi_convs: None for 4 over many scales and none for one.
        beta: of the commitment. entropy, temperature: of the entropy loss.
        average_usage, dropout, start_drop: as `ResidualOptions`.
    """

    phi_convs: int | None = None
    beta: float = 0.25
    entropy: float = 0.1
    temperature: float = 0.01
    average_usage: bool = False
    dropout: float = 0.1
    start_drop: int = 3


Options = UnitOptions | ResidualOptions | BinaryOptions
_OPTIONS: dict[str, type[Options]] = {
    "vector": UnitOptions, "multi_scale": ResidualOptions, "binary": BinaryOptions
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RobusTokConfig:
    """Everything `vision_tok.robus_tok.RobusTok` is built of, checked.

    Attributes:
        image_size: S, side of the square pictures in pixels. patch_size: pixels per cell.
        position_grid: side of the stored position tables; S / patch_size unless the model was
            trained at another size.
        code_grid: g, side of the grid of codes.
        branches: P. code_dim: C of one branch. codebook_size: K of one branch.
        kind: of quantizer. options: of that kind.
        scales: of every branch, None for one scale.
        semantic_branches: which branches the semantic loss sees, ``last`` or ``all``.
        encoder, decoder: the two transformers. eps: of every layer norm.
        drop_path: chance of the last blocks' branches to be left out in training; it rises to that
            linearly over the blocks.
        layer_scale: what the learned factors of every block's branches start at.
        position_start: what both position tables start as, ``normal`` or ``sincos``.
    """

    image_size: int
    patch_size: int
    position_grid: int
    code_grid: int
    branches: int
    code_dim: int
    codebook_size: int
    kind: str
    options: Options
    scales: Scales | None
    semantic_branches: str
    encoder: SideOptions
    decoder: SideOptions
    eps: float
    drop_path: float
    layer_scale: float
    position_start: PositionStart

    @property
    def grid(self) -> int:
        """Cells per side of the picture."""
        return self.image_size // self.patch_size

    @property
    def dropout(self) -> QuantizerDropout | None:
        """Which items of a batch lose scales, or None."""
        options = self.options
        if not options.dropout:
            return None
        start = 1 if isinstance(options, UnitOptions) else options.start_drop
        return QuantizerDropout(rate=options.dropout, start_drop=start)

    def tower(self, side: SideOptions) -> TowerSizes:
        """Return the sizes of one side's transformer."""
        return TowerSizes(
            patch_size=self.patch_size, grid=self.position_grid, width=side.width,
            layers=side.layers, heads=side.heads, mlp_width=side.mlp_width or 4 * side.width,
            activation="gelu", eps=self.eps, class_token=True, layer_scale=self.layer_scale,
        )  # fmt: skip


def parse_robus_tok_config(values: Mapping[str, Any]) -> RobusTokConfig:
    """Read the keyword values of `RobusTok`.

    Raises:
        ConfigError: an unknown option, an illegal value, or values that exclude each other.

    Example:
        >>> parse_robus_tok_config(locals())  # doctest: +SKIP
    """
    kind = values["quantizer_kind"]
    if kind not in KINDS:
        legal = ", ".join(KINDS) + nearest(str(kind), KINDS)
        raise ConfigError(f"quantizer_kind '{kind}' is unknown; legal are {legal}")
    names = (
        "image_size", "patch_size", "branches", "code_dim", "codebook_size", "code_grid",
        "position_grid",
    )  # fmt: skip
    for name in names:
        given = values[name]
        if given is None and name in names[-2:]:
            continue
        if type(given) is not int or given < 1:
            raise ConfigError(f"{name} is {given!r}; give a whole number of at least 1")
    size, patch = values["image_size"], values["patch_size"]
    if size % patch:
        raise ConfigError(
            f"image_size is {size}, which patches of {patch} pixels do not fill; give "
            f"{max(1, size // patch) * patch} or {(size // patch + 1) * patch}"
        )
    scales = _scales(kind, values["scales"], values["code_grid"])
    code_grid = values["code_grid"] or (size // patch if scales is None else scales.grid[0])
    options = parse_part(_OPTIONS[kind], "quantizer_options", values["quantizer_options"] or {})
    config = RobusTokConfig(
        image_size=size, patch_size=patch, position_grid=values["position_grid"] or size // patch,
        code_grid=code_grid, branches=values["branches"], code_dim=values["code_dim"],
        codebook_size=values["codebook_size"], kind=kind, options=options, scales=scales,
        semantic_branches=values["semantic_branches"],
        encoder=parse_part(SideOptions, "encoder_size", values["encoder_size"] or {}),
        decoder=parse_part(SideOptions, "decoder_size", values["decoder_size"] or {}),
        eps=values["layer_norm_eps"], drop_path=values["drop_path"],
        layer_scale=values["layer_scale"], position_start=values["position_start"],
    )  # fmt: skip
    _check(config)
    return config


def plain_side(side: SideOptions) -> dict[str, Any]:
    """Return one side as plain JSON, its hidden width spelled out and no weights named."""
    plain = dataclasses.asdict(side) | {"mlp_width": side.mlp_width or 4 * side.width}
    del plain["weights"]
    return plain


def _scales(
    kind: str, given: Sequence[int | Sequence[int]] | None, code_grid: int | None
) -> Scales | None:
    if kind == "vector":
        if given is not None:
            raise ConfigError(
                "scales belongs to quantizer_kind 'multi_scale' and 'binary'; leave it out, or "
                "choose one of them"
            )
        return None
    if given is None:
        if kind == "multi_scale":
            raise ConfigError(
                "quantizer_kind is 'multi_scale' but scales is empty; list the sides of the grids "
                "from coarse to fine, such as [1, 1, 2, 3, 3, 4, 5, 6, 8, 11]"
            )
        return None
    scales = Scales.parse(given, None if code_grid is None else (code_grid, code_grid))
    if scales.grid[0] != scales.grid[1]:
        rows, columns = scales.grid
        raise ConfigError(
            f"the scale list ends in {rows}x{columns} but the grid of codes is square; let it end "
            f"in {max(rows, columns)}"
        )
    return scales


def _check(config: RobusTokConfig) -> None:
    if config.semantic_branches not in SEMANTIC_BRANCHES:
        raise ConfigError(
            f"semantic_branches is '{config.semantic_branches}'; legal are "
            f"{' and '.join(SEMANTIC_BRANCHES)}"
        )
    starts = get_args(PositionStart)
    if config.position_start not in starts:
        raise ConfigError(
            f"position_start is '{config.position_start}'; legal are {' and '.join(starts)}"
        )
    for name, side in (("encoder_size", config.encoder), ("decoder_size", config.decoder)):
        if side.layers < 1:
            raise ConfigError(f"{name} has {side.layers} layers; give at least 1")
    if not 0 <= config.drop_path < 1 or not config.layer_scale > 0:
        raise ConfigError(
            f"drop_path is {config.drop_path} and layer_scale {config.layer_scale}; give a chance "
            "below 1, and a start above 0"
        )
    if config.kind == "binary" and config.codebook_size != 1 << min(config.code_dim, 62):
        raise ConfigError(
            f"quantizer_kind 'binary' with code_dim {config.code_dim} has "
            f"{1 << min(config.code_dim, 62)} codes but codebook_size is {config.codebook_size}; "
            "set codebook_size to that, or code_dim to log2 of yours"
        )
    dropout = config.dropout  # checks its own numbers
    if dropout is not None:
        dropout.check(1 if config.scales is None else len(config.scales))
