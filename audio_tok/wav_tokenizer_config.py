"""Config of WavTokenizer and of its decoder alone: plain JSON in, one frozen, checked object."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from audio_tok.position_net import GROUPS
from tok_core.errors import ConfigError
from tok_core.json_options import parse_part
from tok_core.tail_drop import TailDropOptions


@dataclass(frozen=True, kw_only=True)
class AudioQuantizerOptions:
    """How each codebook trains; `tok_core.vector_quantizer.VectorQuantizer` explains the options.

    The defaults correct the published training. What that did has a switch: ``ema_smoothing`` 1e-5
    and ``kmeans_iterations`` 200 (a restart of dead codes it only had by name, so that
    ``dead_code_every`` 0 is its own), ``official_rank0_ema`` and ``official_double_ema``.
    """

    commitment_weight: float = 1.0
    l2_normalize: bool = False
    update: str = "ema"
    ema_decay: float = 0.99
    ema_smoothing: float = 0.0
    kmeans_start: bool = True
    kmeans_iterations: int = 10
    official_rank0_ema: bool = False
    official_double_ema: bool = False
    dead_code_every: int = 0
    straight_through: bool = True
    quantize_after_steps: int = 0


@dataclass(frozen=True, kw_only=True)
class SynthesisOptions:
    """Sizes of the backbone and the head.

    Args:
        width, hidden, layers: of the backbone's ConvNeXt blocks.
        attention: with the position net. condition_ids: rows of the adaptive norms.
        dropout: inside the position net. n_fft: of the head; None is four times the hop.
        magnitude_clip: largest magnitude of a bin.
        attention_window: frames that attention looks back, in causal codecs only.
    """

    width: int = 768
    hidden: int = 2304
    layers: int = 12
    attention: bool = True
    condition_ids: int = 4
    dropout: float = 0.1
    n_fft: int | None = None
    magnitude_clip: float = 100.0
    attention_window: int | None = None


@dataclass(frozen=True, kw_only=True)
class WavDecoderConfig(SynthesisOptions):
    """What stands between codes and samples.

    Args:
        sample_rate: in Hz. hop: samples per frame.
        latent_dim: width of latents and codes. codebook_size: codes per level. num_codebooks: Q.
        causal: nothing depends on the future.
        the others: see `SynthesisOptions`; ``n_fft`` is always known.
    """

    sample_rate: int
    hop: int
    latent_dim: int
    codebook_size: int
    num_codebooks: int
    n_fft: int
    causal: bool

    @property
    def token_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop


@dataclass(frozen=True, kw_only=True)
class WavTokenizerConfig(WavDecoderConfig):
    """Everything of the codec; ``hop`` is the product of ``strides``."""

    strides: tuple[int, ...]
    encoder_width: int
    lstm_layers: int
    quantizer: AudioQuantizerOptions
    tail_drop: TailDropOptions | None


def parse_decoder_config(values: Mapping[str, Any]) -> WavDecoderConfig:
    """Build the checked config of `audio_tok.wav_decoder.WavDecoder`.

    Raises:
        ConfigError: an illegal value, or options that exclude each other.
    """
    plain = own_values(values)
    check_counts(plain, ("hop",))
    plain["n_fft"] = plain["n_fft"] if plain["n_fft"] is not None else 4 * plain["hop"]
    config = WavDecoderConfig(**plain)
    check_decoder(config)
    return config


def parse_config(values: Mapping[str, Any]) -> WavTokenizerConfig:
    """Build the checked config of `audio_tok.wav_tokenizer.WavTokenizer`.

    Raises:
        ConfigError: an unknown option, an illegal value, or options that exclude each other.
    """
    plain = own_values(values)
    check_encoder(plain)
    plain["strides"] = tuple(plain["strides"])
    plain["hop"] = math.prod(plain["strides"])
    plain["n_fft"] = plain["n_fft"] if plain["n_fft"] is not None else 4 * plain["hop"]
    plain["quantizer"] = parse_part(AudioQuantizerOptions, "quantizer", plain["quantizer"] or {})
    if plain["tail_drop"] is not None:
        plain["tail_drop"] = parse_part(TailDropOptions, "tail_drop", plain["tail_drop"])
    config = WavTokenizerConfig(**plain)
    check_decoder(config)
    if config.tail_drop is not None and config.num_codebooks < 2:
        raise ConfigError(
            "tail_drop runs along codebook levels but num_codebooks is 1; raise num_codebooks or "
            "set tail_drop to null."
        )
    return config


def own_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of the locals of an ``__init__`` is config."""
    left_out = ("self", "__class__", "source_code_hash")
    return {key: value for key, value in values.items() if key not in left_out}


def _is_count(value: object, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def check_counts(plain: Mapping[str, Any], names: Sequence[str]) -> None:
    """Raise ConfigError unless all of these are whole numbers of at least 1."""
    for name in names:
        if not _is_count(plain[name]):
            raise ConfigError(f"{name} is {plain[name]!r}; give a whole number of at least 1.")


def check_encoder(plain: Mapping[str, Any], prefix: str = "") -> None:
    """Raise ConfigError for sizes that `audio_tok.seanet_encoder.SeanetEncoder` cannot have.

    Args:
        plain: with ``strides``, ``encoder_width`` and ``lstm_layers``. prefix: of their names.
    """
    strides, width, layers = plain["strides"], plain["encoder_width"], plain["lstm_layers"]
    if not strides or any(not _is_count(stride) for stride in strides):
        raise ConfigError(
            f"strides are {strides}; give at least one whole number, each at least 1, in the "
            "order of execution."
        )
    check_counts({f"{prefix}encoder_width": width}, [f"{prefix}encoder_width"])
    if width % 2:
        raise ConfigError(
            f"{prefix}encoder_width is {width}; residual blocks halve it: make it even."
        )
    if not _is_count(layers, 0):
        raise ConfigError(f"{prefix}lstm_layers is {layers}; legal is 0 (none) or more.")


def check_decoder(config: WavDecoderConfig) -> None:
    """Raise ConfigError for sizes that the backbone and the head cannot have."""
    counts = (
        "sample_rate", "latent_dim", "codebook_size", "num_codebooks", "width", "hidden", "layers",
        "condition_ids", "n_fft",
    )  # fmt: skip
    check_counts(vars(config), counts)
    if config.attention and config.width % GROUPS:
        raise ConfigError(
            f"width is {config.width}; the position net normalises {GROUPS} groups of channels: "
            f"choose a multiple of {GROUPS}, or set attention to false."
        )
    if config.n_fft % 2 or config.n_fft < config.hop or (config.n_fft - config.hop) % 2:
        raise ConfigError(
            f"n_fft is {config.n_fft} for a hop of {config.hop}; both need to be even, n_fft at "
            "least the hop (the published models take four times the hop)."
        )
    if not 0 <= config.dropout < 1:
        raise ConfigError(f"dropout is {config.dropout}; it must lie in 0 to below 1.")
    if not config.magnitude_clip > 0:
        raise ConfigError(f"magnitude_clip is {config.magnitude_clip}; it must be above 0.")
    _check_causal(config)


def _check_causal(config: WavDecoderConfig) -> None:
    window = config.attention_window
    if window is not None and not _is_count(window):
        raise ConfigError(f"attention_window is {window!r}; give a number of frames or null.")
    if config.causal and config.attention and window is None:
        raise ConfigError(
            "causal is true without attention_window; give the number of frames that attention "
            "looks back, such as 250."
        )
    if window is not None and not (config.causal and config.attention):
        raise ConfigError(
            f"attention_window is {window} but the model is not causal with attention; set causal "
            "and attention to true, or attention_window to null."
        )
