"""Config of the VQGAN family: plain JSON in, one frozen, checked object out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tok_core.errors import ConfigError, nearest
from tok_core.json_options import parse_part
from tok_core.scales import Scales
from vision_tok.conv_sizes import ConvSizes
from vision_tok.titok_config import QuantizerOptions

KINDS = ("vector", "multi_scale")
KERNELS = (1, 3)


@dataclass(frozen=True, kw_only=True)
class SideSizes:
    """What the encoder and the decoder may differ in; see `ConvSizes`."""

    channels: int = 128
    multipliers: tuple[float, ...] = (1, 1, 2, 2, 4)
    res_blocks: int = 2
    attention: tuple[int, ...] | None = None
    mid_attention: bool = True
    dropout: float = 0.0


@dataclass(frozen=True, kw_only=True)
class VectorOptions(QuantizerOptions):
    """How one codebook trains; `tok_core.vector_quantizer.VectorQuantizer` explains the rest.

    Attributes:
        codebook_weight: of the loss that moves the codes. LlamaGen weighs codes 1 and commitment
            0.25; taming and diffusers ("legacy") weigh codes 0.25 and commitment 1.
        entropy_weight: of `tok_core.entropy_loss`; 0 leaves it out, as all releases do.
        entropy_temperature: of its softmax.
        usage_window: codes remembered for ``codebook/recent_usage``, 0 for none (LlamaGen: 65,536).
    """

    codebook_weight: float = 1.0
    entropy_weight: float = 0.0
    entropy_temperature: float = 0.01
    usage_window: int = 0

    def __post_init__(self) -> None:
        weights = (self.codebook_weight, self.entropy_weight, self.usage_window)
        if min(weights) < 0 or self.entropy_temperature <= 0:
            raise ConfigError(
                f"codebook_weight, entropy_weight and usage_window are {weights} and "
                f"entropy_temperature is {self.entropy_temperature}; the first three have to be at "
                "least 0, the temperature above 0"
            )


@dataclass(frozen=True, kw_only=True)
class MultiScaleOptions:
    """How the codebook of all scales trains; see `tok_core.multi_scale_quantizer`.

    Attributes:
        phi_convs: convolutions shared among the scales (VAR: 4), 0 for none.
        beta: weight of the commitment loss.
        kmeans_start, dead_code_every: see `tok_core.code_revival.CodeRevival`.
        average_usage: keep VAR's running averages of hits per scale.
    """

    phi_convs: int = 4
    beta: float = 0.25
    kmeans_start: bool = False
    dead_code_every: int = 0
    average_usage: bool = False


@dataclass(frozen=True, kw_only=True)
class VQGANConfig:
    """Everything `vision_tok.vqgan.VQGAN` is built of, checked.

    Attributes:
        encoder, decoder: sizes of the two sides; equal strides.
        kind: ``vector`` or ``multi_scale``.
        options: of that kind.
        scales: of ``multi_scale``, None otherwise.
        image_size: (H, W) in pixels the model was made for, or None.
    """

    encoder: ConvSizes
    decoder: ConvSizes
    kind: str
    options: VectorOptions | MultiScaleOptions
    scales: Scales | None
    image_size: tuple[int, int] | None


def parse_vqgan_config(values: Mapping[str, Any]) -> VQGANConfig:
    """Read the keyword values of `VQGAN`.

    Raises:
        ConfigError: an unknown option, an illegal value, or values that exclude each other.

    Example:
        >>> parse_vqgan_config(locals())  # doctest: +SKIP
    """
    kind = values["quantizer_kind"]
    if kind not in KINDS:
        legal = ", ".join(KINDS) + nearest(str(kind), KINDS)
        raise ConfigError(f"quantizer_kind '{kind}' is unknown; legal are {legal}")
    if values["quant_kernel"] not in KERNELS:
        raise ConfigError(f"quant_kernel is {values['quant_kernel']}; legal are 1 and 3")
    modulated = values["code_dim"] if values["modulated_decoder"] else 0
    encoder = _side("encoder_sizes", values["encoder_sizes"], values, 0)
    other = values["decoder_sizes"]
    decoder = _side(
        "decoder_sizes", values["encoder_sizes"] if other is None else other, values, modulated
    )
    if encoder.factor != decoder.factor:
        raise ConfigError(
            f"the encoder has {len(encoder.widths)} levels and the decoder "
            f"{len(decoder.widths)}; give both the same number of multipliers"
        )
    given = values["quantizer_options"] or {}
    options: VectorOptions | MultiScaleOptions
    if kind == "vector":
        options = parse_part(VectorOptions, "quantizer_options", given)
    else:
        options = parse_part(MultiScaleOptions, "quantizer_options", given)
    scales = _scales(kind, values["scales"])
    size = _size(values["image_size"], scales, encoder.factor)
    return VQGANConfig(
        encoder=encoder, decoder=decoder, kind=kind, options=options, scales=scales,
        image_size=size,
    )  # fmt: skip


def _side(name: str, given: object, values: Mapping[str, Any], modulated_by: int) -> ConvSizes:
    side = parse_part(SideSizes, name, {} if given is None else given)
    return ConvSizes(
        **vars(side), z_channels=values["z_channels"], groups=values["norm_groups"],
        modulated_by=modulated_by,
    )  # fmt: skip


def _scales(kind: str, given: Sequence[int | Sequence[int]] | None) -> Scales | None:
    if kind == "multi_scale":
        if given is None:
            raise ConfigError(
                "quantizer_kind is 'multi_scale' but scales is empty; list the grids from coarse "
                "to fine, such as [1, 2, 4, 8, 16]"
            )
        return Scales.parse(given)
    if given is not None:
        raise ConfigError("scales belongs to quantizer_kind 'multi_scale'; leave it out")
    return None


def _size(
    given: int | Sequence[int] | None, scales: Scales | None, factor: int
) -> tuple[int, int] | None:
    natural = None if scales is None else (scales.grid[0] * factor, scales.grid[1] * factor)
    if given is None:
        return natural
    pair = (given, given) if isinstance(given, int) else tuple(given)
    if len(pair) != 2 or min(pair) < 1:
        raise ConfigError(f"image_size is {given}; give a side, or rows and columns, in pixels")
    size = (pair[0], pair[1])
    if scales is not None and natural != size:
        Scales.parse(scales.sizes, grid=(-(-size[0] // factor), -(-size[1] // factor)))
    return size
