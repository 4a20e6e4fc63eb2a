"""Config of TokenFlow: plain JSON in, one frozen, checked object out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tok_core.errors import ConfigError
from tok_core.json_options import parse_part
from tok_core.scales import Scales
from vision_tok.conv_autoencoder import ConvSizes
from vision_tok.semantic_decoder import SemanticDecoderOptions
from vision_tok.semantic_encoder import SemanticEncoderOptions, parse_encoder, plain_encoder
from vision_tok.vqgan_config import SideSizes


@dataclass(frozen=True, kw_only=True)
class SharedIndexOptions:
    """How the two codebooks train; `tok_core.dual_codebook.DualCodebook` explains the rest.

    Attributes:
        commitment_weight: of the commitment loss.
        entropy_weight, entropy_temperature: of the entropy loss; 0 leaves it out, as releases do.
        scale_drop: chance that a training step leaves one scale but the first out.
        usage_window: codes remembered for ``codebook/recent_usage``, 0 for none (official:
            131,072).
    """

    commitment_weight: float = 0.25
    entropy_weight: float = 0.0
    entropy_temperature: float = 0.01
    scale_drop: float = 0.1
    kmeans_start: bool = False
    dead_code_every: int = 0
    usage_window: int = 0


@dataclass(frozen=True, kw_only=True)
class TokenFlowConfig:
    """Everything `TokenFlow` is made of, checked as far as no network is needed.

    Attributes:
        image_size: S, side of the square pictures in pixels.
        scales: the scale list; its last entry is the grid G of both branches.
        codebook_size: K.
        semantic_dim, pixel_dim: channels of the two halves of a latent.
        pixel_weight: of the pixel half's squared distance in the choice of the index.
        semantic_encoder, semantic_decoder, encoder, decoder, quantizer: of the parts.
    """

    image_size: int
    scales: Scales
    codebook_size: int
    semantic_dim: int
    pixel_dim: int
    pixel_weight: float
    semantic_encoder: SemanticEncoderOptions
    semantic_decoder: SemanticDecoderOptions
    encoder: ConvSizes
    decoder: ConvSizes
    quantizer: SharedIndexOptions = field(default_factory=SharedIndexOptions)

    @property
    def grid(self) -> int:
        """G."""
        return self.scales.grid[0]

    @property
    def pixel_side(self) -> int:
        """Side of the pictures that the pixel branch sees, G * F."""
        return self.grid * self.encoder.factor


def parse_config(values: Mapping[str, Any]) -> TokenFlowConfig:
    """Build the config from ``TokenFlow``'s plain arguments (``locals()`` of its constructor).

    Raises:
        ConfigError: unknown options, illegal values, parts that do not fit each other.
    """
    encoder = _side("encoder_sizes", values["encoder_sizes"], values)
    other = values["decoder_sizes"]
    decoder = encoder if other is None else _side("decoder_sizes", other, values)
    config = TokenFlowConfig(
        image_size=values["image_size"],
        scales=Scales.parse(values["scales"]),
        codebook_size=values["codebook_size"],
        semantic_dim=values["semantic_dim"],
        pixel_dim=values["pixel_dim"],
        pixel_weight=values["pixel_weight"],
        semantic_encoder=parse_encoder(values["semantic_encoder"]),
        semantic_decoder=parse_part(
            SemanticDecoderOptions, "semantic_decoder", values["semantic_decoder"]
        ),
        encoder=encoder,
        decoder=decoder,
        quantizer=parse_part(
            SharedIndexOptions, "quantizer_options", values["quantizer_options"] or {}
        ),
    )
    _check(config)
    return config


def plain_config(config: TokenFlowConfig, encoder: SemanticEncoderOptions) -> dict[str, Any]:
    """Return everything as plain JSON values, sizes spelled out and no weights named."""
    semantic_decoder = dataclasses.replace(
        config.semantic_decoder, grid=config.semantic_decoder.grid or config.grid
    )
    return {
        "scales": [list(size) for size in config.scales.sizes],
        "semantic_encoder": plain_encoder(encoder),
        "semantic_decoder": dataclasses.asdict(semantic_decoder),
        "encoder_sizes": _plain(config.encoder),
        "decoder_sizes": _plain(config.decoder),
        "quantizer_options": dataclasses.asdict(config.quantizer),
    }


def check_grid(config: TokenFlowConfig, grid: int) -> None:
    """Refuse a scale list that does not end in the grid of the semantic encoder.

    Raises:
        ConfigError: it does not.
    """
    if config.scales.grid != (grid, grid):
        last = "x".join(map(str, config.scales.grid))
        raise ConfigError(
            f"the scale list ends in {last} but the semantic encoder makes {grid}x{grid} tokens of "
            f"{config.image_size} pixels; let the last scale be {grid}, or change image_size."
        )


def _check(config: TokenFlowConfig) -> None:
    numbers = ("image_size", "codebook_size", "semantic_dim", "pixel_dim")
    for name in numbers:
        if not isinstance(getattr(config, name), int) or getattr(config, name) < 1:
            raise ConfigError(f"{name} is {getattr(config, name)}; give a whole number above 0.")
    if config.encoder.factor != config.decoder.factor:
        raise ConfigError(
            f"the encoder shrinks {config.encoder.factor} times and the decoder enlarges "
            f"{config.decoder.factor} times; give both the same number of multipliers."
        )


def _side(name: str, given: object, values: Mapping[str, Any]) -> ConvSizes:
    side = parse_part(SideSizes, name, {} if given is None else given)
    return ConvSizes(**vars(side), z_channels=values["z_channels"], groups=values["norm_groups"])


def _plain(sizes: ConvSizes) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(SideSizes)]
    plain = {name: getattr(sizes, name) for name in names}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in plain.items()}
