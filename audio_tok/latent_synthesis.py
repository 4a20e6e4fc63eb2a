"""From latents to a waveform: backbone and head, for codecs with codes and without.

    z (B, D, F) --backbone, head--> wave (B, 1, F * hop)

Letters: B batch, F frames, D latent width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from audio_tok.istft_head import ISTFTHead
from audio_tok.vocos_backbone import VocosBackbone
from audio_tok.wav_tokenizer_config import WavDecoderConfig
from tok_core.contract import Autoencoder


class LatentSynthesis(Autoencoder):
    """The decoder that all codecs of the family share; subclasses call `build_backbone`."""

    _keep_in_fp32_modules = ["head"]
    settings: WavDecoderConfig

    def build_backbone(self, config: WavDecoderConfig) -> None:
        """Make the backbone and the head."""
        self.settings = config
        self.backbone = VocosBackbone(
            config.latent_dim, config.width, config.hidden, config.layers,
            attention=config.attention, condition_ids=config.condition_ids,
            dropout=config.dropout, causal=config.causal,
            attention_window=config.attention_window,
        )  # fmt: skip
        self.head = ISTFTHead(
            config.width, config.hop, config.n_fft, magnitude_clip=config.magnitude_clip
        )

    @property
    def hop(self) -> int:
        """Samples per frame."""
        return self.settings.hop

    @property
    def sample_rate(self) -> int:
        """Samples per second, in and out."""
        return self.settings.sample_rate

    def decode_latents(self, z: Tensor, *, condition: Tensor | None = None) -> Tensor:
        """Map latents to sound, in [-1, 1].

        Args:
            z: (B, D, F).
            condition: int64 (1,) or (B,) rows of the adaptive norms; None is row 0, as the
                published models are meant to be used.

        Returns:
            (B, 1, F * hop).
        """
        return self.synthesise(z.transpose(1, 2), condition).clamp(-1, 1)

    def synthesise(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map latents (B, F, D) to sound (B, 1, F * hop), not clamped."""
        row = z.new_zeros(1, dtype=torch.int64) if condition is None else condition.to(z.device)
        features = self.backbone(z.to(self.backbone.embed.weight.dtype), row)
        return self.head(features)[:, None]

    def draw_row(self, x: Tensor) -> Tensor:
        """Return the row (1,) of the adaptive norms for a training pass: a random one, else 0."""
        rows = self.settings.condition_ids
        if not self.training or rows == 1:
            return torch.zeros(1, dtype=torch.int64, device=x.device)
        # From the CPU generator: the same draw on every device.
        return torch.randint(rows, (1,)).to(x.device)
