"""Continuous codec of sound with Gaussian latents: the codec's two ends, no codebook between.

    x (B, 1, T) --encoder--> mean, log-variance --sample--> z (B, D, F) --backbone, head--> x^

Encoder and decoder are those of WavTokenizer (Ji et al. 2024, arXiv 2408.16532); the bottleneck is
that of a variational autoencoder (Kingma and Welling 2013, arXiv 1312.6114).  Letters: B batch, T
samples, F frames, ceil(T / hop) of them, D latent width.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from audio_tok.kl_codec_config import KLCodecConfig, check_kl_weight, parse_kl_codec
from audio_tok.latent_synthesis import LatentSynthesis
from audio_tok.length_groups import checked_sound
from audio_tok.seanet_encoder import SeanetEncoder
from tok_core.contract import Tokens, TrainingOutput
from tok_core.gaussian_posterior import GaussianPosterior


class KLBottleneck(LatentSynthesis):
    """Encoder, posterior and decoder: `KLCodec`, and the tokenizer that is made of one."""

    settings: KLCodecConfig
    code_prefixes = ("encoder.",)

    def build_network(self, config: KLCodecConfig) -> None:
        """Make the encoder, which says mean and log-variance of D numbers, and the decoder."""
        self.encoder = SeanetEncoder(
            config.encoder_width, config.strides, 2 * config.latent_dim,
            lstm_layers=config.lstm_layers, causal=config.causal,
        )  # fmt: skip
        self.build_backbone(config)

    def posterior(self, x: Tensor) -> GaussianPosterior:
        """Return the Gaussian (B, D, F) of sound (B, 1, T) in [-1, 1], in float32.

        Raises:
            MediaError: another shape, or no samples.
        """
        sound = checked_sound(x).transpose(1, 2).to(self.encoder.first.weight.dtype)
        return self.posterior_of_frames(self.encoder(sound))

    def posterior_of_frames(self, frames: Tensor) -> GaussianPosterior:
        """Return the Gaussian (B, D, F) of what the encoder says, (B, F, 2 D)."""
        return GaussianPosterior.of(frames.transpose(1, 2), axis=1)


class KLCodec(KLBottleneck):
    """Codec whose latents are continuous; `audio_tok.dimension_wise_codec` makes tokens of them.

    Args:
        sample_rate: in Hz, mono.
        strides: of the encoder in order of execution; their product is the hop.
        encoder_width: channels of its first convolution. latent_dim: D. lstm_layers: 0 for none.
        width, hidden, layers, attention, condition_ids, dropout, n_fft, magnitude_clip, causal,
            attention_window: of the decoder, see `audio_tok.wav_tokenizer.WavTokenizer`.
        kl_weight: of the divergence in `forward`, which is summed over a frame's D latents.

    Raises:
        ConfigError: illegal values, options that exclude each other.

    Example:
        >>> codec = KLCodec(latent_dim=16).eval()
        >>> codec.latents(torch.zeros(1, 1, 24000)).shape
        torch.Size([1, 16, 75])
    """

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
        kl_weight: float = 1e-2,
    ) -> None:
        config = parse_kl_codec(locals())
        check_kl_weight(kl_weight)
        super().__init__()
        self.build_network(config)
        self.register_to_config(strides=list(config.strides), n_fft=config.n_fft)

    def latents(
        self, x: Tensor, *, sample: bool = False, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return latents (B, D, F), as the encoder gives them.

        Args:
            x: (B, 1, T) in [-1, 1].
            sample: draw from the posterior; the default is its mean. generator: for the draw.

        Raises:
            MediaError: another shape, or no samples.
        """
        posterior = self.posterior(x)
        return posterior.sample(generator=generator) if sample else posterior.mean

    def forward(
        self, x: Tensor, *, latents: Tensor | None = None, condition: Tensor | None = None
    ) -> TrainingOutput:
        """Reconstruct from a sample for training.

        Args:
            x: (B, 1, T) in [-1, 1].
            latents: (B, D, F); given, the encoder is skipped.
            condition: as `WavTokenizer.forward`.

        Returns:
            The sound (B, 1, T), not clamped; no codes; ``losses["posterior/kl"]`` (weighted; summed
            over the latents of a frame, mean over frames and batch), in statistics the same
            unweighted and the standard deviation of the latents' means.
        """
        row = self.draw_row(x) if condition is None else condition
        losses: dict[str, Tensor] = {}
        statistics: dict[str, Tensor] = {}
        if latents is None:
            posterior = self.posterior(x)
            latents = posterior.sample()
            divergence = posterior.kl(axis=1).mean()
            losses = {"posterior/kl": self.config["kl_weight"] * divergence}
            statistics = {
                "posterior/kl": divergence.detach(), "posterior/std": posterior.mean.detach().std()
            }  # fmt: skip
        sound = self.synthesise(latents.transpose(1, 2), row)[..., : x.shape[-1]]
        empty = Tokens(torch.empty(len(x), 0, dtype=torch.int64, device=x.device))
        return TrainingOutput(sound, empty, losses, statistics)


def network_values(codec: KLBottleneck) -> dict[str, Any]:
    """Return the options of the network as plain JSON, as both classes take them."""
    from audio_tok.kl_codec_config import NETWORK

    return {name: codec.config[name] for name in NETWORK}
