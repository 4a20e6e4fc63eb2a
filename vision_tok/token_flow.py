"""TokenFlow: semantic and pixel features of one picture under one index per cell.

    picture --semantic encoder--> MLP -------> (B, 32, G, G) --+
        |                                                      +--dual codebook, S scales--> codes
        +--(resize)--conv encoder--1x1-------> (B,  8, G, G) --+
    codes --semantic half--> semantic decoder --> features of the teacher
        +---pixel half-----> 1x1 --conv decoder--(resize)--> picture

Qu et al., "TokenFlow: Unified Image Tokenizer for Multimodal Understanding and Generation",
arXiv 2412.03069.  Letters: B batch, S scales, G grid, D channels of both halves, K codes, N codes
of all scales, T features of the teacher.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from tok_core.codebook import Codebook
from tok_core.contract import Tokenizer, Tokens, TrainingOutput, as_tokens
from tok_core.dual_codebook import DualCodebook
from tok_core.errors import MediaError, TokenError
from tok_core.level_keeping import keep_level
from tok_core.official_source import OfficialSource
from tok_core.token_spec import Axis, TokenSpec
from tok_core.training_perturbation import decoder_latents
from vision_tok.adaptive_weight import LAST_LAYER
from vision_tok.conv_autoencoder import ConvDecoder, ConvEncoder
from vision_tok.semantic_decoder import SemanticDecoder, task_layer
from vision_tok.semantic_distillation import SEMANTIC_PREDICTION
from vision_tok.semantic_encoder import SemanticEncoder
from vision_tok.token_flow_config import check_grid, parse_config, plain_config

if TYPE_CHECKING:
    from typing import Self

SEMANTIC, PIXEL = "semantic", "pixel"


class TokenFlow(OfficialSource, Tokenizer):
    """Unified tokenizer: the same codes serve pictures and understanding.

    Args:
        image_size: side of the square pictures in pixels.
        scales: coarse to fine; the last is the grid G. ``[G]`` is the single-scale model.
        codebook_size: K.
        semantic_dim, pixel_dim: channels of the two halves; D is their sum.
        pixel_weight: of the pixel half's distance in the choice of a code.
        semantic_encoder: `vision_tok.semantic_encoder.SemanticEncoderOptions` as an object. Its
            ``weights`` are read when the model is made and not kept in the config.
        semantic_decoder: `vision_tok.semantic_decoder.SemanticDecoderOptions` as an object.
        encoder_sizes, decoder_sizes: of the convolutional autoencoder, `SideSizes` as objects;
            the decoder's are the encoder's where not given. Its pictures have G * 2 ** (levels -
            1) pixels a side: others are resized (bicubic) on the way in and out.
        z_channels, norm_groups: of the autoencoder.
        quantizer_options: how the codebooks train, `SharedIndexOptions` as an object.

    Raises:
        ConfigError: unknown options, illegal values, a scale list that does not end in the grid.
        WeightsError: the semantic encoder's weights are missing or do not fit.

    Example:
        >>> tokenizer = TokenFlow.from_pretrained("tokenflow_siglip_32k.pt")
        >>> tokens = tokenizer.encode(pictures)               # (B, 3, 384, 384) in [-1, 1]
        >>> tokenizer.embed(tokens, stream="semantic").shape  # what a language model reads
        torch.Size([4, 32, 27, 27])
    """

    _supports_gradient_checkpointing = True
    _keep_in_fp32_modules = ["quantizer"]
    code_prefixes = ("semantic_tower.", "code_head.", "encoder.", "quant_conv.", "quantizer.")
    code_config = ("image_size", "scales", "pixel_weight", "semantic_encoder", "norm_groups")
    official_importer = "vision_tok.import_token_flow:import_token_flow"

    @register_to_config
    def __init__(
        self,
        semantic_encoder: dict[str, Any],
        semantic_decoder: dict[str, Any],
        image_size: int = 224,
        scales: Sequence[int | Sequence[int]] = (1, 2, 4, 6, 8, 10, 12, 14),
        codebook_size: int = 32768,
        semantic_dim: int = 32,
        pixel_dim: int = 8,
        pixel_weight: float = 1.0,
        encoder_sizes: dict[str, Any] | None = None,
        decoder_sizes: dict[str, Any] | None = None,
        z_channels: int = 256,
        norm_groups: int = 32,
        quantizer_options: dict[str, Any] | None = None,
    ) -> None:
        config = parse_config(locals())
        super().__init__()
        self.settings = config
        # Not by the names of the options: diffusers' attribute look-up finds those first.
        self.semantic_tower = SemanticEncoder(config.semantic_encoder)
        check_grid(config, self.semantic_tower.grid_of(image_size))
        self.register_to_config(**plain_config(config, self.semantic_tower.options))
        self.code_head = task_layer(self.semantic_tower.width, semantic_dim)
        self.encoder = ConvEncoder(config.encoder)
        self.quant_conv = nn.Conv2d(z_channels, pixel_dim, 1)
        options = config.quantizer
        self.quantizer = DualCodebook(
            codebook_size, {SEMANTIC: semantic_dim, PIXEL: pixel_dim},
            weights={PIXEL: pixel_weight}, scales=config.scales.sizes,
            beta=options.commitment_weight, entropy=options.entropy_weight,
            temperature=options.entropy_temperature, scale_drop=options.scale_drop,
            kmeans_start=options.kmeans_start, dead_code_every=options.dead_code_every,
            recent_codes=options.usage_window,
        )  # fmt: skip
        self.feature_decoder = SemanticDecoder(semantic_dim, config.grid, config.semantic_decoder)
        self.post_quant_conv = nn.Conv2d(pixel_dim, z_channels, 1)
        for conv in (self.quant_conv, self.post_quant_conv):
            keep_level(conv.weight, conv.bias)
        self.decoder = ConvDecoder(config.decoder)

    # -- what it is ----------------------------------------------------------------------------

    @property
    def spec(self) -> TokenSpec:
        """One code per cell of every scale; both halves come from the same code."""
        scales, size = self.settings.scales, self.settings.image_size
        axis = Axis(name="scale_token", size=scales.num_tokens, minimum=scales.lengths[0])
        return TokenSpec(
            modality="image", axes=(axis,), vocabulary=(self.quantizer.codebook_size,),
            scales=scales.sizes, grid=scales.grid, streams=self.quantizer.streams,
            image_size=(size, size),
        )  # fmt: skip

    @property
    def codebooks(self) -> tuple[Codebook, ...]:
        """The joined unit space in which the shared index is chosen."""
        return (Codebook(self.quantizer.vectors, "l2"),)

    # -- signal to tokens and back -------------------------------------------------------------

    def latent_streams(self, x: Tensor) -> dict[str, Tensor]:
        """Map pictures (B, 3, S, S) to ``semantic`` (B, 32, G, G) and ``pixel`` (B, 8, G, G).

        Neither is normalised: the residuals of the finer scales live from their lengths.

        Raises:
            MediaError: pictures of another size.
        """
        size, grid, side = self.settings.image_size, self.settings.grid, self.settings.pixel_side
        if x.dim() != 4 or tuple(x.shape[1:]) != (3, size, size):
            raise MediaError(
                f"pictures of shape {tuple(x.shape)} came in; this network sees exactly (batch, 3, "
                f"{size}, {size}), so resize, crop or tile them first."
            )
        semantic = self.code_head(self.semantic_tower(x))
        pixel = self.quant_conv(self.encoder(_resized(x, side)))
        return {
            SEMANTIC: semantic.transpose(1, 2).unflatten(2, (grid, grid)), PIXEL: pixel
        }  # fmt: skip

    def latents(self, x: Tensor) -> Tensor:
        """Map pictures (B, 3, S, S) in [-1, 1] to both streams (B, D, G, G), semantic first."""
        streams = self.latent_streams(x)
        return torch.cat([stream.float() for stream in streams.values()], dim=1)

    def decode_latents(self, z: Tensor, *, condition: Tensor | None = None) -> Tensor:
        """Map both streams (B, D, G, G), or the pixel stream alone, to pictures in [-1, 1]."""
        if condition is not None:
            raise TokenError("this decoder takes no condition; leave it out.")
        dims = self.quantizer.dims
        if z.dim() != 4 or z.shape[1] not in (dims[PIXEL], sum(dims.values())):
            raise TokenError(
                f"latents of shape {tuple(z.shape)} came in; give both streams "
                f"({sum(dims.values())} channels) or the pixel stream ({dims[PIXEL]})."
            )
        return self._paint(z[:, -dims[PIXEL] :]).clamp(-1, 1)

    @torch.no_grad()
    def encode(
        self, x: Tensor, *, lengths: Tensor | None = None, num_tokens: int | None = None
    ) -> Tokens:
        """Turn pictures (B, 3, S, S) in [-1, 1] into codes (B, N), coarse to fine.

        Args:
            x: pictures.
            lengths: belongs to audio.
            num_tokens: keep the first whole scales of so many tokens.

        Raises:
            TokenError: a budget that ends inside a scale.
            MediaError: pictures of another size.
        """
        if lengths is not None:
            raise TokenError("lengths belong to padded audio; leave them out for pictures.")
        if num_tokens is not None:
            self.settings.scales.prefix(num_tokens)
        codes = self.quantizer.encode(self.latent_streams(x))[:, :num_tokens]
        extent = torch.tensor(x.shape[-2:], device=x.device).expand(len(x), 2)
        return Tokens(codes, extent=extent)

    @torch.no_grad()
    def decode(self, tokens: Tokens | Tensor, *, condition: Tensor | None = None) -> Tensor:
        """Turn tokens into pictures (B, 3, S, S) in [-1, 1].

        Args:
            tokens: codes (B, n) of whole scales; `Tokens.lengths` gives every item its own.
            condition: nothing that this tokenizer takes.

        Raises:
            TokenError: codes out of range, that end inside a scale, or carry another size.
        """
        return self.decode_latents(self.embed(tokens, stream=PIXEL), condition=condition)

    def embed(
        self, tokens: Tokens | Tensor, *, stream: str | None = None, upto: int | None = None
    ) -> Tensor:
        """Return the sum of the scales' code vectors on the full grid.

        Args:
            tokens: codes (B, n) of whole scales.
            stream: ``semantic`` (B, 32, G, G), ``pixel`` (B, 8, G, G), ``both`` or None (B, D, G,
                G).
            upto: of the first so many scales only.

        Raises:
            TokenError: as `decode`. ConfigError: an unknown stream.
        """
        tokens = as_tokens(tokens)
        codes, lengths, size = tokens.codes, tokens.lengths, self.settings.image_size
        self.spec.check(codes)
        if tokens.extent is not None and bool((tokens.extent != size).any()):
            raise TokenError(
                f"the tokens carry the size {tokens.extent[0].tolist()} but this network paints "
                f"{size} x {size}; drop the extent and restore the size afterwards."
            )
        if lengths is None or not len(codes):
            return self.quantizer.lookup(codes, upto, stream=stream)
        if lengths.shape != codes.shape[:1]:
            raise TokenError(
                f"lengths of shape {tuple(lengths.shape)} came in for {len(codes)} items; give one "
                "per item."
            )
        parts: list[Tensor] = [codes] * len(codes)
        for length in lengths.unique().tolist():
            rows = (lengths == length).nonzero()[:, 0].tolist()
            found = self.quantizer.lookup(codes[rows, :length], upto, stream=stream)
            for row, part in zip(rows, found, strict=True):
                parts[row] = part
        return torch.stack(parts)

    def features(self, tokens: Tokens | Tensor, *, upto: int | None = None) -> Tensor:
        """Return the teacher's features (B, G * G, T) as the semantic half of tokens tells them."""
        return self.semantic_features(self.embed(tokens, stream=SEMANTIC, upto=upto))

    def semantic_features(self, z: Tensor) -> Tensor:
        """Map the semantic stream (B, 32, G, G) to features (B, G * G, T), row-major."""
        return self.feature_decoder(z.to(self.post_quant_conv.weight.dtype))

    def at_resolution(self, image_size: int, scales: Sequence[int | Sequence[int]]) -> Self:
        """Return this model for pictures of another size, sharing its weights.

        The published CLIP model is used so: trained at 224 pixels, run at 256. Positions are
        resized by the rules of the encoder and the semantic decoder.

        Args:
            image_size: side in pixels.
            scales: a list that ends in the new grid.

        Raises:
            ConfigError: it does not.

        Example:
            >>> larger = tokenizer.at_resolution(256, [1, 2, 4, 6, 8, 10, 12, 14, 16])
        """
        known = {k: v for k, v in self.config.items() if not k.startswith("_")}
        with torch.device("meta"):
            model = type(self)(**known | {"image_size": image_size, "scales": scales})
        model.load_state_dict(self.state_dict(keep_vars=True), assign=True)
        return model.train(self.training)

    # -- training ------------------------------------------------------------------------------

    def forward(self, x: Tensor, *, tokens: Tokens | None = None) -> TrainingOutput:
        """Reconstruct for training, not clamped.

        Args:
            x: (B, 3, S, S) in [-1, 1].
            tokens: given, both encoders are skipped.

        Returns:
            Picture, tokens, the quantizer's losses (0 while nothing that decides codes trains), its
            statistics, and ``features["semantic_prediction"]`` (B, G * G, T); in training also
            ``features["last_layer"]``, the decoder's last weight, for the adaptive weight.
        """
        losses: dict[str, Tensor] = {}
        statistics: dict[str, Tensor] = {}
        features: dict[str, Tensor] = {}
        if tokens is not None:
            z = self.embed(tokens)
        else:
            with self.code_gradients():
                streams = self.latent_streams(x)
            quantized = self.quantizer(streams, drop=self._dropped_scale())
            z, statistics, features = decoder_latents(self, quantized, self.quantizer.lookup)
            tokens = Tokens(quantized.codes)
            losses = self.code_losses(quantized.losses)
        parts = self.quantizer.split(z)
        features[SEMANTIC_PREDICTION] = self.semantic_features(parts[SEMANTIC])
        if self.training:
            features[LAST_LAYER] = self.decoder.conv_out.weight
        picture = self._paint(parts[PIXEL])
        return TrainingOutput(picture, tokens, losses, statistics, features=features)

    def _dropped_scale(self) -> int | None:
        """Draw the scale to drop while the quantizer is frozen, which then draws none itself."""
        count, chance = len(self.settings.scales), self.settings.quantizer.scale_drop
        if not self.training or self.quantizer.training or not chance or count < 2:
            return None
        dropped, place = torch.rand(2).tolist()
        return 1 + int(place * (count - 1)) if dropped < chance else None

    def _paint(self, z: Tensor) -> Tensor:
        """Map the pixel stream (B, 8, G, G) to pictures, not clamped."""
        picture = self.decoder(self.post_quant_conv(z.to(self.post_quant_conv.weight.dtype)))
        return _resized(picture, self.settings.image_size)


def _resized(x: Tensor, side: int) -> Tensor:
    if x.shape[-1] == side:
        return x
    return F.interpolate(x, (side, side), mode="bicubic", align_corners=False)
