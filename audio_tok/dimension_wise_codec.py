"""A continuous codec's latents as small integers, one per dimension and frame.

    x (B, 1, T) --encoder--> mean (B, D, F) --normalise, levels--> codes (B, D, F)
    codes --values--> z^ --backbone, head--> x^

TokenBridge's idea (Wang et al. 2025, arXiv 2503.16430) over sound: nothing is trained beyond the
autoencoder.  Letters: B batch, T samples, F frames, D latent width and dimensions, V levels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from audio_tok.kl_codec import KLBottleneck, KLCodec, network_values
from audio_tok.kl_codec_config import parse_kl_codec
from audio_tok.seanet_encoder import SeanetEncoder
from audio_tok.wav_encoding import WavEncoding
from tok_core.contract import Tokens, TrainingOutput
from tok_core.dimension_calibration import calibrate
from tok_core.dimension_wise_config import OPTIONS, DimensionWiseConfig
from tok_core.dimension_wise_tokenizer import DimensionWiseTokenizer
from tok_core.errors import ConfigError, TokenError
from tok_core.gaussian_levels import gaussian_levels
from tok_core.strict_loading import read_config
from tok_core.token_spec import Axis, TokenSpec
from tok_core.training_perturbation import decoder_latents

if TYPE_CHECKING:
    from typing import Self


class DimensionWiseCodec(DimensionWiseTokenizer, KLBottleneck, WavEncoding):
    """Tokenizer of sound over a `KLCodec`, saved and loaded as one model.

    Codes are (B, D, F), all dimensions of a frame always; the sequence view has F positions of D
    factors. Encoding takes the mean of the posterior. Latents, ``embed`` and ``codebooks`` are on
    the scale of normalised latents.

    Args:
        sample_rate ... attention_window: the network, as `audio_tok.kl_codec.KLCodec`.
        bits, std_range, low, high, scale, shift, channel_order, empty_bins: see
            `tok_core.dimension_wise_config.DimensionWiseConfig`; ``scale`` has to be given, or
            measured: no codec states one.

    Raises:
        ConfigError: illegal values, no scale, numbers per channel or an order of another codec.

    Example:
        >>> codec = DimensionWiseCodec.calibrated("runs/kl-codec-tiny/model", batches, bits=6)
        >>> codec.encode(torch.zeros(1, 1, 24000)).codes.shape
        torch.Size([1, 8, 100])
    """

    codes_last = False
    calibrate_with = "tessera calibrate, or DimensionWiseCodec.calibrated,"
    _keep_in_fp32_modules = ["quantizer", "head"]
    code_config = (*DimensionWiseTokenizer.code_config, "sample_rate", "strides", "causal")

    @register_to_config
    def __init__(
        self,
        sample_rate: int = 24000,
        strides: list[int] | tuple[int, ...] = (2, 4, 5, 8),
        encoder_width: int = 32,
        latent_dim: int = 64,
        lstm_layers: int = 2,
        width: int = 768,
        hidden: int = 2304,
        layers: int = 12,
        attention: bool = True,
        condition_ids: int = 1,
        dropout: float = 0.1,
        n_fft: int | None = None,
        magnitude_clip: float = 100.0,
        causal: bool = False,
        attention_window: int | None = None,
        bits: int = 6,
        std_range: float = 3.0,
        low: float = -5.0,
        high: float = 5.0,
        scale: float | Sequence[float] | None = None,
        shift: float | Sequence[float] = 0.0,
        channel_order: Sequence[int] | None = None,
        empty_bins: str = "refuse",
    ) -> None:
        values = locals()
        if scale is None:
            raise ConfigError(
                "no scale of the latents was given; measure scale, range and channel order with "
                "tessera calibrate, or DimensionWiseCodec.calibrated, or give scale (1 / standard "
                "deviation of the codec's latents)."
            )
        quantization = DimensionWiseConfig.from_json({name: values[name] for name in OPTIONS})
        levels = len(gaussian_levels(bits, std_range, empty_bins == "drop"))
        config = parse_kl_codec(values, levels)
        super().__init__()
        self.build_network(config)
        self.build_quantizer(quantization, latent_dim, latent_dim)
        self.register_to_config(strides=list(config.strides), n_fft=config.n_fft)

    @classmethod
    def from_vae(cls, codec: KLCodec | str | Path, **options: Any) -> Self:
        """Make a tokenizer of a continuous codec; tensors of an object are shared, not copied.

        Args:
            codec: a `KLCodec`, or its folder or hub id.
            options: of the quantization, such as ``**calibrate(codec, data).to_json()``.

        Raises:
            ConfigError: as the class, or something else than a `KLCodec`. WeightsError: nothing
                there, or weights that do not fit.
        """
        codec = as_codec(codec)
        with torch.device("meta"):
            model = cls(**network_values(codec), **options)
        model.load_state_dict(codec.state_dict(keep_vars=True), assign=True)
        return model.train(codec.training)

    @classmethod
    def calibrated(
        cls, codec: KLCodec | str | Path, data: Iterable[Tensor], **settings: Any
    ) -> Self:
        """Make a tokenizer whose scale, range and channel order are measured on sound.

        Args:
            codec: as `from_vae`. data: batches (B, 1, T) in [-1, 1], minutes of your kind.
            settings: as `tok_core.dimension_calibration.calibrate` takes them, such as ``bits``.
        """
        source = as_codec(codec)
        return cls.from_vae(source, **calibrate(source, data, **settings).to_json())

    # -- what it is ----------------------------------------------------------------------------

    @property
    def spec(self) -> TokenSpec:
        """D dimensions by F frames."""
        rate, count = self.settings.sample_rate, self.dimensions
        return TokenSpec(
            modality="audio",
            axes=(Axis(name="dimension", size=count, minimum=count), Axis(name="time")),
            vocabulary=(self.quantizer.num_levels,) * count,
            input_rate=rate,
            output_rate=rate,
            token_rate=self.settings.token_rate,
        )

    # -- sound to tokens and back --------------------------------------------------------------

    def latents(
        self, x: Tensor, *, sample: bool = False, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return normalised latents (B, D, F) of sound (B, 1, T); as `KLCodec.latents`."""
        posterior = self.posterior(x)
        z = posterior.sample(generator=generator) if sample else posterior.mean
        return self.quantizer.normalise(z)

    def decode_latents(self, z: Tensor, *, condition: Tensor | None = None) -> Tensor:
        """Map normalised latents (B, D, F) to sound (B, 1, F * hop) in [-1, 1]."""
        return super().decode_latents(self.quantizer.restore(z), condition=condition)

    @property
    def encoders(self) -> tuple[SeanetEncoder, ...]:
        """The only one."""
        return (self.encoder,)

    def check_levels(self, num_tokens: int | None) -> None:
        """Raise TokenError unless all dimensions are asked for."""
        if num_tokens not in (None, self.dimensions):
            raise TokenError(
                f"num_tokens is {num_tokens} but every frame takes all {self.dimensions} "
                "dimensions of this codec; leave it out."
            )

    def codes_of_frames(self, frames: Sequence[Tensor], num_tokens: int | None = None) -> Tensor:
        """Return codes (B, D, F) of the encoder's frames (B, F, 2 D)."""
        return self.codes_of(self.quantizer.normalise(self.posterior_of_frames(frames[0]).mean))

    def sound_latents(self, codes: Tensor) -> Tensor:
        """Return what the backbone reads, (B, F, D), of codes (B, D, F)."""
        return self.quantizer.restore(self.values_of(codes)).transpose(1, 2)

    def embed(
        self, tokens: Tokens | Tensor, *, stream: str | None = None, upto: int | None = None
    ) -> Tensor:
        """Return the quantized, normalised latents (B, D, F); zero behind an item's frames.

        Raises:
            TokenError: codes that do not fit ``spec``, or an argument that does not apply.
        """
        if stream is not None:
            raise TokenError(f"stream is '{stream}' but this codec has none; leave it out.")
        if upto not in (None, self.dimensions):
            raise TokenError(f"upto is {upto} but dimensions are not summed; leave it out.")
        return self._embedded(tokens, lambda codes: self.values_of(codes).transpose(1, 2))

    def decoder_state(self) -> dict[str, Tensor]:
        """Refuse: a `WavDecoder` sums the vectors of levels, which this codec has not."""
        raise TokenError(
            f"{type(self).__name__} has no codebooks that a WavDecoder could sum; save the whole "
            "codec."
        )

    # -- training ------------------------------------------------------------------------------

    def forward(
        self, x: Tensor, *, tokens: Tokens | None = None, kept: Tensor | None = None,
        condition: Tensor | None = None,
    ) -> TrainingOutput:  # fmt: skip
        """Reconstruct for fine-tuning, not clamped.

        Freeze ``encoder`` to tune the decoder on quantized latents and keep the codes; what is not
        frozen gets its gradient straight through the levels.

        Args:
            x: (B, 1, T) in [-1, 1].
            tokens: given, the encoder is skipped and only the decoder trains.
            kept: with tokens, bool (B, F): frames that show latents of x, see `mixed_latents`.
            condition: as `WavTokenizer.forward`.
        """
        row = self.draw_row(x) if condition is None else condition
        statistics: dict[str, Tensor] = {}
        features: dict[str, Tensor] = {}
        if tokens is not None:
            z = self.mixed_latents(x, tokens, kept)
        else:
            with self.code_gradients():
                raw = self.latents(x)
            quantized = self.quantized(raw)
            z, statistics, features = decoder_latents(self, quantized, self.values_of)
            extent = torch.full((len(x), 1), x.shape[-1], device=x.device)
            tokens = Tokens(quantized.codes, extent=extent)
        sound = self.synthesise(self.quantizer.restore(z).transpose(1, 2), row)
        return TrainingOutput(
            sound[..., : x.shape[-1]], tokens, {}, statistics, features=features
        )


def as_codec(codec: Any) -> KLCodec:
    """Return a `KLCodec` as it is, or the one of a folder or hub id.

    A `DimensionWiseCodec`, or its folder, gives the codec that it was made over.

    Raises:
        ConfigError: something else. WeightsError: nothing there, or weights that do not fit.
    """
    if isinstance(codec, str | Path):
        ours = read_config(codec, {}).get("_class_name") == DimensionWiseCodec.__name__
        codec = (DimensionWiseCodec if ours else KLCodec).from_pretrained(codec)
    if isinstance(codec, DimensionWiseCodec):
        with torch.device("meta"):
            source = KLCodec(**network_values(codec))
        source.load_state_dict(codec.state_dict(keep_vars=True), assign=True)
        return source.train(codec.training)
    if not isinstance(codec, KLCodec):
        raise ConfigError(
            f"a {type(codec).__name__} came in; give a continuous codec (KLCodec), or its folder."
        )
    return codec
