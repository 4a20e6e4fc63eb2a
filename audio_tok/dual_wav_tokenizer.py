"""A codec with a dual codebook: one index per frame says what is heard and how it sounds.

    x (B, 1, T) --semantic encoder--> (B, F, Ds) -+                   +- semantic row --> teacher
                                                  +- shared index --> |
                --acoustic encoder--> (B, F, Da) -+   (B, 1, F)       +- acoustic row --> x^

TokenFlow's idea (Qu et al. 2024, arXiv 2412.03069) on sound.  The semantic half is taught by
`audio_tok.semantic_teacher`; the acoustic half alone becomes sound, for both halves follow from the
same index and the other one could add nothing.

Letters: B batch, T samples, F frames, ceil(T / hop) of them, Ds Da channels of the halves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor
from torch.nn import functional as F

from audio_tok.dual_wav_config import DualWavConfig, parse_dual_config
from audio_tok.seanet_encoder import SeanetEncoder
from audio_tok.semantic_decoder import SemanticDecoder
from audio_tok.semantic_distillation import MOMENTS, PREDICTION
from audio_tok.wav_encoding import WavEncoding
from tok_core.codebook import Codebook
from tok_core.contract import Tokens, TrainingOutput, as_tokens
from tok_core.dual_codebook import DualCodebook
from tok_core.errors import TokenError
from tok_core.token_spec import TokenSpec
from tok_core.training_perturbation import PERTURBED_CODES, decoder_latents

SEMANTIC, ACOUSTIC = "semantic", "acoustic"


class DualWavTokenizer(WavEncoding):
    """Neural audio codec whose tokens have a semantic and an acoustic meaning.

    Args:
        sample_rate: in Hz, mono.
        strides: of both encoders in order of execution; their product is the hop.
        encoder_width: channels of the acoustic encoder's first convolution. lstm_layers: of it.
        acoustic_dim: Da. semantic: see `audio_tok.dual_wav_config.SemanticOptions`.
        codebook_size: rows of each table.
        decoder: see `audio_tok.wav_tokenizer_config.SynthesisOptions`.
        causal: nothing depends on later samples than the head's window needs, so that it can run on
            a stream, both streams of features included; needs training of its own.
        stream_weights: of each half's distance, by name; None weighs both alike.
        quantizer: see `audio_tok.dual_wav_config.DualQuantizerOptions`.

    Raises:
        ConfigError: unknown options, illegal values, options that exclude each other.

    Example:
        >>> codec = DualWavTokenizer().eval()
        >>> tokens = codec.encode(torch.zeros(1, 1, 24000))
        >>> tokens.codes.shape, codec.embed(tokens, stream="semantic").shape
        (torch.Size([1, 1, 75]), torch.Size([1, 32, 75]))
    """

    settings: DualWavConfig
    code_prefixes = ("encoder.", "semantic_encoder.", "quantizer.")
    code_config = ("sample_rate", "strides", "causal", "stream_weights")

    @register_to_config
    def __init__(
        self,
        sample_rate: int = 24000,
        strides: list[int] | tuple[int, ...] = (2, 4, 5, 8),
        encoder_width: int = 32,
        lstm_layers: int = 2,
        acoustic_dim: int = 8,
        semantic: dict[str, Any] | None = None,
        codebook_size: int = 4096,
        decoder: dict[str, Any] | None = None,
        causal: bool = False,
        stream_weights: dict[str, float] | None = None,
        quantizer: dict[str, Any] | None = None,
    ) -> None:
        config = parse_dual_config(locals())
        super().__init__()
        meaning = config.semantic
        self.encoder = SeanetEncoder(
            encoder_width, config.strides, acoustic_dim, lstm_layers=lstm_layers, causal=causal
        )
        self.semantic_encoder = SeanetEncoder(
            meaning.encoder_width, config.strides, meaning.dim, lstm_layers=meaning.lstm_layers,
            causal=causal,
        )  # fmt: skip
        self.semantic_decoder = SemanticDecoder(
            meaning.dim, meaning.features, meaning.width, meaning.hidden, meaning.layers,
            causal=causal,
        )  # fmt: skip
        tables = DualCodebook(
            codebook_size, config.dims, weights=stream_weights, **vars(config.quantizer)
        )
        self.build_synthesis(config, tables)
        self.register_to_config(
            strides=list(config.strides), decoder=dataclasses.asdict(config.decoder),
            semantic=dataclasses.asdict(meaning), quantizer=dataclasses.asdict(config.quantizer),
        )  # fmt: skip

    # -- what it is ----------------------------------------------------------------------------

    @property
    def quantizer(self) -> DualCodebook:
        """The two tables under one index."""
        part = self._modules["quantizer"]
        assert isinstance(part, DualCodebook)
        return part

    @property
    def spec(self) -> TokenSpec:
        """One level by F frames, with the streams ``semantic``, ``acoustic`` and ``both``."""
        return dataclasses.replace(super().spec, streams=self.quantizer.streams)

    @property
    def codebooks(self) -> tuple[Codebook, ...]:
        """The joined table (K, Ds + Da) of unit rows, in which codes are chosen."""
        return (Codebook(self.quantizer.vectors, "l2"),)

    # -- sound to tokens -----------------------------------------------------------------------

    def latents(self, x: Tensor) -> Tensor:
        """Map sound (B, 1, T) to both halves (B, Ds + Da, F), each of unit length, semantic first.

        Raises:
            MediaError: another shape, or no samples.
        """
        parts = self.frames_of(x)
        return torch.cat([F.normalize(part, dim=-1) for part in parts], -1).transpose(1, 2)

    @property
    def encoders(self) -> tuple[SeanetEncoder, ...]:
        """Of the semantic and of the acoustic stream."""
        return (self.semantic_encoder, self.encoder)

    def codes_of_frames(self, frames: Sequence[Tensor], num_tokens: int | None = None) -> Tensor:
        """Return the shared index (B, 1, F) of the frames (B, F, D) of both streams."""
        return self.quantizer.encode(_by_stream(frames))[:, None]

    # -- tokens to sound and meaning -----------------------------------------------------------

    def sound_latents(self, codes: Tensor) -> Tensor:
        """Return the acoustic rows (B, F, Da) of codes (B, 1, F)."""
        return self.quantizer.lookup(codes[:, 0], stream=ACOUSTIC)

    def decode_latents(self, z: Tensor, *, condition: Tensor | None = None) -> Tensor:
        """Map both halves (B, Ds + Da, F) to sound (B, 1, F * hop) in [-1, 1].

        Raises:
            TokenError: latents of another width.
        """
        if z.shape[1] != self.quantizer.code_dim:
            raise TokenError(
                f"latents of shape {tuple(z.shape)} came in; legal is (batch, "
                f"{self.quantizer.code_dim}, frames), both halves as embed gives them."
            )
        halves = self.quantizer.split(z.transpose(1, 2))
        return super().decode_latents(halves[ACOUSTIC].transpose(1, 2), condition=condition)

    def embed(
        self, tokens: Tokens | Tensor, *, stream: str | None = None, upto: int | None = None
    ) -> Tensor:
        """Return the rows of tokens, (B, D, F), each half of unit length.

        Args:
            tokens: codes (B, 1, F).
            stream: ``semantic`` (Ds channels), ``acoustic`` (Da), or ``both``, as without it.
            upto: levels; there is one.

        Raises:
            TokenError: codes that do not fit ``spec``, or ``upto`` out of range.
            ConfigError: an unknown stream.
        """
        return self._embedded(
            tokens, lambda codes: self.quantizer.lookup(codes[:, 0], upto, stream=stream)
        )

    @torch.no_grad()
    def features(self, tokens: Tokens | Tensor) -> Tensor:
        """Return what the semantic decoder makes of tokens: the teacher's features (B, F, D').

        Args:
            tokens: codes (B, 1, F).

        Example:
            >>> codec = DualWavTokenizer().eval()
            >>> codec.features(codec.encode(torch.zeros(1, 1, 24000))).shape
            torch.Size([1, 75, 39])
        """
        z = self.embed(as_tokens(tokens), stream=SEMANTIC).transpose(1, 2)
        return self.semantic_decoder(z).float()

    def decoder_state(self) -> dict[str, Tensor]:
        """Return tensors by the names of a `audio_tok.wav_decoder.WavDecoder` of unit codes."""
        state = self.state_dict()
        return state | {"quantizer.levels.0.codebook": state[f"quantizer.tables.{ACOUSTIC}"]}

    @property
    def unit_codes(self) -> bool:
        """Both halves are."""
        return True

    # -- training ------------------------------------------------------------------------------

    def forward(
        self, x: Tensor, *, tokens: Tokens | None = None, condition: Tensor | None = None
    ) -> TrainingOutput:
        """Reconstruct for training.

        Args:
            x: (B, 1, T) in [-1, 1].
            tokens: given, the encoders are skipped and only the decoders train.
            condition: int64 (1,) or (B,) rows of the adaptive norms; None draws one for the batch
                in training and takes row 0 otherwise.

        Returns:
            The sound (B, 1, T), not clamped; the codes; the quantizer's losses; ``features`` for
            `audio_tok.semantic_distillation`: the prediction ``semantic`` (B, F, D') and
            ``semantic_moments`` (F,), the seconds at which its frames are centred.
        """
        row = self.draw_row(x) if condition is None else condition
        losses: dict[str, Tensor] = {}
        statistics: dict[str, Tensor] = {}
        features: dict[str, Tensor] = {}
        if tokens is None:
            quantized = self.quantizer(_by_stream(self.frames_of(x)))
            z, statistics, features = decoder_latents(self, quantized, self.quantizer.lookup)
            losses = quantized.losses
            if PERTURBED_CODES in features:
                features[PERTURBED_CODES] = features[PERTURBED_CODES][:, None]
            extent = torch.full((len(x), 1), x.shape[-1], device=x.device)
            tokens = Tokens(quantized.codes[:, None], extent=extent)
        else:
            z = self.embed(tokens).transpose(1, 2)
        halves = self.quantizer.split(z)
        frames = torch.arange(z.shape[1], device=z.device)
        features |= {
            PREDICTION: self.semantic_decoder(halves[SEMANTIC]),
            MOMENTS: (frames + 0.5) * (self.hop / self.sample_rate),
        }
        sound = self.synthesise(halves[ACOUSTIC], row)[..., : x.shape[-1]]
        return TrainingOutput(sound, tokens, losses, statistics, features=features)


def _by_stream(frames: Sequence[Tensor]) -> dict[str, Tensor]:
    """Name what the encoders say."""
    return dict(zip((SEMANTIC, ACOUSTIC), frames, strict=True))
