"""TiTok with Gaussian latents instead of codes (the VAE variants).

    image --encoder--> mean, log-variance (B, N, C) --sample--> z --decoder--> image

Letters: B batch, S image side, N tokens, C token size.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from tok_core.contract import Tokens, TrainingOutput
from tok_core.gaussian_posterior import GaussianPosterior
from vision_tok.titok_config import parse_config
from vision_tok.titok_network import PROXY_LOGITS, TiTokNetwork

NO_CODES = {
    "codebook_size": 0, "l2_normalize": False, "quantizer_options": None, "tail_drop": None,
}  # fmt: skip


class TiTokKL(TiTokNetwork):
    """1D autoencoder with N Gaussian latents of C channels.

    Args:
        kl_weight: of the divergence in `forward` (official: 1e-6). Everything else as in `TiTok`.

    Raises:
        ConfigError: as `TiTok`.

    Example:
        >>> model = TiTokKL.from_pretrained("yucornetto/tokenizer_titok_bl64_vae_c16_imagenet")
        >>> model.latents(images).shape
        torch.Size([4, 64, 16])
    """

    code_prefixes = ("encoder.", "latent_tokens")

    @register_to_config
    def __init__(
        self,
        image_size: int = 256,
        patch_size: int = 16,
        encoder_size: str | dict[str, Any] = "base",
        decoder_size: str | dict[str, Any] = "large",
        mlp_ratio: float = 4.0,
        layer_norm_eps: float = 1e-5,
        num_tokens: int = 64,
        token_size: int = 16,
        legacy_reshape: bool = False,
        head: str = "direct",
        stem: str = "patch",
        latent_seed: str = "learned",
        conv_channels: list[int] | None = None,
        proxy_codebook_size: int = 1024,
        pixel_decoder: dict[str, Any] | None = None,
        text: dict[str, Any] | None = None,
        kl_weight: float = 1e-6,
    ) -> None:
        values = {k: v for k, v in locals().items() if k != "kl_weight"}
        config = parse_config(values | NO_CODES)
        super().__init__()
        self.kl_weight = kl_weight
        self.build(config, out_channels=2 * token_size)

    def posterior(self, x: Tensor) -> GaussianPosterior:
        """Return the Gaussian (B, N, C) of pictures (B, 3, S, S) in [-1, 1], in float32."""
        return GaussianPosterior.of(self.encode_latents(x), axis=-1)

    def latents(
        self, x: Tensor, *, sample: bool = False, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return latents (B, N, C).

        Args:
            x: (B, 3, S, S) in [-1, 1].
            sample: draw from the posterior, as the official code does even when it encodes; the
                default is its mean, which gives the same latents every time.
            generator: for the draw.
        """
        posterior = self.posterior(x)
        return posterior.sample(generator=generator) if sample else posterior.mean

    def decode_latents(self, z: Tensor, *, condition: Tensor | None = None) -> Tensor:
        """Map latents (B, N, C) to pictures in [-1, 1]."""
        return self.picture(z.to(self.dtype), None, condition).clamp(-1, 1)

    def forward(
        self, x: Tensor, *, latents: Tensor | None = None, condition: Tensor | None = None
    ) -> TrainingOutput:
        """Reconstruct from a sample for training, not clamped.

        Args:
            x: (B, 3, S, S) in [-1, 1].
            latents: (B, N, C); given, the encoder is skipped.
            condition: text features, for a text-aware decoder.

        Returns:
            Picture, no codes, ``losses["posterior/kl"]`` (weighted, summed over tokens).
        """
        losses: dict[str, Tensor] = {}
        statistics: dict[str, Tensor] = {}
        if latents is None:
            posterior = self.posterior(x)
            latents = posterior.sample()
            divergence = posterior.kl().sum() / len(x)
            losses = {"posterior/kl": self.kl_weight * divergence}
            statistics = {"posterior/kl": divergence.detach()}
        picture, logits = self.paint(latents, None, condition)
        empty = Tokens(torch.empty(len(x), 0, dtype=torch.int64, device=x.device))
        features = {} if logits is None else {PROXY_LOGITS: logits}
        return TrainingOutput(picture, empty, losses, statistics, features=features)
