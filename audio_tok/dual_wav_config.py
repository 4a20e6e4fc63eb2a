"""Config of the codec with a dual codebook: plain JSON in, one frozen, checked object."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from audio_tok.wav_tokenizer_config import (
    SynthesisOptions,
    WavDecoderConfig,
    check_counts,
    check_decoder,
    check_encoder,
    own_values,
)
from tok_core.json_options import parse_part


@dataclass(frozen=True, kw_only=True)
class SemanticOptions:
    """The semantic stream.

    Args:
        dim: channels of its codes.
        encoder_width, lstm_layers: of its encoder, see `audio_tok.seanet_encoder.SeanetEncoder`.
        width, hidden, layers: of its decoder, see `audio_tok.semantic_decoder.SemanticDecoder`.
        features: of the teacher; 39 are those of the mel-cepstral one.
    """

    dim: int = 32
    encoder_width: int = 32
    lstm_layers: int = 0
    width: int = 256
    hidden: int = 768
    layers: int = 3
    features: int = 39


@dataclass(frozen=True, kw_only=True)
class DualQuantizerOptions:
    """How the two tables train; see `tok_core.dual_codebook.DualCodebook`."""

    beta: float = 0.25
    entropy: float = 0.0
    temperature: float = 0.01
    kmeans_start: bool = True
    dead_code_every: int = 0
    recent_codes: int = 0


@dataclass(frozen=True, kw_only=True)
class DualWavConfig(WavDecoderConfig):
    """Everything of the codec; ``latent_dim`` is the width of the acoustic codes."""

    strides: tuple[int, ...]
    encoder_width: int
    lstm_layers: int
    semantic: SemanticOptions
    quantizer: DualQuantizerOptions
    stream_weights: Mapping[str, float] | None

    @property
    def decoder(self) -> SynthesisOptions:
        """The part of them that the decoder is made of."""
        names = SynthesisOptions.__dataclass_fields__
        return SynthesisOptions(**{name: getattr(self, name) for name in names})

    @property
    def dims(self) -> dict[str, int]:
        """Channels of each stream, in the order of the latents."""
        return {"semantic": self.semantic.dim, "acoustic": self.latent_dim}


def parse_dual_config(values: Mapping[str, Any]) -> DualWavConfig:
    """Build the checked config of `audio_tok.dual_wav_tokenizer.DualWavTokenizer`.

    Raises:
        ConfigError: an unknown option, an illegal value, or options that exclude each other.
    """
    plain = own_values(values)
    check_encoder(plain)
    check_counts(plain, ("acoustic_dim",))
    plain["strides"] = tuple(plain["strides"])
    plain["hop"] = math.prod(plain["strides"])
    plain["latent_dim"], plain["num_codebooks"] = plain.pop("acoustic_dim"), 1
    plain |= vars(parse_part(SynthesisOptions, "decoder", plain.pop("decoder") or {}))
    plain["n_fft"] = plain["n_fft"] if plain["n_fft"] is not None else 4 * plain["hop"]
    plain["semantic"] = parse_part(SemanticOptions, "semantic", plain["semantic"] or {})
    plain["quantizer"] = parse_part(DualQuantizerOptions, "quantizer", plain["quantizer"] or {})
    config = DualWavConfig(**plain)
    check_decoder(config)
    parts = {f"semantic.{name}": value for name, value in vars(config.semantic).items()}
    check_counts(parts, [name for name in parts if name != "semantic.lstm_layers"])
    check_encoder({
        "strides": plain["strides"], "encoder_width": config.semantic.encoder_width,
        "lstm_layers": config.semantic.lstm_layers,
    }, "semantic.")  # fmt: skip
    return config
