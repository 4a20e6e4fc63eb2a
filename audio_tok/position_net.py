"""Position net: the convolutional and attending stage that stands before the ConvNeXt blocks.

    x --residual, residual, attention, residual, residual, norm--> x        (B, T, C) throughout

It tells frames where they are and lets each see all others, which a stack of short convolutions
cannot.  Ji et al. 2024, arXiv 2408.16532, section 3.3.  Letters: B batch, T frames, C channels, G
groups, W window, N blocks of W frames.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audio_tok.padded_conv import PaddedConv1d
from tok_core.fast_linear import Linear

GROUPS = 32
EPS = 1e-6


class TimeGroupNorm(nn.Module):
    """Group norm of (B, T, C) over the channels of a group and all frames.

    Args:
        channels: C, a multiple of 32.
        causal: normalise every frame over all its channels instead, as later frames must not
            change earlier ones; the parameters are the same.
    """

    def __init__(self, channels: int, *, causal: bool = False) -> None:
        super().__init__()
        self.causal = causal
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise."""
        if self.causal:
            return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, EPS)
        # Time innermost while the statistics are taken: a group is then one run of memory.
        rows = x.transpose(1, 2).contiguous()
        # Not F.group_norm: that refuses a single frame of single-channel groups.
        y = torch.group_norm(rows, GROUPS, self.weight, self.bias, EPS)
        return y.transpose(1, 2).contiguous()


class ResidualBlock(nn.Module):
    """x + conv(dropout(swish(norm(conv(swish(norm(x))))))), kernels of three frames."""

    def __init__(self, channels: int, *, dropout: float, causal: bool) -> None:
        super().__init__()
        self.norm1 = TimeGroupNorm(channels, causal=causal)
        self.conv1 = PaddedConv1d(channels, channels, 3, causal=causal)
        self.norm2 = TimeGroupNorm(channels, causal=causal)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = PaddedConv1d(channels, channels, 3, causal=causal)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, C) to (B, T, C)."""
        y = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(self.dropout(F.silu(self.norm2(y))))


class TimeAttention(nn.Module):
    """x + single-head self-attention of the normalised frames, without positions.

    Args:
        channels: C.
        window: frames back that a frame sees beside itself; None sees all, before and after.
        causal: of the norm.
    """

    def __init__(self, channels: int, *, window: int | None, causal: bool) -> None:
        super().__init__()
        self.window = window
        self.norm = TimeGroupNorm(channels, causal=causal)
        self.q = Linear(channels, channels)
        self.k = Linear(channels, channels)
        self.v = Linear(channels, channels)
        self.proj_out = Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, C) to (B, T, C)."""
        y = self.norm(x)
        q, k, v = self.q(y), self.k(y), self.v(y)
        if self.window is None:
            seen = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        else:
            seen = windowed_attention(q, k, v, self.window)
        return x + self.proj_out(seen)


def windowed_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Return single-head attention where frame t sees frames t - window to t.

    Queries go in blocks of ``window`` frames, each with the keys of its own and the block before:
    memory grows with T times the window, not with the square of T.

    Args:
        q, k, v: (B, T, C).
        window: W, at least 1.

    Returns:
        (B, T, C).
    """
    batch, time, channels = q.shape
    blocks = -(-time // window)
    tail = blocks * window - time

    def with_previous(x: Tensor) -> Tensor:  # (B, N, 2 W, C)
        own = F.pad(x, (0, 0, window, tail)).view(batch, blocks + 1, window, channels)
        return torch.cat((own[:, :-1], own[:, 1:]), 2)

    position = torch.arange(2 * window, device=q.device) - window
    query = torch.arange(window, device=q.device)[:, None]
    legal = (position <= query) & (position >= query - window)
    first = (torch.arange(blocks, device=q.device) > 0)[:, None, None]
    legal = legal & (first | (position >= 0))  # the first block has nothing before it
    rows = F.pad(q, (0, 0, 0, tail)).view(batch, blocks, window, channels)
    seen = F.scaled_dot_product_attention(
        rows, with_previous(k), with_previous(v), attn_mask=legal
    )
    return seen.reshape(batch, blocks * window, channels)[:, :time]


class PositionNet(nn.Sequential):
    """Two residual blocks, attention, two residual blocks, a bare group norm.

    Args:
        channels: C, a multiple of 32.
        dropout: inside the residual blocks, in training.
        causal: convolutions, norms and attention look back only.
        window: of the attention; None sees everything.

    Example:
        >>> PositionNet(64)(torch.zeros(1, 40, 64)).shape
        torch.Size([1, 40, 64])
    """

    def __init__(
        self,
        channels: int,
        *,
        dropout: float = 0.1,
        causal: bool = False,
        window: int | None = None,
    ) -> None:
        def residual() -> ResidualBlock:
            return ResidualBlock(channels, dropout=dropout, causal=causal)

        super().__init__(
            residual(), residual(), TimeAttention(channels, window=window, causal=causal),
            residual(), residual(), TimeGroupNorm(channels, causal=causal),
        )  # fmt: skip
