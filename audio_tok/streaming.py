"""Streaming: a causal codec takes sound as it comes and gives tokens as soon as they are known.

    samples --StreamEncoder.push--> codes --StreamDecoder.push--> samples, later by `latency_ms`

Chunks may have any length, down to one sample and one frame; what comes out is what the whole sound
would give. The state has constant size: nothing is computed twice, nothing overlaps.

Letters: B batch, T samples, n samples or frames of a chunk, Q levels, h hop.
"""

from __future__ import annotations

import torch
from torch import Tensor

from audio_tok.position_net import PositionNet, ResidualBlock, TimeAttention
from audio_tok.stream_state import (
    AttentionStream,
    ConvStream,
    OverlapAddStream,
    ResidualStream,
    SeanetStream,
)
from audio_tok.vocos_backbone import ConvNeXtBlock1d
from audio_tok.wav_decoder import WavSynthesis
from audio_tok.wav_encoding import WavEncoding
from tok_core.contract import Tokens
from tok_core.errors import ConfigError, MediaError, TokenError
from tok_core.full_float32 import full_float32

# Samples and frames that go through the network at once: a long chunk costs no more memory.
MOST_SAMPLES = 1 << 16
MOST_FRAMES = 64


def latency_ms(codec: WavSynthesis) -> float:
    """Return how much later than its input a sample can leave a causal codec, in milliseconds.

    One hop until a frame is full, and half of what the window of the inverse transform reaches
    beyond its hop; the time of computing comes on top.

    Example:
        >>> codec = WavTokenizer(causal=True, attention_window=50, strides=[2, 4, 5, 8])
        >>> round(latency_ms(codec), 1)  # 320 + 480 samples of 24 kHz
        33.3
    """
    settings = codec.settings
    return 1000 * (settings.hop + (settings.n_fft - settings.hop) // 2) / settings.sample_rate


class StreamEncoder:
    """Sound to codes, chunk by chunk.

    Args:
        codec: a causal `WavTokenizer` or `DualWavTokenizer` in eval mode.
        num_tokens: levels to keep, 1 to Q; None keeps all.

    Raises:
        ConfigError: a codec that is not causal, or in training mode. TokenError: levels out of
            range.

    Example:
        >>> codec = WavTokenizer(causal=True, attention_window=50).eval()
        >>> session = StreamEncoder(codec)
        >>> session.push(torch.zeros(1, 1, 700)).shape, session.finish().codes.shape
        (torch.Size([1, 1, 2]), torch.Size([1, 1, 1]))
    """

    def __init__(self, codec: WavEncoding, *, num_tokens: int | None = None) -> None:
        _check(codec)
        if not isinstance(codec, WavEncoding):
            raise ConfigError(
                f"a {type(codec).__name__} came in, which cannot encode; give the whole codec that "
                "it was taken from."
            )
        codec.check_levels(num_tokens)
        self.codec, self.num_tokens = codec, num_tokens
        self._encoders = [SeanetStream(encoder) for encoder in codec.encoders]
        self._samples, self._batch, self._finished = 0, 0, False

    @torch.no_grad()
    def push(self, x: Tensor) -> Tensor:
        """Take sound (B, 1, n) in [-1, 1]; return the codes (B, q, frames) that are complete.

        Raises:
            MediaError: another shape, another batch than before, or a finished session.
        """
        if self._finished:
            raise MediaError("sound came after finish(); begin a new session.")
        fits = x.dim() == 3 and x.shape[1] == 1 and x.is_floating_point() and len(x)
        if not fits or (self._batch and len(x) != self._batch):
            raise MediaError(
                f"a chunk of shape {tuple(x.shape)} and type {x.dtype} came in; legal is float "
                f"({self._batch or 'batch'}, 1, samples), the batch the same throughout a session."
            )
        self._batch, self._samples = len(x), self._samples + x.shape[2]
        parts = [self._run(part, end=False) for part in x.split(MOST_SAMPLES, 2)]
        return torch.cat(parts, 2)

    @torch.no_grad()
    def finish(self) -> Tokens:
        """End the stream.

        Returns:
            The last codes (B, q, 0 or 1 frames), and as ``extent`` (B, 1) how many samples came in
            altogether, which `StreamDecoder.finish` takes to give back exactly as many.

        Raises:
            MediaError: nothing came in, or the session is finished already.
        """
        if self._finished or not self._samples:
            raise MediaError(
                "finish() needs a session that is open and has taken at least one sample."
            )
        self._finished = True
        empty = torch.zeros(self._batch, 1, 0, device=self.codec.device)
        extent = torch.full((self._batch, 1), self._samples)
        return Tokens(self._run(empty, end=True), extent=extent)

    @property
    def state_size(self) -> int:
        """Numbers remembered between chunks: bounded, however long the stream."""
        return sum(encoder.numbers for encoder in self._encoders)

    def _run(self, x: Tensor, *, end: bool) -> Tensor:
        y = x.transpose(1, 2).to(self.codec.device)
        frames = [encoder.push(y, end=end).float() for encoder in self._encoders]
        if not frames[0].shape[1]:
            levels = self.num_tokens or self.codec.settings.num_codebooks
            return torch.zeros(len(y), levels, 0, dtype=torch.int64, device=y.device)
        return self.codec.codes_of_frames(frames, self.num_tokens).contiguous()


class StreamDecoder:
    """Codes to sound, chunk by chunk.

    Args:
        codec: a causal `WavTokenizer` or `WavDecoder` in eval mode.

    Raises:
        ConfigError: a codec that is not causal, or in training mode.

    Example:
        >>> codec = WavTokenizer(causal=True, attention_window=50).eval()
        >>> session = StreamDecoder(codec)
        >>> codes = torch.zeros(1, 1, 3, dtype=torch.int64)
        >>> session.push(codes).shape, session.finish().shape
        (torch.Size([1, 1, 480]), torch.Size([1, 1, 480]))
    """

    def __init__(self, codec: WavSynthesis) -> None:
        _check(codec)
        self.codec = codec
        backbone, head = codec.backbone, codec.head
        self._embed = ConvStream(backbone.embed)
        self._position = _position_streams(backbone.position_net)
        self._blocks = [
            (block, ConvStream(block.depthwise))
            for block in backbone.blocks
            if isinstance(block, ConvNeXtBlock1d)
        ]
        self._window = torch.hann_window(head.n_fft, device=codec.device)
        self._overlap = OverlapAddStream(self._window, head.hop)
        self._frames, self._given, self._finished = 0, 0, False

    @torch.no_grad()
    def push(self, codes: Tensor) -> Tensor:
        """Take codes int64 (B, q, n); return the samples (B, 1, m) that are complete.

        m is n times the hop, less at the start by (n_fft - hop) / 2.

        Raises:
            TokenError: codes that do not fit the codec, or a finished session.
        """
        if self._finished:
            raise TokenError("codes came after finish(); begin a new session.")
        if codes.dim() == 3 and not codes.shape[2]:
            return torch.zeros(len(codes), 1, 0, device=self.codec.device)
        self.codec.spec.check(codes)
        parts = [self._run(part) for part in codes.to(self.codec.device).split(MOST_FRAMES, 2)]
        self._frames += codes.shape[2]
        wave = torch.cat(parts, 1)
        self._given += wave.shape[1]
        return wave[:, None].clamp(-1, 1)

    @torch.no_grad()
    def finish(self, samples: int | None = None) -> Tensor:
        """End the stream and return the samples (B, 1, m) still missing.

        Args:
            samples: length of the whole sound, as the encoder's ``extent`` states it; None gives
                every frame its hop. Where n_fft is below three hops, ``push`` may have gone up to
                one hop beyond it already: nothing is left then, and the surplus is to be cut.

        Raises:
            TokenError: nothing came in, the session is finished already, or a length that these
                frames do not have.
        """
        if self._finished or not self._frames:
            raise TokenError(
                "finish() needs a session that is open and has taken at least one frame."
            )
        most = self._frames * self.codec.hop
        total = most if samples is None else samples
        if not most - self.codec.hop < total <= most:
            raise TokenError(
                f"samples is {total} for {self._frames} frames of {self.codec.hop} samples; legal "
                f"is {most - self.codec.hop + 1} to {most}."
            )
        self._finished = True
        left = max(0, total - self._given)
        return self._overlap.finish()[:, None, :left].clamp(-1, 1)

    @property
    def state_size(self) -> int:
        """Numbers remembered between chunks: bounded, however long the stream."""
        parts = [self._embed, *self._position, *(conv for _, conv in self._blocks), self._overlap]
        return sum(part.numbers for part in parts)

    def _run(self, codes: Tensor) -> Tensor:
        backbone, head = self.codec.backbone, self.codec.head
        z = self.codec.sound_latents(codes).to(backbone.embed.weight.dtype)
        row = torch.zeros(1, dtype=torch.int64, device=z.device)
        x = self._embed.push(z)
        for part in self._position:
            x = part.push(x)
        if backbone.position_net is not None:
            x = backbone.position_net[-1](x)
        x = backbone.norm(x, row)
        for block, depthwise in self._blocks:
            x = block.refine(x, depthwise.push(x), row)
        with full_float32(x.device.type):
            spectrum = head.spectrum(head.project(backbone.final_norm(x)))
            return self._overlap.push(torch.fft.irfft(spectrum, n=head.n_fft) * self._window)


def _position_streams(net: PositionNet | None) -> list[ResidualStream | AttentionStream]:
    streams: list[ResidualStream | AttentionStream] = []
    for part in net or ():
        if isinstance(part, ResidualBlock):
            streams.append(ResidualStream(part))
        elif isinstance(part, TimeAttention):
            streams.append(AttentionStream(part))
    return streams


def _check(codec: WavSynthesis) -> None:
    if not codec.settings.causal:
        raise ConfigError(
            "this codec is not causal: its frames depend on sound that a stream has not brought "
            "yet; train one with causal: true, or code long files in chunks."
        )
    if codec.training:
        raise ConfigError("the codec is in training mode; call .eval() before streaming.")
