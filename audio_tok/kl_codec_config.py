"""Config of the continuous codec and of its dimension-wise tokenizer: plain JSON in, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from audio_tok.wav_tokenizer_config import WavDecoderConfig, check_decoder, check_encoder
from tok_core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class KLCodecConfig(WavDecoderConfig):
    """Everything of the network; ``hop`` is the product of ``strides``.

    Attributes:
        strides, encoder_width, lstm_layers: of the encoder.
        the others: see `audio_tok.wav_tokenizer_config.WavDecoderConfig`, with one table per
            dimension: ``num_codebooks`` is the latent's width. A codec without codes counts one
            code in each.
    """

    strides: tuple[int, ...]
    encoder_width: int
    lstm_layers: int


NETWORK = (
    "sample_rate", "strides", "encoder_width", "latent_dim", "lstm_layers", "width", "hidden",
    "layers", "attention", "condition_ids", "dropout", "n_fft", "magnitude_clip", "causal",
    "attention_window",
)  # fmt: skip


def parse_kl_codec(values: Mapping[str, Any], levels: int = 1) -> KLCodecConfig:
    """Build the checked config from keyword values, of which `NETWORK` are read.

    Args:
        values: of an ``__init__``. levels: V of every dimension.

    Raises:
        ConfigError: an illegal value, or options that exclude each other.
    """
    plain = {name: values[name] for name in NETWORK}
    check_encoder(plain)
    plain["strides"] = tuple(plain["strides"])
    plain["hop"] = math.prod(plain["strides"])
    plain["n_fft"] = plain["n_fft"] if plain["n_fft"] is not None else 4 * plain["hop"]
    config = KLCodecConfig(**plain, codebook_size=levels, num_codebooks=plain["latent_dim"])
    check_decoder(config)
    return config


def check_kl_weight(value: object) -> None:
    """Raise ConfigError unless this is a number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise ConfigError(f"kl_weight is {value!r}; give a number of at least 0.")
