"""What a causal codec has to remember between two chunks of a stream, and nothing more.

    encoder      what its convolutions and its LSTM remember
    convolution  the last (k - 1) d + 1 - s inputs, and inputs that do not fill a stride yet
    attention    keys and values of the last W frames
    overlap-add  the n - h samples that later frames still add to

None of it grows with the stream.  Letters: B batch, n new steps, C channels, k kernel, s stride, d
dilation, W attention window, h hop.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from audio_tok.padded_conv import PaddedConv1d
from audio_tok.position_net import ResidualBlock, TimeAttention
from audio_tok.seanet_encoder import SeanetEncoder, SeanetStage
from tok_core.fast_elu import elu


class ConvStream:
    """A causal `PaddedConv1d` that takes its input in pieces of any length.

    Example:
        >>> stream = ConvStream(PaddedConv1d(1, 8, 4, stride=2, causal=True))
        >>> [stream.push(torch.zeros(1, 1, 1)).shape[1] for _ in range(4)]
        [0, 1, 0, 1]
    """

    def __init__(self, conv: PaddedConv1d) -> None:
        self.conv = conv
        self.kept: Tensor | None = None
        self.unread = 0  # inputs that have not filled a stride

    def push(self, x: Tensor) -> Tensor:
        """Map (B, n, C_in) to the outputs (B, m, C_out) that are complete now; m may be 0."""
        conv = self.conv
        if self.kept is None:
            self.kept = x.new_zeros(x.shape[0], conv.context, x.shape[2])
        data = torch.cat((self.kept, x), 1)
        outputs = (self.unread + x.shape[1]) // conv.stride
        self.unread = (self.unread + x.shape[1]) % conv.stride
        # A copy: a view would hold on to every chunk's memory.
        self.kept = data[:, outputs * conv.stride :].clone()
        if not outputs:
            return x.new_zeros(x.shape[0], 0, conv.weight.shape[0])
        return conv.convolve(data[:, : conv.context + outputs * conv.stride])

    def finish(self, x: Tensor) -> Tensor:
        """Take the last inputs (B, n, C_in), n may be 0, and fill the last stride with zeros."""
        lacking = -(self.unread + x.shape[1]) % self.conv.stride
        return self.push(F.pad(x, (0, 0, 0, lacking)))

    @property
    def numbers(self) -> int:
        """Numbers remembered now."""
        return 0 if self.kept is None else self.kept.numel()


class SeanetStream:
    """A causal `SeanetEncoder` that takes sound in pieces of any length.

    Example:
        >>> stream = SeanetStream(SeanetEncoder(4, [2, 4], 6, causal=True))
        >>> [stream.push(torch.zeros(1, n, 1), end=n == 3).shape[1] for n in (20, 3)]
        [2, 1]
    """

    def __init__(self, encoder: SeanetEncoder) -> None:
        self.encoder = encoder
        self._first, self._last = ConvStream(encoder.first), ConvStream(encoder.last)
        self._stages = [
            (stage, ConvStream(stage.residual.narrow), ConvStream(stage.down))
            for stage in encoder.stages
            if isinstance(stage, SeanetStage)
        ]
        self._recurrent: tuple[Tensor, Tensor] | None = None

    def push(self, x: Tensor, *, end: bool) -> Tensor:
        """Map sound (B, n, 1) to the latents (B, m, D) that are complete now; m may be 0.

        Args:
            x: new samples, in any float format.
            end: these were the last ones; a frame that has begun is filled with zeros.
        """
        y = self._first.push(x.to(self.encoder.first.weight.dtype))
        for stage, narrow, down in self._stages:
            if y.shape[1]:
                y = elu(stage.residual.join(y, narrow.push(elu(y))))
            y = down.finish(y) if end else down.push(y)
        if not y.shape[1]:
            return y.new_zeros(len(y), 0, self._last.conv.weight.shape[0])
        if self.encoder.lstm is not None:
            recurrent, self._recurrent = self.encoder.lstm(y, self._recurrent)
            y = recurrent + y
        return self._last.push(elu(y))

    @property
    def numbers(self) -> int:
        """Numbers remembered now."""
        convs = [self._first, self._last]
        convs += [conv for _, narrow, down in self._stages for conv in (narrow, down)]
        recurrent = sum(part.numel() for part in self._recurrent or ())
        return recurrent + sum(conv.numbers for conv in convs)


class ResidualStream:
    """`ResidualBlock` of the position net on a stream: n frames in, n frames out."""

    def __init__(self, block: ResidualBlock) -> None:
        self.block = block
        self.convs = (ConvStream(block.conv1), ConvStream(block.conv2))

    def push(self, x: Tensor) -> Tensor:
        """Map (B, n, C) to (B, n, C)."""
        y = self.convs[0].push(F.silu(self.block.norm1(x)))
        return x + self.convs[1].push(F.silu(self.block.norm2(y)))

    @property
    def numbers(self) -> int:
        """Numbers remembered now."""
        return sum(conv.numbers for conv in self.convs)


class AttentionStream:
    """`TimeAttention` on a stream: every frame sees itself and W frames back."""

    def __init__(self, attention: TimeAttention) -> None:
        assert attention.window is not None
        self.attention, self.window = attention, attention.window
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def push(self, x: Tensor) -> Tensor:
        """Map (B, n, C) to (B, n, C)."""
        part = self.attention
        y = part.norm(x)
        q, k, v = part.q(y), part.k(y), part.v(y)
        if self.keys is not None and self.values is not None:
            k, v = torch.cat((self.keys, k), 1), torch.cat((self.values, v), 1)
        self.keys, self.values = k[:, -self.window :].clone(), v[:, -self.window :].clone()
        key = torch.arange(k.shape[1], device=x.device)
        query = torch.arange(q.shape[1], device=x.device)[:, None] + k.shape[1] - q.shape[1]
        legal = (key <= query) & (key >= query - self.window)
        return x + part.proj_out(F.scaled_dot_product_attention(q, k, v, attn_mask=legal))

    @property
    def numbers(self) -> int:
        """Numbers remembered now."""
        return 0 if self.keys is None else 2 * self.keys.numel()


class OverlapAddStream:
    """Windowed frames to samples, each sample as soon as no later frame can reach it.

    Args:
        window: (n,) of the inverse transform.
        hop: h.
    """

    def __init__(self, window: Tensor, hop: int) -> None:
        self.square, self.hop = window.square(), hop
        self.cut = (len(window) - hop) // 2
        self.skip = self.cut  # samples before the sound, which "same" padding drops
        self.wave: Tensor | None = None
        self.envelope = window.new_zeros(len(window) - hop)

    def push(self, frames: Tensor) -> Tensor:
        """Add frames (B, t, n); return (B, up to t h) samples that are complete."""
        batch, time, size = frames.shape
        tail, fresh = size - self.hop, time * self.hop
        if self.wave is None:
            self.wave = frames.new_zeros(batch, tail)
        wave = F.pad(self.wave, (0, fresh))
        envelope = F.pad(self.envelope, (0, fresh))
        for i in range(time):
            here = slice(i * self.hop, i * self.hop + size)
            wave[:, here] += frames[:, i]
            envelope[here] += self.square
        self.wave, self.envelope = wave[:, fresh:].clone(), envelope[fresh:].clone()
        dropped = min(self.skip, fresh)
        self.skip -= dropped
        return wave[:, dropped:fresh] / envelope[dropped:fresh]

    def finish(self) -> Tensor:
        """Return the samples that waited for frames that do not come."""
        assert self.wave is not None
        rest = slice(self.skip, len(self.envelope) - self.cut)
        return self.wave[:, rest] / self.envelope[rest]

    @property
    def numbers(self) -> int:
        """Numbers remembered now."""
        return len(self.envelope) + (0 if self.wave is None else self.wave.numel())
