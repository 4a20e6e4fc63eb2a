"""Config of the TiTok / One-D-Piece family: plain JSON in, one frozen, checked object out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tok_core.errors import ConfigError, nearest
from tok_core.json_options import parse_part
from tok_core.tail_drop import TailDropOptions

HEADS = ("direct", "legacy", "conv")
STEMS = ("patch", "conv")
LATENT_SEEDS = ("learned", "grid")


@dataclass(frozen=True, kw_only=True)
class VitSize:
    """Width, depth and heads of one transformer; heads None means width / 64."""

    width: int
    layers: int
    heads: int | None = None

    @property
    def num_heads(self) -> int:
        """Number of heads, with the family's head width of 64 where none was given."""
        return self.heads if self.heads is not None else self.width // 64


SIZES = {
    "small": VitSize(width=512, layers=8),
    "base": VitSize(width=768, layers=12),
    "large": VitSize(width=1024, layers=24),
}


@dataclass(frozen=True, kw_only=True)
class QuantizerOptions:
    """How the codebook trains; `tok_core.vector_quantizer.VectorQuantizer` explains each."""

    commitment_weight: float = 0.25
    update: str = "gradient"
    ema_decay: float = 0.99
    kmeans_start: bool = False
    dead_code_every: int = 0
    straight_through: bool = True
    quantize_after_steps: int = 0


@dataclass(frozen=True, kw_only=True)
class PixelDecoderOptions:
    """Sizes of the MaskGIT-VQGAN decoder that paints proxy codes."""

    hidden_channels: int = 128
    channel_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    z_channels: int = 256


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """Shape of the text features a TA-TiTok decoder is given."""

    context_length: int = 77
    embed_dim: int = 768


@dataclass(frozen=True, kw_only=True)
class TiTokConfig:
    """Everything the networks of the family need, checked.

    Args:
        image_size: side of the square input in pixels, a multiple of ``patch_size``.
        patch_size: pixels per grid cell.
        encoder_size, decoder_size: ``small``, ``base``, ``large`` or width, layers and heads.
        mlp_ratio, layer_norm_eps: of every transformer block.
        num_tokens: N. token_size: channels C of one latent.
        codebook_size: K, 0 for Gaussian latents (`TiTokKL`). l2_normalize: codes are compared and
            returned as unit vectors.
        quantizer_options: how the codebook trains.
        legacy_reshape: the (N, W) buffer is re-viewed as (W, N) before the projection, without
            transposing. A bug of the first release that its six published checkpoints (One-D-Piece
            S/B/L, TiTok L-32, B-64, S-128) need and no other does.
        head: ``legacy`` predicts proxy codes, ``direct`` pixels, ``conv`` is ours.
        stem: ``patch`` (official) or ``conv`` (ours). latent_seed: ``learned`` (official) or
            ``grid`` (ours). The three of ours are one network, the hybrid, and go together.
        conv_channels: channels of the hybrid's convolutions, from fine to coarse.
        proxy_codebook_size: classes of the legacy head.
        pixel_decoder: from proxy codes to pixels; None is a stage-1 checkpoint.
        text: makes the decoder text-aware (TA-TiTok).
        tail_drop: how training draws prefixes.
    """

    image_size: int
    patch_size: int
    encoder_size: VitSize
    decoder_size: VitSize
    mlp_ratio: float
    layer_norm_eps: float
    num_tokens: int
    token_size: int
    codebook_size: int
    l2_normalize: bool
    quantizer_options: QuantizerOptions
    legacy_reshape: bool
    head: str
    stem: str
    latent_seed: str
    conv_channels: tuple[int, ...]
    proxy_codebook_size: int
    pixel_decoder: PixelDecoderOptions | None
    text: TextOptions | None
    tail_drop: TailDropOptions | None

    @property
    def grid(self) -> int:
        """Cells per side."""
        return self.image_size // self.patch_size

    @property
    def hybrid(self) -> bool:
        """Whether this is our convolutional, grid-seeded network."""
        return self.stem == "conv"

    @property
    def proxy(self) -> bool:
        """Whether the decoder predicts a teacher's codes instead of pixels."""
        return self.head == "legacy"


def parse_config(values: Mapping[str, Any]) -> TiTokConfig:
    """Build the checked config from the keyword values of a model's ``__init__``.

    Raises:
        ConfigError: an unknown option, an illegal value, or options that exclude each other.
    """
    plain = {key: value for key, value in values.items() if key not in ("self", "__class__")}
    for name in ("encoder_size", "decoder_size"):
        plain[name] = _size(name, plain[name])
    nested: dict[str, type] = {
        "quantizer_options": QuantizerOptions, "pixel_decoder": PixelDecoderOptions,
        "text": TextOptions, "tail_drop": TailDropOptions,
    }  # fmt: skip
    for name, kind in nested.items():
        if plain.get(name) is not None:
            plain[name] = parse_part(kind, name, plain[name])
        else:
            plain[name] = None
    plain["quantizer_options"] = plain["quantizer_options"] or QuantizerOptions()
    plain["conv_channels"] = tuple(plain["conv_channels"] or ())
    config = TiTokConfig(**plain)
    _check(config)
    return config


def spelled_out(config: TiTokConfig) -> dict[str, Any]:
    """Return the JSON values of what can be written in several ways, all defaults filled in.

    Saved configs and hashes then do not depend on whether somebody wrote ``small`` or the numbers.
    """
    plain: dict[str, Any] = {}
    for name in ("encoder_size", "decoder_size"):
        size = getattr(config, name)
        plain[name] = {"width": size.width, "layers": size.layers, "heads": size.num_heads}
    for name in ("pixel_decoder", "text", "tail_drop", "quantizer_options"):
        part = getattr(config, name)
        values = None if part is None else dataclasses.asdict(part)
        plain[name] = values and {k: _json(v) for k, v in values.items()}
    return plain


def _json(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _size(name: str, value: object) -> VitSize:
    if isinstance(value, str):
        if value not in SIZES:
            raise ConfigError(
                f"{name} is '{value}'; legal are {', '.join(SIZES)} or an object with width, "
                f"layers and heads{nearest(value, SIZES)}"
            )
        return SIZES[value]
    size = parse_part(VitSize, name, value)
    if size.width < 1 or size.layers < 0 or size.num_heads < 1 or size.width % size.num_heads:
        raise ConfigError(
            f"{name} has width {size.width}, {size.layers} layers and {size.num_heads} heads; "
            "the width must be a positive multiple of the heads."
        )
    return size


def _check(config: TiTokConfig) -> None:
    _one_of("head", config.head, HEADS)
    _one_of("stem", config.stem, STEMS)
    _one_of("latent_seed", config.latent_seed, LATENT_SEEDS)
    for name in ("image_size", "patch_size", "num_tokens", "token_size"):
        value = getattr(config, name)
        if not isinstance(value, int) or value < 1:
            raise ConfigError(f"{name} is {value!r}; it must be a whole number of at least 1.")
    if config.image_size % config.patch_size:
        raise ConfigError(
            f"image_size {config.image_size} is not a multiple of patch_size {config.patch_size}; "
            "choose sizes that divide."
        )
    if config.pixel_decoder is not None and not config.proxy:
        raise ConfigError(
            f"pixel_decoder paints proxy codes but head is '{config.head}'; set head to 'legacy', "
            "or pixel_decoder to null."
        )
    _check_hybrid(config)
    _check_pixel_decoder(config)


def _check_hybrid(config: TiTokConfig) -> None:
    ours = (config.stem == "conv", config.latent_seed == "grid", config.head == "conv")
    if any(ours) and not all(ours):
        raise ConfigError(
            f"stem '{config.stem}', latent_seed '{config.latent_seed}' and head '{config.head}' do "
            "not go together; the hybrid network needs conv, grid and conv."
        )
    if not config.hybrid:
        return
    if not config.conv_channels or 2 ** len(config.conv_channels) != config.patch_size:
        raise ConfigError(
            f"conv_channels {list(config.conv_channels)} halve the picture "
            f"{len(config.conv_channels)} times but patch_size is {config.patch_size}; give "
            "log2(patch_size) channel counts."
        )
    if config.text is not None or config.legacy_reshape:
        raise ConfigError("the hybrid network has neither text nor legacy_reshape; leave them out.")


def _check_pixel_decoder(config: TiTokConfig) -> None:
    if config.pixel_decoder is None:
        return
    factor = 2 ** (len(config.pixel_decoder.channel_mult) - 1)
    if factor != config.patch_size or not math.log2(factor).is_integer():
        raise ConfigError(
            f"pixel_decoder enlarges {factor} times but patch_size is {config.patch_size}; "
            "channel_mult needs log2(patch_size) + 1 entries."
        )


def _one_of(name: str, value: str, legal: tuple[str, ...]) -> None:
    if value not in legal:
        raise ConfigError(
            f"{name} is '{value}'; legal are {', '.join(legal)}{nearest(str(value), legal)}"
        )
