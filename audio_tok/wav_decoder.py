"""From codes to a waveform: the half of the codec that a language model needs.

    codes (B, Q, F) --lookup--> z (B, D, F) --backbone, head--> wave (B, 1, T)

Letters: B batch, Q levels, q kept levels, F frames, D latent width, T samples.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from audio_tok.latent_synthesis import LatentSynthesis
from audio_tok.length_groups import length_groups
from audio_tok.wav_tokenizer_config import WavDecoderConfig, parse_decoder_config
from tok_core.codebook import Codebook
from tok_core.contract import Tokenizer, Tokens, as_tokens
from tok_core.errors import TokenError
from tok_core.residual_quantizer import ResidualQuantizer
from tok_core.token_spec import Axis, TokenSpec


class WavSynthesis(LatentSynthesis, Tokenizer):
    """What every codec of the family does with its codes.

    Subclasses call `build_synthesis` and give `sound_latents`, `embed` and `codebooks`.
    """

    _keep_in_fp32_modules = ["quantizer", "head"]

    def build_synthesis(self, config: WavDecoderConfig, quantizer: nn.Module) -> None:
        """Take the codebooks, make the backbone and the head."""
        # Past __setattr__ and with a property of its own: diffusers answers an attribute that is
        # also a config key (the quantizer's options) with the config.
        self._modules["quantizer"] = quantizer
        self.build_backbone(config)

    # -- what it is ----------------------------------------------------------------------------

    @property
    def spec(self) -> TokenSpec:
        """Q levels by F frames; fewer levels are legal, they are the budget."""
        levels, rate = self.settings.num_codebooks, self.settings.sample_rate
        return TokenSpec(
            modality="audio",
            axes=(Axis(name="level", size=levels), Axis(name="time")),
            vocabulary=(self.settings.codebook_size,) * levels,
            input_rate=rate,
            output_rate=rate,
            token_rate=self.settings.token_rate,
        )

    # -- codes to sound ------------------------------------------------------------------------

    def sound_latents(self, codes: Tensor) -> Tensor:
        """Return what the backbone reads, (B, F, D), of codes (B, q, F)."""
        raise TypeError(f"{type(self).__name__} does not define sound_latents")

    @torch.no_grad()
    def decode(self, tokens: Tokens | Tensor, *, condition: Tensor | None = None) -> Tensor:
        """Turn tokens into sound, each item exactly as long as what was encoded.

        Items whose ``lengths`` differ are decoded in groups of equal length, so that each gives
        what it gives alone.

        Args:
            tokens: codes (B, q, F), q from 1 to Q; `Tokens.lengths` valid frames and
                `Tokens.extent` samples (B, 1) per item. Bare codes give F * hop samples.
            condition: as in `decode_latents`.

        Returns:
            (B, 1, T) in [-1, 1], T the largest extent; zeros behind an item that is shorter.

        Raises:
            TokenError: codes that do not fit ``spec``, lengths or extents out of range.
        """
        tokens = as_tokens(tokens)
        frames, samples = self._sizes(tokens)
        longest = int(samples.max())
        codes = self._valid_codes(tokens)
        if int(frames.min()) == int(frames.max()):
            z = self.sound_latents(codes[..., : int(frames[0])])
            wave = self.synthesise(z, condition)[..., :longest].clamp(-1, 1).float()
        else:
            wave = torch.zeros(len(codes), 1, longest, device=codes.device)
            for count, items in length_groups(frames):
                z = self.sound_latents(codes[items, :, :count])
                row = condition
                if condition is not None and len(condition) > 1:
                    row = condition[items.to(condition.device)]
                part = self.synthesise(z, row)[..., :longest].clamp(-1, 1)
                wave[items, :, : part.shape[-1]] = part.float()
        if int(samples.min()) < longest:
            behind = torch.arange(longest, device=wave.device) >= samples[:, None]
            wave = wave.masked_fill(behind[:, None], 0.0)
        return wave

    def _embedded(
        self, tokens: Tokens | Tensor, lookup: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return (B, D, F), zero behind an item's frames, of what ``lookup`` makes of codes."""
        tokens = as_tokens(tokens)
        frames = self._sizes(tokens)[0]
        codes = self._valid_codes(tokens)
        z = lookup(codes).transpose(1, 2)
        if int(frames.min()) == codes.shape[-1]:
            return z
        return z * (torch.arange(codes.shape[-1], device=z.device) < frames[:, None])[:, None]

    def _valid_codes(self, tokens: Tokens) -> Tensor:
        """Return checked codes; what lies behind an item's length is padding and becomes 0."""
        codes = tokens.codes
        if tokens.lengths is not None:
            lengths = tokens.lengths.to(codes.device)[:, None]
            behind = torch.arange(codes.shape[-1], device=codes.device) >= lengths
            codes = codes.masked_fill(behind[:, None], 0)
        self.spec.check(codes)
        return codes

    def _sizes(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Return frames and samples of each item, (B,) each, checked against the codes."""
        codes, lengths, extent = tokens
        self.spec.sizes_of(codes)
        batch, most = codes.shape[0], codes.shape[-1]
        if not batch:
            raise TokenError("an empty batch came in; give codes of at least one item.")
        frames = torch.full((batch,), most) if lengths is None else lengths
        if frames.shape != (batch,) or int(frames.min()) < 1 or int(frames.max()) > most:
            raise TokenError(
                f"lengths are {frames.tolist()} for {batch} items of {most} frames; legal is one "
                f"number from 1 to {most} for each item."
            )
        frames = frames.to(codes.device)
        samples = frames * self.hop if extent is None else extent.to(codes.device).reshape(-1)
        fits = samples.shape == (batch,)
        if not fits or int(samples.min()) < 1 or bool((samples > frames * self.hop).any()):
            raise TokenError(
                f"the extent is {samples.tolist()} samples for {frames.tolist()} frames of "
                f"{self.hop} samples; legal is one number from 1 to frames times hop for each item."
            )
        return frames, samples

    # -- the decoder alone ---------------------------------------------------------------------

    @property
    def unit_codes(self) -> bool:
        """Whether the vectors that the backbone reads are brought to unit length."""
        return self.codebooks[0].metric == "cosine"

    def decoder_state(self) -> dict[str, Tensor]:
        """Return tensors by the names that they have in a `WavDecoder`, and others."""
        return self.state_dict()


class LevelSynthesis(WavSynthesis):
    """Codes of Q levels whose vectors are summed: `WavDecoder` and `WavTokenizer`."""

    @property
    def quantizer(self) -> ResidualQuantizer:
        """The codebooks."""
        part = self._modules["quantizer"]
        assert isinstance(part, ResidualQuantizer)
        return part

    @property
    def codebooks(self) -> tuple[Codebook, ...]:
        """One table per level."""
        levels = [self.quantizer.level(i) for i in range(self.settings.num_codebooks)]
        return tuple(
            Codebook(level.vectors, "cosine" if level.l2_normalize else "l2") for level in levels
        )

    def sound_latents(self, codes: Tensor) -> Tensor:
        """Return the summed vectors (B, F, D) of codes (B, q, F)."""
        return self.quantizer.lookup(codes.transpose(1, 2))

    def embed(
        self, tokens: Tokens | Tensor, *, stream: str | None = None, upto: int | None = None
    ) -> Tensor:
        """Return the quantized latents (B, D, F); zero behind an item with fewer frames.

        Args:
            tokens: codes (B, q, F).
            stream: this family has none; leave it out.
            upto: sum the levels below this number only.

        Raises:
            TokenError: codes that do not fit ``spec``, or an argument that does not apply.
        """
        if stream is not None:
            raise TokenError(f"stream is '{stream}' but this codec has none; leave it out.")
        return self._embedded(
            tokens, lambda codes: self.quantizer.lookup(codes.transpose(1, 2), upto)
        )


class WavDecoder(LevelSynthesis):
    """Decoder and codebook alone: codes in, sound out; it cannot encode.

    Args:
        sample_rate, hop, latent_dim, codebook_size, num_codebooks, width, hidden, layers,
            attention, condition_ids, dropout, n_fft, magnitude_clip, causal, attention_window:
            see `audio_tok.wav_tokenizer_config.WavDecoderConfig`; n_fft None is four times the hop.
        l2_normalize: of the quantizer.
        source_code_hash: `code_hash` of the tokenizer it was taken from; it decodes the same codes.

    Raises:
        ConfigError: illegal values, or options that exclude each other.

    Example:
        >>> save_decoder(tokenizer, "decoder")  # doctest: +SKIP
        >>> WavDecoder.from_pretrained("decoder")(codes).shape  # codes (1, 1, 75)  # doctest: +SKIP
        torch.Size([1, 1, 24000])
    """

    code_prefixes = ("quantizer.",)
    code_config = ("hop", "l2_normalize")

    @register_to_config
    def __init__(
        self,
        sample_rate: int = 24000,
        hop: int = 320,
        latent_dim: int = 512,
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
        l2_normalize: bool = False,
        source_code_hash: str | None = None,
    ) -> None:
        values = {name: value for name, value in locals().items() if name != "l2_normalize"}
        config = parse_decoder_config(values)
        super().__init__()
        levels = ResidualQuantizer(
            num_codebooks, codebook_size, latent_dim, l2_normalize=l2_normalize
        )
        self.build_synthesis(config, levels)

    def forward(self, codes: Tensor) -> Tensor:
        """Turn codes (B, q, F) into sound (B, 1, F * hop) in [-1, 1]."""
        return self.decode(codes)

    def code_hash(self) -> str:
        """Return the hash of the tokenizer it came from, whose codes it decodes."""
        return self.config["source_code_hash"] or super().code_hash()


def decoder_of(tokenizer: WavSynthesis) -> WavDecoder:
    """Return decoder and codebooks of a codec as a model of its own (tensors are shared)."""
    settings: dict[str, Any] = {
        name: getattr(tokenizer.settings, name) for name in WavDecoderConfig.__dataclass_fields__
    }
    with torch.device("meta"):
        decoder = WavDecoder(
            **settings, l2_normalize=tokenizer.unit_codes,
            source_code_hash=tokenizer.code_hash(),
        )  # fmt: skip
    state = tokenizer.decoder_state()
    decoder.load_state_dict({name: state[name] for name in decoder.state_dict()}, assign=True)
    return decoder.eval()


def save_decoder(tokenizer: WavSynthesis, folder: str | Path) -> None:
    """Save decoder and codebooks alone, as a folder that `WavDecoder.from_pretrained` loads.

    Args:
        tokenizer: any codec of the family.
        folder: made if missing.

    Example:
        >>> save_decoder(WavTokenizer.from_pretrained("runs/speech/model"), "out")  # doctest: +SKIP
    """
    decoder_of(tokenizer).save_pretrained(folder)
