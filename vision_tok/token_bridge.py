"""TokenBridge: the latents of a finished KL autoencoder as small integers, one per dimension.

    picture --encoder--> mean (B, C, h, w) --normalise, pack patches--> (B, D, h/p, w/p)
    --levels--> codes (B, h/p, w/p, D) --values, unpack--> z^ --decoder--> picture

Nothing is trained for it.  Wang et al. 2025, "Bridging Continuous and Discrete Tokens", arXiv
2503.16430.  Letters: B batch, H W pixels, F stride, C latent channels, p patch side in cells, h w
cells, D = C p p dimensions of a position, V levels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor
from torch.nn import functional as F

from tok_core.contract import Tokens, TrainingOutput, as_tokens
from tok_core.dimension_calibration import calibrate
from tok_core.dimension_wise_config import OPTIONS, DimensionWiseConfig
from tok_core.dimension_wise_tokenizer import DimensionWiseTokenizer
from tok_core.errors import ConfigError, TokenError
from tok_core.frequency_order import KL16_ORDER
from tok_core.official_source import OfficialSource
from tok_core.strict_loading import CONFIG, read_config
from tok_core.token_spec import Axis, TokenSpec
from tok_core.training_perturbation import decoder_latents
from vision_tok.adaptive_weight import LAST_LAYER
from vision_tok.autoencoder_kl import (
    KL16,
    DiffusersAutoencoder,
    given_scaling,
    native_size,
    network_options,
    shared_state,
)
from vision_tok.kl_autoencoder import KLAutoencoder

if TYPE_CHECKING:
    from typing import Self


class TokenBridgeTokenizer(OfficialSource, DiffusersAutoencoder, DimensionWiseTokenizer):
    """Tokenizer over any diffusers AutoencoderKL, saved and loaded as one model.

    Codes are (B, h/p, w/p, D): one integer per dimension, row by row, dimensions in the
    autoencoder's own channel order; a packed position has channel, row and column of the patch in
    this order. Encoding takes the mean of the posterior, so that a picture always has the same
    codes. A picture whose sides are no multiples of F p is padded by repeating its last row and
    column, and cut back by `decode`. Latents, ``embed`` and ``codebooks`` are all on the scale of
    normalised latents.

    Args:
        vae: options of diffusers' AutoencoderKL; None is MAR's KL-16 with all that goes with it.
        patch_size: p; 2 for autoencoders of stride 8, whose positions are otherwise too many.
        image_size: side in pixels that commands prepare pictures for; others are coded as well.
        bits, std_range, low, high, channel_order, empty_bins: see
            `tok_core.dimension_wise_config.DimensionWiseConfig`.
        scale, shift: likewise; None takes what ``vae`` states (``scaling_factor`` and so on).

    Raises:
        ConfigError: options that make no network, no scale anywhere, numbers per channel or an
            order of another autoencoder, bits that leave empty bins.

    Example:
        >>> tokenizer = TokenBridgeTokenizer.from_pretrained("kl16.ckpt")
        >>> tokenizer.encode(images).codes.shape  # images (B, 3, 256, 256) in [-1, 1]
        torch.Size([4, 16, 16, 16])
    """

    codes_last = True
    calibrate_with = "tessera calibrate, or TokenBridgeTokenizer.calibrated,"
    code_config = (*DimensionWiseTokenizer.code_config, "vae", "patch_size")
    official_importer = "vision_tok.import_token_bridge:import_token_bridge"
    foreign_classes = ("AutoencoderKL",)

    @register_to_config
    def __init__(
        self,
        vae: dict[str, Any] | None = None,
        patch_size: int = 1,
        image_size: int | None = None,
        bits: int = 6,
        std_range: float = 3.0,
        low: float = -5.0,
        high: float = 5.0,
        scale: float | Sequence[float] | None = None,
        shift: float | Sequence[float] | None = None,
        channel_order: Sequence[int] | None = None,
        empty_bins: str = "refuse",
    ) -> None:
        values = locals()
        settings = {name: values[name] for name in OPTIONS}
        if vae is None and patch_size == 1 and channel_order is None:
            settings["channel_order"] = KL16_ORDER
        network: Mapping[str, Any] = KL16 if vae is None else vae
        config = quantization_of(network, settings)
        if isinstance(patch_size, bool) or not isinstance(patch_size, int) or patch_size < 1:
            raise ConfigError(f"patch_size is {patch_size!r}; give cells per side, at least 1.")
        super().__init__()
        self.patch_size = patch_size
        self.build_autoencoder(network)
        self.build_quantizer(config, self.channels, self.channels * patch_size**2)
        self.register_to_config(
            vae=network_options(network), image_size=native_size(image_size, network)
        )

    @classmethod
    def from_vae(cls, vae: Any, *, subfolder: str | None = None, **options: Any) -> Self:
        """Make a tokenizer of an autoencoder; tensors of an object are shared, not copied.

        Args:
            vae: a diffusers AutoencoderKL, a `KLAutoencoder`, another tokenizer of this kind, or
                the folder, file or hub id of one.
            subfolder: of the folder or hub id, such as ``vae``.
            options: of the tokenizer but ``vae``, such as ``**calibrate(vae, data).to_json()``.

        Raises:
            ConfigError: as the class. WeightsError: nothing there, or weights that do not fit.

        Example:
            >>> TokenBridgeTokenizer.from_vae(AutoencoderKL.from_pretrained(folder), patch_size=2)
        """
        vae = as_autoencoder(vae, subfolder=subfolder)
        network = dict(vae.config["vae"])
        options.setdefault("image_size", vae.config["image_size"])
        with torch.device("meta"):
            model = cls(network, **options)
        model.load_state_dict(shared_state(vae.autoencoder), assign=True)
        return model.train(vae.training)

    @classmethod
    def calibrated(
        cls, vae: Any, data: Iterable[Tensor], *, patch_size: int = 1,
        image_size: int | None = None, **settings: Any,
    ) -> Self:  # fmt: skip
        """Make a tokenizer whose scale, range and channel order are measured on pictures.

        Args:
            vae: as `from_vae`.
            data: batches (B, 3, H, W) in [-1, 1], some thousand pictures of your kind.
            patch_size, image_size: of the tokenizer.
            settings: as `tok_core.dimension_calibration.calibrate` takes them, such as ``bits``.

        Example:
            >>> tokenizer = TokenBridgeTokenizer.calibrated("runs/mine/model", batches, bits=5)
        """
        source = as_autoencoder(vae)
        measured = calibrate(source, data, patch_size=patch_size, **settings)
        options = measured.to_json() | {"patch_size": patch_size}
        if image_size is not None:
            options["image_size"] = image_size
        return cls.from_vae(source, **options)

    # -- what it is ----------------------------------------------------------------------------

    @property
    def cell(self) -> int:
        """Pixels per side of one position, F p."""
        return self.factor * self.patch_size

    @property
    def spec(self) -> TokenSpec:
        """A grid of any size with D codes per cell."""
        size = self.config["image_size"]
        axes = (
            Axis(name="row"), Axis(name="column"),
            Axis(name="dimension", size=self.dimensions, minimum=self.dimensions),
        )  # fmt: skip
        return TokenSpec(
            modality="image", axes=axes, vocabulary=(self.quantizer.num_levels,) * self.dimensions,
            grid=None if size is None else self._grid((size, size)),
            image_size=None if size is None else (size, size),
        )  # fmt: skip

    # -- signal to tokens and back -------------------------------------------------------------

    def latents(
        self, x: Tensor, *, sample: bool = False, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return normalised latents (B, D, h/p, w/p) in float32.

        Args:
            x: (B, 3, H, W) in [-1, 1], of any size.
            sample: draw from the posterior, as the published generators are trained; the default
                is its mean. generator: for the draw.

        Raises:
            MediaError: no pictures.
        """
        posterior = self.posterior_of(x, self.cell)
        z = posterior.sample(generator=generator) if sample else posterior.mean
        return F.pixel_unshuffle(self.quantizer.normalise(z), self.patch_size)

    def decode_latents(self, z: Tensor, *, condition: Tensor | None = None) -> Tensor:
        """Map normalised latents (B, D, h/p, w/p), quantized or not, to pictures in [-1, 1]."""
        return self._picture(z, condition).clamp(-1, 1)

    @torch.no_grad()
    def encode(
        self, x: Tensor, *, lengths: Tensor | None = None, num_tokens: int | None = None,
        sample: bool = False, generator: torch.Generator | None = None,
    ) -> Tokens:  # fmt: skip
        """Turn pictures (B, 3, H, W) in [-1, 1] into codes (B, h/p, w/p, D) and their extent.

        Latents outside the clip range are clipped and counted (``clipped``).

        Args:
            x: pictures of any size.
            lengths, num_tokens: belong to other tokenizers; leave them out.
            sample, generator: as `latents`.

        Raises:
            TokenError: an argument that does not apply. MediaError: as `latents`.
        """
        if lengths is not None:
            raise TokenError("lengths belong to padded audio; leave them out for pictures.")
        if num_tokens is not None:
            raise TokenError("a grid tokenizer codes every cell; leave num_tokens out.")
        codes = self.codes_of(self.latents(x, sample=sample, generator=generator))
        extent = torch.tensor(x.shape[-2:], device=x.device).expand(len(x), 2)
        return Tokens(codes, extent=extent)

    @torch.no_grad()
    def decode(self, tokens: Tokens | Tensor, *, condition: Tensor | None = None) -> Tensor:
        """Turn tokens into pictures in [-1, 1] of the size that went in.

        Args:
            tokens: `Tokens`, or bare codes, which decode to F p pixels per cell.
            condition: nothing that this tokenizer takes.

        Raises:
            TokenError: codes that do not fit ``spec`` or carry another size.
        """
        tokens = as_tokens(tokens)
        picture = self.decode_latents(self.embed(tokens), condition=condition)
        if tokens.extent is None or not len(tokens.extent):
            return picture
        if (tokens.extent != tokens.extent[0]).any():
            raise TokenError("the pictures of one batch differ in size; decode them one by one.")
        height, width = (int(side) for side in tokens.extent[0])
        cells = tuple(tokens.codes.shape[1:3])
        if min(height, width) < 1 or self._grid((height, width)) != cells:
            raise TokenError(
                f"the tokens carry the size {height} x {width} but have {cells[0]} x {cells[1]} "
                f"cells of {self.cell} pixels; drop the extent or give the codes that belong to it."
            )
        return picture[..., :height, :width]

    def embed(
        self, tokens: Tokens | Tensor, *, stream: str | None = None, upto: int | None = None
    ) -> Tensor:
        """Return the quantized, normalised latents (B, D, h/p, w/p) in float32.

        Raises:
            TokenError: codes that do not fit ``spec``, or an argument that does not apply.
        """
        codes, lengths, _ = as_tokens(tokens)
        if stream is not None:
            raise TokenError(f"stream '{stream}' was asked for; this tokenizer has only one.")
        if lengths is not None:
            raise TokenError("a grid tokenizer decodes every cell; leave the lengths out.")
        if upto not in (None, 1):
            raise TokenError(f"upto is {upto}; this tokenizer has one scale, so leave it out.")
        self.spec.check(codes)
        return self.values_of(codes)

    # -- training ------------------------------------------------------------------------------

    def forward(
        self, x: Tensor, *, tokens: Tokens | None = None, kept: Tensor | None = None
    ) -> TrainingOutput:
        """Reconstruct for fine-tuning, not clamped.

        Freeze ``autoencoder.encoder`` and ``autoencoder.quant_conv`` to tune the decoder on
        quantized latents and keep the codes; what is not frozen gets its gradient straight through
        the levels.

        Args:
            x: (B, 3, H, W) in [-1, 1].
            tokens: given, the encoder is skipped and only the decoder trains.
            kept: with tokens, bool (B, L): positions that show latents of x, see `mixed_latents`.

        Returns:
            Picture, tokens, no losses, the levels' statistics, and in training
            ``features["last_layer"]``, the decoder's last weight.
        """
        statistics: dict[str, Tensor] = {}
        features: dict[str, Tensor] = {}
        if tokens is not None:
            z = self.mixed_latents(x, tokens, kept)
        else:
            with self.code_gradients():
                raw = self.latents(x)
            quantized = self.quantized(raw)
            z, statistics, features = decoder_latents(self, quantized, self.values_of)
            tokens = Tokens(quantized.codes)
        picture = self._picture(z)[..., : x.shape[-2], : x.shape[-1]]
        if self.training:
            features[LAST_LAYER] = self.autoencoder.decoder.conv_out.weight
        return TrainingOutput(picture, tokens, {}, statistics, features=features)

    def _picture(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        if z.dim() != 4 or z.shape[1] != self.dimensions:
            raise TokenError(
                f"latents of shape {tuple(z.shape)} came in; this decoder takes (batch, "
                f"{self.dimensions}, rows, columns)."
            )
        z = self.quantizer.restore(F.pixel_shuffle(z.float(), self.patch_size))
        return self.paint(z, condition)

    def _grid(self, size: Sequence[int]) -> tuple[int, int]:
        """Return the positions (rows, columns) of a picture of that size, rounded up."""
        return -(-size[0] // self.cell), -(-size[1] // self.cell)


def quantization_of(
    vae: Mapping[str, Any], settings: Mapping[str, Any]
) -> DimensionWiseConfig:
    """Return the checked settings; a scale or shift that is None is what the autoencoder states.

    Raises:
        ConfigError: no scale anywhere, or an illegal value.
    """
    chosen = dict(settings)
    if chosen.get("scale") is None:
        stated = given_scaling(vae)
        if stated is None:
            raise ConfigError(
                "this autoencoder states no scaling_factor and no scale was given; measure scale, "
                "range and channel order with tessera calibrate, or "
                "TokenBridgeTokenizer.calibrated, or give scale (1 / standard deviation of its "
                "latents)."
            )
        chosen["scale"] = stated["scale"]
        if chosen.get("shift") is None:
            chosen["shift"] = stated["shift"]
    if chosen.get("shift") is None:
        chosen["shift"] = 0.0
    return DimensionWiseConfig.from_json(chosen)


def as_autoencoder(vae: Any, *, subfolder: str | None = None) -> KLAutoencoder:
    """Return a `KLAutoencoder` of an AutoencoderKL, or of a folder, file or hub id of one.

    A `TokenBridgeTokenizer`, or its folder, gives the autoencoder that it was made over.

    Raises:
        ConfigError: something else. WeightsError: nothing there, or weights that do not fit.
    """
    if isinstance(vae, KLAutoencoder):
        return vae
    if isinstance(vae, str | Path):
        place = {} if subfolder is None else {"subfolder": subfolder}
        config = Path(vae) / (subfolder or "") / CONFIG
        ours = config.is_file() and read_config(config.parent, {}).get("_class_name")
        if ours != TokenBridgeTokenizer.__name__:
            return KLAutoencoder.from_pretrained(vae, **place)
        vae = TokenBridgeTokenizer.from_pretrained(vae, **place)
    if isinstance(vae, TokenBridgeTokenizer):
        return KLAutoencoder.from_vae(vae.autoencoder, image_size=vae.config["image_size"])
    return KLAutoencoder.from_vae(getattr(vae, "autoencoder", vae))
