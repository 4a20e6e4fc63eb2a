"""MaskGIT-VQGAN: the f16 convolutional tokenizer that teaches TiTok its proxy codes.

    image --encoder--> hidden (B, Z, h, w) --nearest code--> codes (B, h, w) --decoder--> image

Letters: B batch, H W pixels, h w grid, Z latent channels, K codes, F = 2 ** (levels - 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor
from torch.nn import functional as F

from tok_core.codebook import Codebook
from tok_core.contract import Tokenizer, Tokens, TrainingOutput, as_tokens
from tok_core.errors import ConfigError, TokenError
from tok_core.official_source import OfficialSource
from tok_core.token_spec import Axis, TokenSpec
from tok_core.training_perturbation import decoder_latents
from tok_core.vector_quantizer import VectorQuantizer
from vision_tok.maskgit_networks import GROUPS, MaskGitDecoder, MaskGitEncoder


class MaskGitVQGAN(OfficialSource, Tokenizer):
    """Fully convolutional grid tokenizer (Chang et al., arXiv 2202.04200; TiTok's teacher).

    Args:
        hidden_channels: width of the finest level, a multiple of 32 times every multiplier.
        channel_mult: width of every level over ``hidden_channels``; F follows from their number.
        num_res_blocks: residual blocks per level.
        z_channels: Z.
        codebook_size: K.
        codebook_weight: of the loss that moves the codes; this model reverses the usual weights:
            0.25 here, 1 on the commitment.

    Raises:
        ConfigError: widths that the group norms cannot split.

    Example:
        >>> teacher = MaskGitVQGAN.from_pretrained("maskgit-vqgan-imagenet-f16-256.bin")
        >>> teacher.encode(images).codes.shape  # images (B, 3, 256, 256)
        torch.Size([4, 16, 16])
    """

    _keep_in_fp32_modules = ["quantizer"]
    code_prefixes = ("encoder.", "quantizer.")
    official_importer = "vision_tok.import_titok:import_titok"

    @register_to_config
    def __init__(
        self,
        hidden_channels: int = 128,
        channel_mult: Sequence[int] = (1, 1, 2, 2, 4),
        num_res_blocks: int = 2,
        z_channels: int = 256,
        codebook_size: int = 1024,
        codebook_weight: float = 0.25,
    ) -> None:
        super().__init__()
        widths = [hidden_channels * m for m in channel_mult]
        if not widths or any(width % GROUPS for width in widths):
            raise ConfigError(
                f"the levels are {widths} channels wide; every width must be a multiple of {GROUPS}"
            )
        self.factor = 2 ** (len(widths) - 1)
        self.codebook_weight = codebook_weight
        sizes = (hidden_channels, tuple(channel_mult), num_res_blocks, z_channels)
        self.encoder = MaskGitEncoder(*sizes)
        self.quantizer = VectorQuantizer(codebook_size, z_channels, commitment_weight=1.0)
        self.decoder = MaskGitDecoder(*sizes)

    @property
    def spec(self) -> TokenSpec:
        """A free grid of one code per cell."""
        axes = (Axis(name="row"), Axis(name="column"))
        return TokenSpec(
            modality="image", axes=axes, vocabulary=(self.quantizer.codebook_size,)
        )

    @property
    def codebooks(self) -> tuple[Codebook, ...]:
        """The one table."""
        return (Codebook(self.quantizer.vectors, "l2"),)

    def latents(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) in [-1, 1] to (B, Z, h, w), sizes rounded up to whole cells."""
        rows, columns = (-size % self.factor for size in x.shape[-2:])
        if rows or columns:
            x = F.pad(x, (0, columns, 0, rows), mode="replicate")
        return self.encoder((x + 1) / 2)

    def decode_latents(self, z: Tensor, *, condition: Tensor | None = None) -> Tensor:
        """Map (B, Z, h, w) to a picture (B, 3, F h, F w) in [-1, 1]."""
        return self._paint(z, condition).clamp(-1, 1)

    @torch.no_grad()
    def encode(
        self, x: Tensor, *, lengths: Tensor | None = None, num_tokens: int | None = None
    ) -> Tokens:
        """Return codes (B, h, w) and the extent; a grid has no budget, so leave both options."""
        if num_tokens is not None or lengths is not None:
            raise TokenError("a grid tokenizer codes every cell; leave num_tokens and lengths out.")
        codes = self.quantizer.encode(self.latents(x).movedim(1, -1))
        extent = torch.tensor(x.shape[-2:], device=x.device).expand(len(x), 2)
        return Tokens(codes, extent=extent)

    @torch.no_grad()
    def decode(self, tokens: Tokens | Tensor, *, condition: Tensor | None = None) -> Tensor:
        """Return pictures of the size that went in, or of F pixels per cell for bare codes."""
        tokens = as_tokens(tokens)
        self.spec.check(tokens.codes)
        picture = self.decode_latents(self.embed(tokens), condition=condition)
        if tokens.extent is None or not len(tokens.extent):
            return picture
        height, width = (int(size) for size in tokens.extent.amax(0))
        if (tokens.extent != tokens.extent[0]).any():
            raise TokenError("the pictures of one batch differ in size; decode them one by one.")
        return picture[..., :height, :width]

    def embed(
        self, tokens: Tokens | Tensor, *, stream: str | None = None, upto: int | None = None
    ) -> Tensor:
        """Return the code vectors (B, Z, h, w)."""
        return self.quantizer.lookup(as_tokens(tokens).codes).movedim(-1, 1)

    @torch.no_grad()
    def soft_codes(self, x: Tensor, temperature: float = 1.0) -> Tensor:
        """Return softmax(-squared distance / temperature) over the codes, (B, h, w, K)."""
        z = self.latents(x).movedim(1, -1).float()
        table = self.quantizer.vectors
        cross = z @ table.t()
        distance = z.square().sum(-1, keepdim=True) - 2 * cross + table.square().sum(-1)
        return torch.softmax(-distance / temperature, dim=-1)

    def forward(self, x: Tensor, *, tokens: Tokens | None = None) -> TrainingOutput:
        """Reconstruct for training, not clamped."""
        if tokens is not None:
            picture = self._paint(self.embed(tokens), None)[..., : x.shape[-2], : x.shape[-1]]
            return TrainingOutput(picture, tokens, {}, {})
        quantized = self.quantizer(self.latents(x).movedim(1, -1))
        out = decoder_latents(self, quantized, self.quantizer.lookup)
        picture = self._paint(out.latents.movedim(-1, 1), None)
        losses: dict[str, Any] = dict(quantized.losses)
        losses["quantizer/codebook"] = self.codebook_weight * losses["quantizer/codebook"]
        picture = picture[..., : x.shape[-2], : x.shape[-1]]
        tokens = Tokens(quantized.codes)
        return TrainingOutput(picture, tokens, losses, out.statistics, features=out.features)

    def _paint(self, z: Tensor, condition: Tensor | None) -> Tensor:
        if condition is not None:
            raise TokenError("this decoder takes no condition; leave it out.")
        return self.decoder(z) * 2 - 1
