"""SEANet encoder: from samples to latents, one strided convolution per stage, then an LSTM.

    x (B, T, 1) --first--> [residual, ELU, down]* --LSTM--> ELU, last --> z (B, F, D)

Defossez et al. 2022, arXiv 2210.13438, section 3.2 (EnCodec).  Letters: B batch, T samples, F
frames, D latent width, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from audio_tok.padded_conv import PaddedConv1d
from tok_core.fast_elu import elu
from tok_core.fast_linear import Linear
from tok_core.level_keeping import keep_level

KERNEL = 7  # of the first and the last convolution
RESIDUAL_KERNEL = 3
# Samples that go through the first stages at once at inference: whole maps would take 30 MB per
# 10 s and operation, and wait for memory where caches are small. Measured best of 2^12..2^17.
BLOCK = 1 << 16
# Stages with larger kernels run on whole maps, which are small by then: every call of a convolution
# rearranges its weights, and that would have to be paid for each block.
LARGEST_KERNEL = 1 << 17
# Of the start's weights over 1/sqrt(inputs); above 1 for what ELU takes away. 1.0 and 1.4 learned
# as well in 150 steps, torch's own start (0.58, with biases) clearly worse.
START_GAIN = 1.2


class SeanetResidual(nn.Module):
    """x -> shortcut(x) + widen(ELU(narrow(ELU(x)))), half as wide inside; (B, T, C) both ways."""

    def __init__(self, channels: int, *, causal: bool) -> None:
        super().__init__()
        inner = channels // 2
        self.narrow = PaddedConv1d(channels, inner, RESIDUAL_KERNEL, reflect=True, causal=causal)
        self.widen = Linear(inner, channels)
        self.shortcut = Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Add what a neighbourhood of three adds."""
        return self.join(x, self.narrow(elu(x)))

    def join(self, x: Tensor, narrow: Tensor) -> Tensor:
        """Finish the block from its input and the output of its narrow convolution."""
        y = self.shortcut(x)
        added = self.widen(elu(narrow, overwrite=not narrow.requires_grad))
        return y.add_(added) if not y.requires_grad else y + added


class SeanetStage(nn.Module):
    """Residual block, ELU, strided convolution: (B, T, C) -> (B, ceil(T / s), 2 C)."""

    def __init__(self, channels: int, stride: int, *, causal: bool) -> None:
        super().__init__()
        self.residual = SeanetResidual(channels, causal=causal)
        self.down = PaddedConv1d(
            channels, 2 * channels, 2 * stride, stride=stride, reflect=True, causal=causal
        )

    def forward(self, x: Tensor) -> Tensor:
        """Go one stage down."""
        y = self.residual(x)
        return self.down(elu(y, overwrite=not y.requires_grad))


class SeanetEncoder(nn.Module):
    """Waveform to latents before quantization.

    Args:
        width: channels of the first convolution; every stage doubles them.
        strides: of the stages in order; their product is the hop.
        latent_dim: D.
        lstm_layers: of the one-directional LSTM with a skip around it; 0 leaves it out.
        causal: pad only before the signal, so that it can run on a stream.

    Example:
        >>> SeanetEncoder(32, [2, 4, 5, 8], 512)(torch.zeros(1, 24000, 1)).shape
        torch.Size([1, 75, 512])
    """

    def __init__(
        self,
        width: int,
        strides: Sequence[int],
        latent_dim: int,
        *,
        lstm_layers: int = 2,
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.first = PaddedConv1d(1, width, KERNEL, reflect=True, causal=causal)
        self.stages = nn.ModuleList(
            SeanetStage(width << i, stride, causal=causal) for i, stride in enumerate(strides)
        )
        top = width << len(strides)
        self.lstm = nn.LSTM(top, top, lstm_layers, batch_first=True) if lstm_layers else None
        self.last = PaddedConv1d(top, latent_dim, KERNEL, reflect=True, causal=causal)
        self.apply(_keep_level)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, 1) to (B, F, D)."""
        return self.last(elu(self.recur(self.stack(x))))

    def recur(self, x: Tensor) -> Tensor:
        """Add the LSTM's output, from a zero state, to its input (B, F, C)."""
        return x if self.lstm is None else self.lstm(x)[0] + x

    def stack(self, x: Tensor) -> Tensor:
        """Run the convolutions before the LSTM: (B, T, 1) to (B, F, C)."""
        depth, hop = self._blocked()
        frames, step = -(-x.shape[1] // hop), max(2, BLOCK // (hop * len(x)))
        trained = torch.is_grad_enabled() and (x.requires_grad or self.first.weight.requires_grad)
        if trained or frames <= step:
            depth, y = 0, self.first(x)
        else:
            # The last block takes the remainder along: one frame alone could not be mirrored.
            cuts = [*range(0, frames - step + 1, step), frames]
            y = torch.cat([self.stretch(x, depth, a, b) for a, b in pairwise(cuts)], 1)
        for stage in self.stages[depth:]:
            y = stage(y)
        return y

    def _blocked(self) -> tuple[int, int]:
        """Return how many stages run block by block, and the samples per output of the last."""
        depth, hop = 0, 1
        for conv in self._downs():
            if conv.weight.numel() > LARGEST_KERNEL:
                break
            depth, hop = depth + 1, hop * conv.stride
        return depth, hop

    def stretch(self, x: Tensor, depth: int, start: int, stop: int) -> Tensor:
        """Return outputs start to stop of the first ``depth`` stages, from what they read only.

        Args:
            x: the whole signal (B, T, 1).
            depth: number of stages, 0 for the first convolution alone.
            start, stop: range of outputs, at least two unless it is everything.
        """
        conv = self.first if depth == 0 else self._downs()[depth - 1]
        total = x.shape[1]
        for earlier in self._downs()[: max(depth - 1, 0)]:
            total = -(-total // earlier.stride)
        first, last = conv.reads(start, stop)
        a, b = max(first, 0), min(last, total)
        read = x[:, a:b] if depth == 0 else self._residual_stretch(x, depth - 1, a, b, total)
        return conv.convolve(conv.continued(read, a - first, last - b))

    def _residual_stretch(
        self, x: Tensor, depth: int, start: int, stop: int, total: int
    ) -> Tensor:
        """Return start to stop of what the strided convolution of stage ``depth`` reads."""
        stage = self.stages[depth]
        assert isinstance(stage, SeanetStage)
        residual = stage.residual
        first, last = residual.narrow.reads(start, stop)
        a, b = max(first, 0), min(last, total)
        read = self.stretch(x, depth, a, b)
        padded = residual.narrow.continued(elu(read), a - first, last - b)
        joined = residual.join(read[:, start - a : stop - a], residual.narrow.convolve(padded))
        return elu(joined, overwrite=True)

    def _downs(self) -> list[PaddedConv1d]:
        return [stage.down for stage in self.stages if isinstance(stage, SeanetStage)]


def _keep_level(module: nn.Module) -> None:
    # With torch's own start latents vary by 2e-4 around a mean of 3e-2, and k-means finds nothing
    # to hold on to.
    if isinstance(module, PaddedConv1d | nn.Linear):
        keep_level(module.weight, module.bias, START_GAIN)
