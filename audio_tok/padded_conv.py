"""PaddedConv1d: a convolution over time that keeps every padding rule of the codec in one place.

Letters: B batch, T time, C channels, k kernel, s stride, d dilation.

    reach P = (k - 1) d + 1 - s
    ordinary   ceil(P / 2) left, floor(P / 2) right    (reflected, or zeros)
    causal     P left, nothing right                   (zeros)
    either     further right so that ceil(T / s) frames come out

Defossez et al. 2022, arXiv 2210.13438, section 3.2.  Data are channels last: (B, T, C) in memory is
the picture (B, C, 1, T) in channels-last order, which the CPU convolves fastest.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PaddedConv1d(nn.Module):
    """Convolution (B, T, C_in) -> (B, ceil(T / s), C_out) with the padding stated above.

    Args:
        in_channels, out_channels: of the data.
        kernel: k, at least the stride.
        stride, dilation, groups: as in `torch.nn.Conv1d`.
        reflect: mirror the signal at its ends instead of continuing it with zeros; without effect
            on a causal convolution, which cannot know what it would have to mirror.
        causal: no output depends on later inputs (up to the last of its own stride).

    Attributes:
        weight: (C_out, C_in / groups, k). bias: (C_out,).
        context: inputs before a chunk that its outputs depend on; what a stream has to carry.

    Example:
        >>> PaddedConv1d(1, 32, 8, stride=4)(torch.zeros(2, 101, 1)).shape
        torch.Size([2, 26, 32])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        reflect: bool = False,
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.dilation, self.groups = kernel, stride, dilation, groups
        self.causal, self.reflect = causal, reflect and not causal
        self.reach = (kernel - 1) * dilation + 1 - stride
        self.right = 0 if causal else self.reach // 2
        self.context = self.reach - self.right
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, kernel))
        self.bias = nn.Parameter(torch.empty(out_channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights as `torch.nn.Conv1d` does."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        bound = 1 / math.sqrt(self.weight[0].numel())
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Pad and convolve a whole signal."""
        extra = -x.shape[1] % self.stride
        if self.context == self.right and not extra and not self.reflect:
            return self.convolve(x, self.right)  # the convolution pads by itself, without a copy
        return self.convolve(self.pad(x))

    def pad(self, x: Tensor) -> Tensor:
        """Return (B, T + P + up to s - 1, C)."""
        return self.continued(x, self.context, self.right + -x.shape[1] % self.stride)

    def continued(self, x: Tensor, left: int, right: int) -> Tensor:
        """Continue (B, T, C) beyond its ends by this convolution's rule: mirrored, or zeros."""
        if self.reflect:
            return reflect_time(x, left, right)
        return F.pad(x, (0, 0, left, right)) if left or right else x

    def reads(self, start: int, stop: int) -> tuple[int, int]:
        """Return the range of inputs behind outputs start to stop; it may pass the ends."""
        first = start * self.stride - self.context
        last = (stop - 1) * self.stride - self.context
        return first, last + (self.kernel - 1) * self.dilation + 1

    def convolve(self, x: Tensor, padding: int = 0) -> Tensor:
        """Convolve what is already padded, or zero-pad both ends by ``padding`` on the way."""
        y = F.conv2d(
            x.transpose(1, 2).unsqueeze(2), self.weight.unsqueeze(2), self.bias,
            (1, self.stride), (0, padding), (1, self.dilation), self.groups,
        )  # fmt: skip
        return y.squeeze(2).transpose(1, 2)

    def extra_repr(self) -> str:
        """Sizes and padding."""
        out, inner, kernel = self.weight.shape
        return (
            f"{inner * self.groups}, {out}, {kernel}, stride={self.stride}, "
            f"dilation={self.dilation}, causal={self.causal}, reflect={self.reflect}"
        )


def reflect_time(x: Tensor, left: int, right: int) -> Tensor:
    """Mirror (B, T, C) at both ends of time, for any T of at least 1.

    A signal not longer than its padding first gets zeros at its end, as many as mirroring needs;
    the same number is cut off again afterwards.
    """
    lacking = max(left, right) - x.shape[1] + 1
    if lacking > 0:
        x = F.pad(x, (0, 0, 0, lacking))
    length = x.shape[1]
    parts = [x]
    if left:
        parts.insert(0, x[:, 1 : left + 1].flip(1))
    if right:
        parts.append(x[:, length - 1 - right : length - 1].flip(1))
    padded = torch.cat(parts, 1) if len(parts) > 1 else x
    return padded[:, : padded.shape[1] - lacking] if lacking > 0 else padded
