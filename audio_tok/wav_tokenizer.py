"""WavTokenizer: one second of sound as 40 or 75 tokens.

    x (B, 1, T) --encoder--> z (B, D, F) --quantizer--> codes (B, Q, F) --backbone, head--> x^

Ji et al. 2024, arXiv 2408.16532 (published with Q = 1).  Letters: B batch, T samples, F frames,
ceil(T / hop) of them, D latent width, Q codebook levels, q kept levels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from audio_tok.seanet_encoder import SeanetEncoder
from audio_tok.wav_decoder import LevelSynthesis
from audio_tok.wav_encoding import WavEncoding
from audio_tok.wav_tokenizer_config import WavTokenizerConfig, parse_config
from tok_core.contract import Tokens, TrainingOutput
from tok_core.latent_perturbation import replace_latents
from tok_core.residual_quantizer import ResidualQuantizer
from tok_core.tail_drop import TailDrop, prefix_mask
from tok_core.training_perturbation import PERTURBED_CODES, decoder_latents
from tok_core.vector_quantizer import Quantized


class WavTokenizer(WavEncoding, LevelSynthesis):
    """Neural audio codec with few tokens per second.

    Args:
        sample_rate: in Hz, mono.
        strides: of the encoder in order of execution; their product is the hop.
        encoder_width: channels of its first convolution. latent_dim: D. lstm_layers: 0 for none.
        codebook_size: codes per level. num_codebooks: Q.
        width, hidden, layers: of the ConvNeXt blocks. attention: with the position net.
        condition_ids: rows of the adaptive norms, drawn at random in training; row 0 at inference.
        dropout: inside the position net. n_fft: of the head, None for four times the hop.
        magnitude_clip: largest magnitude of a bin.
        causal: nothing depends on later samples than the head's window needs, so that it can run on
            a stream; needs training of its own. attention_window: frames back, needed then.
        quantizer: see `audio_tok.wav_tokenizer_config.AudioQuantizerOptions`.
        tail_drop: options of `tok_core.tail_drop.TailDrop` along the levels; None trains all.

    Raises:
        ConfigError: unknown options, illegal values, options that exclude each other.

    Example:
        >>> codec = WavTokenizer()
        >>> tokens = codec.eval().encode(torch.zeros(1, 1, 24000))
        >>> tokens.codes.shape, codec.decode(tokens).shape
        (torch.Size([1, 1, 75]), torch.Size([1, 1, 24000]))
    """

    settings: WavTokenizerConfig
    code_prefixes = ("encoder.", "quantizer.")
    code_config = ("sample_rate", "strides", "causal")

    @register_to_config
    def __init__(
        self,
        sample_rate: int = 24000,
        strides: list[int] | tuple[int, ...] = (2, 4, 5, 8),
        encoder_width: int = 32,
        latent_dim: int = 512,
        lstm_layers: int = 2,
        codebook_size: int = 4096,
        num_codebooks: int = 1,
        width: int = 768,
        hidden: int = 2304,
        layers: int = 12,
        attention: bool = True,
        condition_ids: int = 4,
        dropout: float = 0.1,
        n_fft: int | None = None,
        magnitude_clip: float = 100.0,
        causal: bool = False,
        attention_window: int | None = None,
        quantizer: dict[str, Any] | None = None,
        tail_drop: dict[str, Any] | None = None,
    ) -> None:
        config = parse_config(locals())
        super().__init__()
        self.encoder = SeanetEncoder(
            encoder_width, config.strides, latent_dim, lstm_layers=lstm_layers, causal=causal
        )
        drop = config.tail_drop
        levels = ResidualQuantizer(
            num_codebooks, codebook_size, latent_dim,
            tail_drop=None if drop is None else TailDrop(num_codebooks, **vars(drop)),
            **vars(config.quantizer),
        )  # fmt: skip
        self.build_synthesis(config, levels)
        self.register_to_config(
            strides=list(config.strides), n_fft=config.n_fft, quantizer=dict(vars(config.quantizer))
        )

    def code_hash(self) -> str:
        """Return the hash over encoder, quantizer and tables (64 hex digits)."""
        digest = super().code_hash()
        if not self.settings.quantizer.l2_normalize:
            return digest
        return hashlib.sha256(f"{digest} l2_normalize".encode()).hexdigest()

    # -- sound to tokens -----------------------------------------------------------------------

    def latents(self, x: Tensor) -> Tensor:
        """Map sound (B, 1, T), T at least 1, to latents (B, D, F) as the quantizer measures them.

        Raises:
            MediaError: another shape, or no samples.
        """
        return self.quantizer.measured(self.frames_of(x)[0]).transpose(1, 2)

    @property
    def encoders(self) -> tuple[SeanetEncoder, ...]:
        """The only one."""
        return (self.encoder,)

    def codes_of_frames(self, frames: Sequence[Tensor], num_tokens: int | None = None) -> Tensor:
        """Return codes (B, q, F) of the encoder's frames (B, F, D)."""
        return self.quantizer.encode(frames[0], num_tokens).transpose(1, 2)

    # -- training ------------------------------------------------------------------------------

    def forward(
        self, x: Tensor, *, tokens: Tokens | None = None, condition: Tensor | None = None
    ) -> TrainingOutput:
        """Reconstruct for training.

        Args:
            x: (B, 1, T) in [-1, 1].
            tokens: given, the encoder is skipped and only the decoder trains.
            condition: int64 (1,) or (B,) rows of the adaptive norms; None draws one row for the
                batch in training (as the published models were trained) and takes row 0 otherwise.

        Returns:
            The sound (B, 1, T), not clamped; the codes; the quantizer's losses; ``shortened`` from
            a prefix of the levels where ``tail_drop`` trains jointly.
        """
        row = self.draw_row(x) if condition is None else condition
        if tokens is not None:
            z = self.embed(tokens).transpose(1, 2)
            return TrainingOutput(self._sound(z, row, x), tokens, {}, {})
        frames = self.frames_of(x)[0]
        parts, quantized = self.quantizer.forward_levels(frames)
        extent = torch.full((len(x), 1), x.shape[-1], device=x.device)
        used = Tokens(quantized.codes.transpose(1, 2), extent=extent)
        z, statistics, features = decoder_latents(self, quantized, self.quantizer.lookup)
        shortened, drop = None, self.quantizer.tail_drop
        if self.training and drop is not None:
            levels = drop.draw_lengths(len(x))
            kept = self.quantizer.kept(frames, parts, levels)
            if PERTURBED_CODES in features:
                kept = self._perturbed(kept, quantized, features[PERTURBED_CODES], levels)
            if drop.joint:
                shortened = self._sound(kept, row, x)
            else:
                z = kept
        if PERTURBED_CODES in features:
            features[PERTURBED_CODES] = features[PERTURBED_CODES].transpose(1, 2)
        sound = self._sound(z, row, x)
        return TrainingOutput(sound, used, quantized.losses, statistics, shortened, features)

    def _perturbed(
        self, kept: Tensor, quantized: Quantized, new: Tensor, levels: Tensor
    ) -> Tensor:
        """Exchange codes in the sum of the first ``levels`` (B,) of each item."""
        inside = prefix_mask(levels.to(new.device), new.shape[-1])[:, None]
        new = torch.where(inside, new, quantized.codes)
        return replace_latents(
            kept, quantized.codes, new, self.quantizer.lookup, straight=quantized.straight
        )

    def _sound(self, z: Tensor, row: Tensor, x: Tensor) -> Tensor:
        return self.synthesise(z, row)[..., : x.shape[-1]]
