"""VQGAN: the convolutional grid tokenizer, with one codebook or VAR's many scales.

    picture --encoder--> --quant_conv--> z (B, D, h, w) --quantizer--> codes
    codes --quantizer--> (B, D, h, w) --post_quant_conv--> --decoder--> picture

Esser et al., arXiv 2012.09841 (taming); Sun et al., arXiv 2406.06525 (LlamaGen: unit codes);
Tian et al., arXiv 2404.02905 (VAR: scales).  Letters: B batch, H W pixels, h w grid, D code
dimensions, K codes, F = H / h pixels per cell, N codes of all scales.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from tok_core.codebook import Codebook
from tok_core.contract import Tokenizer, Tokens, TrainingOutput, as_tokens
from tok_core.entropy_loss import entropy_loss
from tok_core.errors import MediaError, TokenError
from tok_core.level_keeping import keep_level
from tok_core.multi_scale_quantizer import MultiScaleQuantizer
from tok_core.official_source import OfficialSource
from tok_core.scale_usage import RecentCodes
from tok_core.token_spec import Axis, TokenSpec
from tok_core.training_perturbation import decoder_latents
from tok_core.vector_quantizer import Quantized, VectorQuantizer
from vision_tok.adaptive_weight import LAST_LAYER
from vision_tok.conv_autoencoder import ConvDecoder, ConvEncoder
from vision_tok.vqgan_config import VectorOptions, parse_vqgan_config

OWN_OPTIONS = ("codebook_weight", "entropy_weight", "entropy_temperature", "usage_window")


class VQGAN(OfficialSource, Tokenizer):
    """Fully convolutional tokenizer; the defaults are LlamaGen's VQ-16.

    A picture whose sides are no multiples of F is padded by repeating its last row and column, and
    cut back by `decode`.

    Args:
        encoder_sizes: channels, multipliers (one per level; F = 2 ** (levels - 1)), res_blocks,
            attention, mid_attention, dropout; see `vision_tok.conv_sizes.ConvSizes`.
        decoder_sizes: the same for the decoder; None: as the encoder.
        z_channels: width between the autoencoder and the two quant convolutions.
        code_dim: D. codebook_size: K.
        quantizer_kind: ``vector``, codes (B, h, w), or ``multi_scale``, codes (B, N).
        l2_normalize: ``vector`` compares and returns unit vectors (LlamaGen; False in taming and
            diffusers); ``multi_scale`` compares unit vectors and returns the stored ones.
        quantizer_options: how the codebook trains, `VectorOptions` or `MultiScaleOptions`.
        scales: grids of ``multi_scale`` from coarse to fine, as sides or pairs; the last is the
            latent's grid and fixes the size of the pictures.
        quant_kernel: of the quant convolutions, 1, or 3 in VAR.
        norm_groups: of every group norm.
        modulated_decoder: norms of the decoder are modulated by the code vectors (MoVQ).
        image_size: side, or rows and columns, that commands prepare pictures for; other sizes
            are coded all the same, but for ``multi_scale``.

    Raises:
        ConfigError: unknown options, illegal values, options that exclude each other.

    Example:
        >>> vqgan = VQGAN.from_pretrained("vq_ds16_c2i.pt")
        >>> vqgan.encode(images).codes.shape  # images (B, 3, 256, 384) in [-1, 1]
        torch.Size([4, 16, 24])
    """

    _supports_gradient_checkpointing = True
    _keep_in_fp32_modules = ["quantizer"]
    code_prefixes = ("encoder.", "quant_conv.", "quantizer.")
    code_config = ("norm_groups", "l2_normalize", "quantizer_kind", "scales")
    official_importer = "vision_tok.import_vqgan:import_vqgan"
    foreign_classes = ("VQModel",)

    @register_to_config
    def __init__(
        self,
        encoder_sizes: dict[str, Any] | None = None,
        decoder_sizes: dict[str, Any] | None = None,
        z_channels: int = 256,
        code_dim: int = 8,
        codebook_size: int = 16384,
        quantizer_kind: str = "vector",
        l2_normalize: bool = True,
        quantizer_options: dict[str, Any] | None = None,
        scales: Sequence[int | Sequence[int]] | None = None,
        quant_kernel: int = 1,
        norm_groups: int = 32,
        modulated_decoder: bool = False,
        image_size: int | Sequence[int] | None = None,
    ) -> None:
        settings = parse_vqgan_config(locals())
        super().__init__()
        self.settings = settings
        self.factor = settings.encoder.factor
        self.encoder = ConvEncoder(settings.encoder)
        pad = quant_kernel // 2
        self.quant_conv = nn.Conv2d(z_channels, code_dim, quant_kernel, padding=pad)
        options = vars(settings.options)
        self.recent: RecentCodes | None = None
        self.quantizer: VectorQuantizer | MultiScaleQuantizer
        if settings.scales is None:
            own = {name: value for name, value in options.items() if name not in OWN_OPTIONS}
            self.quantizer = VectorQuantizer(
                codebook_size, code_dim, l2_normalize=l2_normalize, **own
            )
            if options["usage_window"]:
                self.recent = RecentCodes(options["usage_window"])
        else:
            self.quantizer = MultiScaleQuantizer(
                codebook_size, code_dim, settings.scales.sizes, cosine=l2_normalize, **options
            )
        self.post_quant_conv = nn.Conv2d(code_dim, z_channels, quant_kernel, padding=pad)
        for conv in (self.quant_conv, self.post_quant_conv):
            keep_level(conv.weight, conv.bias)
        self.decoder = ConvDecoder(settings.decoder)

    # -- what it is ----------------------------------------------------------------------------

    @property
    def spec(self) -> TokenSpec:
        """A grid of any size with one code per cell, or all scales of one grid in a row."""
        scales, size = self.settings.scales, self.settings.image_size
        grid = None if size is None else self._grid(size)
        axes: tuple[Axis, ...] = (Axis(name="row"), Axis(name="column"))
        if scales is not None:
            total, least = scales.num_tokens, scales.lengths[0]
            axes = (Axis(name="scale_token", size=total, minimum=least),)
        return TokenSpec(
            modality="image", axes=axes, vocabulary=(self.quantizer.codebook_size,),
            scales=None if scales is None else scales.sizes, grid=grid, image_size=size,
        )  # fmt: skip

    @property
    def codebooks(self) -> tuple[Codebook, ...]:
        """The one table, normalised where assignment normalises."""
        metric = "cosine" if self.config["l2_normalize"] else "l2"
        return (Codebook(self.quantizer.vectors, metric),)

    # -- signal to tokens and back -------------------------------------------------------------

    def latents(self, x: Tensor) -> Tensor:
        """Map pictures (B, 3, H, W) in [-1, 1] to latents (B, D, h, w) before quantization.

        Raises:
            MediaError: no pictures, or with scales pictures that do not fill their grid.
        """
        if x.dim() != 4 or x.shape[1] != 3 or min(x.shape[2:]) < 1:
            raise MediaError(
                f"pictures of shape {tuple(x.shape)} came in; this network takes (batch, 3, "
                "height, width) of at least one pixel."
            )
        scales, grid = self.settings.scales, self._grid(x.shape[-2:])
        if scales is not None and grid != scales.grid:
            height, width = (side * self.factor for side in scales.grid)
            raise MediaError(
                f"a picture of {x.shape[-2]} x {x.shape[-1]} pixels has {grid[0]} x {grid[1]} "
                f"cells but the scales end in {scales.grid[0]} x {scales.grid[1]}; resize, crop or "
                f"tile it to {height} x {width} pixels."
            )
        rows, columns = (-size % self.factor for size in x.shape[-2:])
        if rows or columns:
            x = F.pad(x, (0, columns, 0, rows), mode="replicate")
        return self.quant_conv(self.encoder(x))

    def decode_latents(self, z: Tensor, *, condition: Tensor | None = None) -> Tensor:
        """Map code vectors (B, D, h, w) to pictures (B, 3, F h, F w) in [-1, 1]."""
        return self._paint(z, condition).clamp(-1, 1)

    @torch.no_grad()
    def encode(
        self, x: Tensor, *, lengths: Tensor | None = None, num_tokens: int | None = None
    ) -> Tokens:
        """Turn pictures (B, 3, H, W) in [-1, 1] into codes and their extent.

        Args:
            x: pictures of any size, or of the scales' size.
            lengths: belongs to audio.
            num_tokens: with scales, keep the first whole scales of so many tokens.

        Raises:
            TokenError: a budget that cannot be decoded.
            MediaError: as `latents`.
        """
        if lengths is not None:
            raise TokenError("lengths belong to padded audio; leave them out for pictures.")
        scales = self.settings.scales
        if num_tokens is not None:
            if scales is None:
                raise TokenError("a grid tokenizer codes every cell; leave num_tokens out.")
            scales.prefix(num_tokens)
        codes = self._encode(self.latents(x))[:, :num_tokens]
        extent = torch.tensor(x.shape[-2:], device=x.device).expand(len(x), 2)
        return Tokens(codes, extent=extent)

    @torch.no_grad()
    def decode(self, tokens: Tokens | Tensor, *, condition: Tensor | None = None) -> Tensor:
        """Turn tokens into pictures in [-1, 1] of the size that went in.

        Args:
            tokens: `Tokens`, or bare codes (B, h, w), or (B, n) with n tokens of whole scales,
                which decode to F pixels per cell.
            condition: nothing that this tokenizer takes.

        Raises:
            TokenError: codes that do not fit ``spec``, end inside a scale, or carry another size.
        """
        tokens = as_tokens(tokens)
        picture = self.decode_latents(self.embed(tokens), condition=condition)
        if tokens.extent is None or not len(tokens.extent):
            return picture
        if (tokens.extent != tokens.extent[0]).any():
            raise TokenError("the pictures of one batch differ in size; decode them one by one.")
        height, width = (int(side) for side in tokens.extent[0])
        painted = (picture.shape[-2] // self.factor, picture.shape[-1] // self.factor)
        if min(height, width) < 1 or self._grid((height, width)) != painted:
            raise TokenError(
                f"the tokens carry the size {height} x {width} but have {painted[0]} x "
                f"{painted[1]} cells of {self.factor} pixels; drop the extent or give the codes "
                "that belong to it."
            )
        return picture[..., :height, :width]

    def embed(
        self, tokens: Tokens | Tensor, *, stream: str | None = None, upto: int | None = None
    ) -> Tensor:
        """Return the code vectors (B, D, h, w); with scales the sum of the first ``upto``.

        `Tokens.lengths` gives every item whole scales of its own.

        Raises:
            TokenError: codes or lengths that do not fit, a stream, more scales than there are.
        """
        codes, lengths = (tokens := as_tokens(tokens)).codes, tokens.lengths
        if stream is not None:
            raise TokenError(f"stream '{stream}' was asked for; this tokenizer has only one.")
        if isinstance(self.quantizer, MultiScaleQuantizer):
            if lengths is not None and len(codes):
                each = zip(codes, lengths.tolist(), strict=True)
                parts = [self.embed(item[None, :n], upto=upto) for item, n in each]
                return torch.cat(parts)
            self.spec.check(codes)
            return self.quantizer.lookup(codes, upto)
        if lengths is not None:
            raise TokenError("a grid tokenizer decodes every cell; leave the lengths out.")
        self.spec.check(codes)
        if upto not in (None, 1):
            raise TokenError(f"upto is {upto}; this tokenizer has one scale, so leave it out.")
        return self._lookup(codes)

    # -- training ------------------------------------------------------------------------------

    def forward(self, x: Tensor, *, tokens: Tokens | None = None) -> TrainingOutput:
        """Reconstruct for training, not clamped.

        Args:
            x: (B, 3, H, W) in [-1, 1].
            tokens: given, the encoder is skipped and only the decoder trains.

        Returns:
            Picture, tokens, the quantizer's losses (0 while nothing that decides codes trains),
            its statistics, and in training ``features["last_layer"]``, the decoder's last weight,
            which the adaptive adversarial weight looks at.
        """
        losses: dict[str, Tensor] = {}
        statistics: dict[str, Tensor] = {}
        features: dict[str, Tensor] = {}
        if tokens is not None:
            z = self.embed(tokens)
        else:
            with self.code_gradients():
                raw = self.latents(x)
            quantized = self._quantize(raw)
            z, statistics, features = decoder_latents(self, quantized, self._lookup)
            tokens = Tokens(quantized.codes)
            losses = self.code_losses(quantized.losses)
        picture = self._paint(z, None)[..., : x.shape[-2], : x.shape[-1]]
        if self.training:
            features[LAST_LAYER] = self.decoder.conv_out.weight
        return TrainingOutput(picture, tokens, losses, statistics, features=features)

    def _quantize(self, raw: Tensor) -> Quantized:
        if isinstance(self.quantizer, MultiScaleQuantizer):
            return self.quantizer(raw)
        options = self.settings.options
        assert isinstance(options, VectorOptions)
        rows = raw.movedim(1, -1)
        quantized: Quantized = self.quantizer(rows)
        losses, statistics = dict(quantized.losses), dict(quantized.statistics)
        if "quantizer/codebook" in losses:
            losses["quantizer/codebook"] = options.codebook_weight * losses["quantizer/codebook"]
        if self.training and options.entropy_weight:
            flat = rows.reshape(-1, rows.shape[-1]).float()
            if self.quantizer.l2_normalize:
                flat = F.normalize(flat, dim=-1)
            spread = entropy_loss(
                flat, self.quantizer.vectors, temperature=options.entropy_temperature
            )
            losses["quantizer/entropy"] = options.entropy_weight * spread
        if self.recent is not None:
            if self.training:
                self.recent.push([quantized.codes])
            statistics["codebook/recent_usage"] = self.recent.usage(self.quantizer.codebook_size)
        latents, straight = (
            None if part is None else part.movedim(-1, 1)
            for part in (quantized.latents, quantized.straight)
        )
        assert latents is not None
        return quantized._replace(
            latents=latents, straight=straight, losses=losses, statistics=statistics
        )

    def _lookup(self, codes: Tensor) -> Tensor:
        """Return the code vectors (B, D, h, w) of codes, with scales their sum."""
        if isinstance(self.quantizer, MultiScaleQuantizer):
            return self.quantizer.lookup(codes)
        return self.quantizer.lookup(codes).movedim(-1, 1)

    def _encode(self, z: Tensor) -> Tensor:
        if isinstance(self.quantizer, MultiScaleQuantizer):
            return self.quantizer.encode(z)
        return self.quantizer.encode(z.movedim(1, -1))

    def _paint(self, z: Tensor, condition: Tensor | None) -> Tensor:
        if condition is not None:
            raise TokenError("this decoder takes no condition; leave it out.")
        z = z.to(self.post_quant_conv.weight.dtype)
        modulation = z if self.config["modulated_decoder"] else None
        return self.decoder(self.post_quant_conv(z), modulation)

    def _grid(self, size: Sequence[int]) -> tuple[int, int]:
        """Return the cells (h, w) of a picture of that size, rounded up."""
        return -(-size[0] // self.factor), -(-size[1] // self.factor)
