"""From a waveform to codes: what every codec of the family that can encode does with sound.

    x (B, 1, T) --every encoder--> frames (B, F, D), one or more --quantizer--> codes (B, q, F)

Subclasses give `encoders` and `codes_of_frames`; whole sounds and streams
(`audio_tok.streaming.StreamEncoder`) then go through the same two.

Letters: B batch, T samples, F frames, D latent width, Q levels, q kept levels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from audio_tok.length_groups import checked_sound, encode_by_length
from audio_tok.seanet_encoder import SeanetEncoder
from audio_tok.wav_decoder import WavSynthesis
from tok_core.contract import Tokens
from tok_core.errors import TokenError


class WavEncoding(WavSynthesis):
    """A codec that turns sound into codes; see the module for what subclasses give."""

    @property
    def encoders(self) -> tuple[SeanetEncoder, ...]:
        """What sees the sound, in the order in which `codes_of_frames` takes what they say."""
        raise TypeError(f"{type(self).__name__} does not define encoders")

    def codes_of_frames(self, frames: Sequence[Tensor], num_tokens: int | None = None) -> Tensor:
        """Return codes (B, q, F) of one float32 (B, F, D) from each of `encoders`."""
        raise TypeError(f"{type(self).__name__} does not define codes_of_frames")

    def frames_of(self, x: Tensor) -> list[Tensor]:
        """Return float32 (B, F, D) of sound (B, 1, T) from each encoder.

        Raises:
            MediaError: another shape, or no samples.
        """
        sound = checked_sound(x).transpose(1, 2)
        return [encoder(sound.to(encoder.first.weight.dtype)).float() for encoder in self.encoders]

    def check_levels(self, num_tokens: int | None) -> None:
        """Raise TokenError unless this is a number of levels that the codec has, or None."""
        total = self.settings.num_codebooks
        if num_tokens is not None and not 1 <= num_tokens <= total:
            raise TokenError(
                f"num_tokens is {num_tokens} codebooks; legal for this model is 1 to {total}."
            )

    @torch.no_grad()
    def encode(
        self, x: Tensor, *, lengths: Tensor | None = None, num_tokens: int | None = None
    ) -> Tokens:
        """Turn sound into codes.

        A padded batch runs in groups of equal length, so that each item gives what it gives alone.

        Args:
            x: (B, 1, T) in [-1, 1].
            lengths: int64 (B,) valid samples of each item, 1 to T; None takes all.
            num_tokens: levels to keep, 1 to Q (``num_codebooks`` in other words); None keeps all.

        Returns:
            codes (B, q, F); lengths (B,) valid frames, given only where ``lengths`` was; extent
            (B, 1) samples. Codes behind an item's frames are 0.

        Raises:
            MediaError: sound of another shape. TokenError: lengths or a budget out of range.
        """
        self.check_levels(num_tokens)

        def codes_of(part: Tensor) -> Tensor:
            return self.codes_of_frames(self.frames_of(part), num_tokens)

        return encode_by_length(x, lengths, self.hop, codes_of)
