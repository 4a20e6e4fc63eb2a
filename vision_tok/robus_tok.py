"""RobusTok, XQ-GAN and ImageFolder: ViT tokenizers with latent queries and product quantizers.

    picture --ViT with P x g x g queries--> --quant_conv--> z (B, P C, g, g) --quantizers--> codes
    codes --quantizers--> (B, P C, g, g) --(perturbed in training)--> --post_quant_conv--> --ViT-->
    picture

Qiu et al., "Image Tokenizer Needs Post-Training", arXiv 2509.12474, and "Robust Latent Matters",
arXiv 2503.08354; Li et al., "XQ-GAN", arXiv 2412.01762, and "ImageFolder", arXiv 2410.01756.
Letters: B batch, S picture side in pixels, P branches, g side of the code grid, C dimensions and
K codes of one branch, N codes of all scales, T features of a teacher.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from tok_core.binary_spherical import BinarySphericalQuantizer
from tok_core.codebook import Codebook
from tok_core.contract import Tokenizer, Tokens, TrainingOutput, as_tokens
from tok_core.errors import ConfigError, MediaError, TokenError
from tok_core.multi_scale_quantizer import MultiScaleQuantizer
from tok_core.official_source import OfficialSource
from tok_core.product_quantizer import ProductQuantizer
from tok_core.token_spec import Axis, TokenSpec
from tok_core.training_perturbation import PERTURBED_CODES, decoder_latents
from tok_core.vector_quantizer import Quantized, VectorQuantizer
from vision_tok.adaptive_weight import LAST_LAYER
from vision_tok.robus_tok_config import RobusTokConfig, parse_robus_tok_config, plain_side
from vision_tok.robus_tok_decoder import RobusTokDecoder
from vision_tok.robus_tok_encoder import RobusTokEncoder
from vision_tok.tower_start import start_tower

if TYPE_CHECKING:
    from typing import Self

# Features of `forward` for the semantic loss.
SEMANTIC_TOKENS = "semantic_tokens"
SEMANTIC_PERTURBED = "semantic_tokens_perturbed"
SEMANTIC_TEACHER = "semantic_teacher"


class RobusTok(OfficialSource, Tokenizer):
    """Tokenizer of square pictures with a fixed number of codes; the defaults are RobusTok's.

    Args:
        image_size: S, any multiple of ``patch_size``. At another size than the model was trained
            at positions are resized (``position_grid``); the number of codes stays.
        patch_size: pixels per cell of the two transformers.
        encoder_size, decoder_size: `vision_tok.robus_tok_config.SideOptions` as objects.
        branches: P. Codes are (B, g, g) for P = 1 and (B, P, g, g) for more, and over scales
            (B, N) and (B, P, N).
        code_dim: C. codebook_size: K, of each branch.
        quantizer_kind: ``vector`` (RobusTok; VP with P > 1), ``multi_scale`` (ImageFolder's MSVR)
            or ``binary`` (MSBR; K is 2 ** C).
        l2_normalize: ``vector`` compares and returns unit vectors; ``multi_scale`` compares unit
            vectors and returns the stored ones. Not for ``binary``.
        code_grid: g; None is the last scale, and without scales the picture's own grid.
        scales: sides of ``multi_scale`` and ``binary``, coarse to fine; the last is g.
        position_grid: side of the stored position tables, None for the picture's own grid.
        quantizer_options: how the codebooks train, `UnitOptions`, `ResidualOptions` or
            `BinaryOptions` of `vision_tok.robus_tok_config`.
        semantic_branches: the semantic loss sees the ``last`` branch or ``all``.
        layer_norm_eps: of every layer norm.
        drop_path: chance of the last blocks' branches to be left out in training; it rises to that
            linearly over the blocks.
        layer_scale: what the learned factors of every block's branches start at: 1e-5 for weights
            of DINOv2; a network that starts from nothing learns sooner with 0.1 to 1.
        position_start: what the position tables start at: ``normal`` numbers, or ``sincos``, which
            a network that starts from nothing needs to find out which query sees which patch.

    Raises:
        ConfigError: unknown options, illegal values, options that exclude each other.
        WeightsError: weights to start from that are missing or do not fit.

    Example:
        >>> tokenizer = RobusTok.from_pretrained("main-train.pt")
        >>> tokenizer.encode(images).codes.shape  # images (B, 3, 256, 256) in [-1, 1]
        torch.Size([4, 16, 16])
    """

    _supports_gradient_checkpointing = True
    _keep_in_fp32_modules = ["quantizer"]
    code_prefixes = ("encoder.", "quant_conv.", "quantizer.")
    code_config = (
        "image_size", "position_grid", "encoder_size", "branches", "quantizer_kind",
        "l2_normalize", "code_grid", "scales", "layer_norm_eps",
    )  # fmt: skip
    official_importer = "vision_tok.import_robus_tok:import_robus_tok"

    @register_to_config
    def __init__(
        self,
        image_size: int = 256,
        patch_size: int = 16,
        encoder_size: dict[str, Any] | None = None,
        decoder_size: dict[str, Any] | None = None,
        branches: int = 1,
        code_dim: int = 64,
        codebook_size: int = 4096,
        quantizer_kind: str = "vector",
        l2_normalize: bool = True,
        code_grid: int | None = None,
        scales: Sequence[int | Sequence[int]] | None = None,
        position_grid: int | None = None,
        quantizer_options: dict[str, Any] | None = None,
        semantic_branches: str = "last",
        layer_norm_eps: float = 1e-6,
        drop_path: float = 0.1,
        layer_scale: float = 1e-5,
        position_start: str = "normal",
    ) -> None:
        settings = parse_robus_tok_config(locals())
        super().__init__()
        self.settings = settings
        self.register_to_config(
            encoder_size=plain_side(settings.encoder), decoder_size=plain_side(settings.decoder),
            code_grid=settings.code_grid, position_grid=settings.position_grid,
        )  # fmt: skip
        self.encoder = RobusTokEncoder(settings)
        self.quant_conv = nn.Conv2d(settings.encoder.width, code_dim, 1)
        self.quantizer = _quantizer(settings, l2_normalize)
        self.post_quant_conv = nn.Conv2d(branches * code_dim, settings.decoder.width, 1)
        self.decoder = RobusTokDecoder(settings)
        for side, network in (
            (settings.encoder, self.encoder), (settings.decoder, self.decoder)
        ):  # fmt: skip
            if side.weights is not None and not self.quant_conv.weight.is_meta:
                start_tower(network.tower, side.weights)

    # -- what it is ----------------------------------------------------------------------------

    @property
    def spec(self) -> TokenSpec:
        """A fixed square grid, or all scales of one, with a branch axis before it for P > 1."""
        settings = self.settings
        side, scales = settings.code_grid, settings.scales
        axes: tuple[Axis, ...]
        if scales is None or len(scales) == 1:
            scales = None
            axes = (
                Axis(name="row", size=side, minimum=side),
                Axis(name="column", size=side, minimum=side),
            )
        else:
            total, least = scales.num_tokens, scales.lengths[0]
            axes = (Axis(name="scale_token", size=total, minimum=least),)
        if settings.branches > 1:
            count = settings.branches
            axes = (Axis(name="branch", size=count, minimum=count), *axes)
        return TokenSpec(
            modality="image", axes=axes, vocabulary=self.quantizer.vocabulary,
            scales=None if scales is None else scales.sizes, grid=(side, side),
            image_size=(settings.image_size, settings.image_size),
        )  # fmt: skip

    @property
    def codebooks(self) -> tuple[Codebook, ...]:
        """One table per branch, normalised where assignment normalises."""
        return self.quantizer.codebooks

    # -- signal to tokens and back -------------------------------------------------------------

    def latents(self, x: Tensor) -> Tensor:
        """Map pictures (B, 3, S, S) in [-1, 1] to (B, P C, g, g), branches on the channels.

        Raises:
            MediaError: pictures of another size.
        """
        size, side = self.settings.image_size, self.settings.code_grid
        if x.dim() != 4 or tuple(x.shape[1:]) != (3, size, size):
            raise MediaError(
                f"pictures of shape {tuple(x.shape)} came in; this network sees exactly (batch, 3, "
                f"{size}, {size}), so resize, crop or tile them first."
            )
        queries = self.encoder(x)
        z = self._projected(queries).unflatten(2, (self.settings.branches, side, side))
        return z.transpose(1, 2).flatten(1, 2)

    def decode_latents(self, z: Tensor, *, condition: Tensor | None = None) -> Tensor:
        """Map code vectors (B, P C, g, g) to pictures (B, 3, S, S) in [-1, 1]."""
        if condition is not None:
            raise TokenError("this decoder takes no condition; leave it out.")
        legal = (self.quantizer.code_dim, self.settings.code_grid, self.settings.code_grid)
        if z.dim() != 4 or tuple(z.shape[1:]) != legal:
            raise TokenError(
                f"latents of shape {tuple(z.shape)} came in; this decoder takes (batch, "
                f"{', '.join(map(str, legal))})."
            )
        return self._paint(z).clamp(-1, 1)

    @torch.no_grad()
    def encode(
        self, x: Tensor, *, lengths: Tensor | None = None, num_tokens: int | None = None
    ) -> Tokens:
        """Turn pictures (B, 3, S, S) in [-1, 1] into codes.

        Args:
            x: pictures.
            lengths: belongs to audio.
            num_tokens: with scales, keep the first whole scales of so many tokens per branch.

        Raises:
            TokenError: a budget that cannot be decoded. MediaError: pictures of another size.
        """
        if lengths is not None:
            raise TokenError("lengths belong to padded audio; leave them out for pictures.")
        if num_tokens is not None:
            if self.quantizer.scales is None:
                raise TokenError("a grid tokenizer codes every cell; leave num_tokens out.")
            self.quantizer.scales.prefix(num_tokens)
        codes = self.quantizer.encode(self._branches(self.latents(x)))
        extent = torch.tensor(x.shape[-2:], device=x.device).expand(len(x), 2)
        return Tokens(self._outer(codes)[..., :num_tokens], extent=extent)

    @torch.no_grad()
    def decode(self, tokens: Tokens | Tensor, *, condition: Tensor | None = None) -> Tensor:
        """Turn tokens into pictures (B, 3, S, S) in [-1, 1].

        Args:
            tokens: `Tokens` or bare codes; over scales a prefix of whole ones.
            condition: nothing that this tokenizer takes.

        Raises:
            TokenError: codes that do not fit ``spec``, end inside a scale, or carry another size.
        """
        return self.decode_latents(self.embed(tokens), condition=condition)

    def embed(
        self, tokens: Tokens | Tensor, *, stream: str | None = None, upto: int | None = None
    ) -> Tensor:
        """Return the code vectors (B, P C, g, g); over scales the sum of the first ``upto``.

        `Tokens.lengths` gives every item whole scales of its own.

        Raises:
            TokenError: codes, lengths or a size that do not fit, a stream, too many scales.
        """
        codes, lengths, extent = as_tokens(tokens)
        if stream is not None:
            raise TokenError(f"stream '{stream}' was asked for; this tokenizer has only one.")
        self.spec.check(codes)
        size = self.settings.image_size
        if extent is not None and bool((extent != size).any()):
            raise TokenError(
                f"the tokens carry the size {extent[0].tolist()} but this network paints {size} x "
                f"{size}; drop the extent and restore the size afterwards."
            )
        if lengths is None or not len(codes):
            return self.quantizer.lookup(self._inner(codes), upto)
        if self.quantizer.scales is None:
            raise TokenError("a grid tokenizer decodes every cell; leave the lengths out.")
        if lengths.shape != codes.shape[:1]:
            raise TokenError(
                f"lengths of shape {tuple(lengths.shape)} came in for {len(codes)} items; give one "
                "per item."
            )
        each = zip(codes, lengths.tolist(), strict=True)
        return torch.cat([self.embed(item[None, ..., :n], upto=upto) for item, n in each])

    def at_resolution(self, image_size: int) -> Self:
        """Return this model for pictures of another size, sharing its weights.

        Positions are resized as timm does; the number of codes stays.

        Args:
            image_size: side in pixels, a multiple of ``patch_size``.

        Raises:
            ConfigError: it is not.

        Example:
            >>> larger = tokenizer.at_resolution(384)
        """
        known = {k: v for k, v in self.config.items() if not k.startswith("_")}
        with torch.device("meta"):
            model = type(self)(**known | {"image_size": image_size})
        model.load_state_dict(self.state_dict(keep_vars=True), assign=True)
        return model.train(self.training)

    # -- training ------------------------------------------------------------------------------

    def forward(
        self, x: Tensor, *, tokens: Tokens | None = None, teacher_feature: Tensor | None = None
    ) -> TrainingOutput:
        """Reconstruct for training, not clamped.

        Args:
            x: (B, 3, S, S) in [-1, 1].
            tokens: given, the encoder is skipped and only the decoder trains.
            teacher_feature: (B, T) of the same pictures, T the encoder's width. Then ``features``
                holds, for the items that quantizer dropout did not choose (B'),
                ``semantic_tokens`` (branches, B', C), the spatial mean of the clean quantized
                latents, ``semantic_tokens_perturbed``, the same of what the decoder saw, and
                ``semantic_teacher`` (B', C), the teacher's feature through ``quant_conv``.

        Returns:
            Picture, tokens, the quantizer's losses (0 while nothing that decides codes trains), its
            statistics, and in training ``features["last_layer"]``, the decoder's last weight.

        Raises:
            ConfigError: a teacher of another width than the encoder.
        """
        features: dict[str, Tensor] = {}
        losses: dict[str, Tensor] = {}
        statistics: dict[str, Tensor] = {}
        if tokens is not None:
            z = self.embed(tokens)
        else:
            with self.code_gradients():
                raw = self.latents(x)
            quantized = self.quantizer(self._branches(raw))
            z, found, features = decoder_latents(self, quantized, self.quantizer.lookup)
            tokens, statistics = Tokens(self._outer(quantized.codes)), self._named(found)
            losses = self.code_losses(quantized.losses)
            if PERTURBED_CODES in features:
                features[PERTURBED_CODES] = self._outer(features[PERTURBED_CODES])
            if teacher_feature is not None:
                features |= self._semantic(quantized, z, teacher_feature)
        if self.training:
            features[LAST_LAYER] = self.decoder.to_pixel.weight
        return TrainingOutput(self._paint(z), tokens, losses, statistics, features=features)

    def _semantic(
        self, clean: Quantized, seen: Tensor, teacher: Tensor
    ) -> dict[str, Tensor]:
        """Return what the semantic loss compares; see `forward`."""
        width = self.quant_conv.in_channels
        if teacher.shape[1:] != (width,):
            raise ConfigError(
                f"the teacher's feature has shape {tuple(teacher.shape)} but quant_conv projects "
                f"{width} features; choose a teacher {width} wide, or give the encoder its width."
            )
        kept = slice(None) if clean.dropped is None else ~clean.dropped
        projected = self._projected(teacher[:, None])[:, :, 0].float()
        return {
            SEMANTIC_TOKENS: self._pooled(clean.latents)[:, kept],
            SEMANTIC_PERTURBED: self._pooled(seen)[:, kept],
            SEMANTIC_TEACHER: projected[kept],
        }

    def _pooled(self, z: Tensor) -> Tensor:
        """Return the spatial means (branches, B, C) of (B, P C, g, g) for the semantic loss."""
        pooled = self._branches(z).mean((3, 4)).transpose(0, 1)
        return pooled if self.settings.semantic_branches == "all" else pooled[-1:]

    def _projected(self, rows: Tensor) -> Tensor:
        """Map features (B, L, W) through ``quant_conv`` to (B, C, L)."""
        return self.quant_conv(rows.transpose(1, 2)[..., None])[..., 0]

    def _branches(self, z: Tensor) -> Tensor:
        """View (B, P C, g, g) as (B, P, C, g, g) float32."""
        return z.float().unflatten(1, (self.settings.branches, -1))

    def _paint(self, z: Tensor) -> Tensor:
        z = z.to(self.post_quant_conv.weight.dtype)
        return self.decoder(self.post_quant_conv(z).flatten(2).transpose(1, 2))

    def _outer(self, codes: Tensor) -> Tensor:
        """Codes as the contract has them: one branch has no axis."""
        return codes[:, 0] if self.settings.branches == 1 else codes

    def _inner(self, codes: Tensor) -> Tensor:
        """Codes as the quantizer has them."""
        return codes[:, None] if self.settings.branches == 1 else codes

    def _named(self, statistics: dict[str, Tensor]) -> dict[str, Tensor]:
        """Leave out the names of the branch where there is one alone."""
        if self.settings.branches > 1:
            return statistics
        counts = {n: t[0] for n, t in statistics.items() if n == "codebook/counts"}
        return {n: t for n, t in statistics.items() if "/branch" not in n} | counts


def _quantizer(settings: RobusTokConfig, l2_normalize: bool) -> ProductQuantizer:
    """Return one quantizer per branch, side by side."""
    options = {
        name: value for name, value in vars(settings.options).items()
        if name not in ("dropout", "start_drop")
    }  # fmt: skip
    sizes = (settings.codebook_size, settings.code_dim)
    scales = None if settings.scales is None else settings.scales.sizes
    branches: list[nn.Module] = []
    for _ in range(settings.branches):
        if settings.kind == "vector":
            branches.append(VectorQuantizer(*sizes, l2_normalize=l2_normalize, **options))
        elif settings.kind == "multi_scale":
            assert scales is not None
            branches.append(MultiScaleQuantizer(*sizes, scales, cosine=l2_normalize, **options))
        else:
            branches.append(BinarySphericalQuantizer(*sizes, scales, **options))
    return ProductQuantizer(branches, dropout=settings.dropout)
