"""Nearest doubling followed by a 3x3 convolution, in fewer operations at inference.

A doubled picture repeats every pixel four times, so the nine taps of the convolution fall on four
source pixels: each of the four output phases is a 2x2 convolution with summed taps. Together they
are one transposed 4x4 convolution of stride 2 on the small picture: 16 instead of 36
multiplications per source pixel and channel pair, and no doubled picture in memory.

Letters: B batch, I O channels in and out, h w rows and columns.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def fold_doubling(weight: Tensor) -> Tensor:
    """Return the (I, O, 4, 4) transposed kernel of doubling plus a 3x3 ``weight`` (O, I, 3, 3)."""
    # Row j of the kernel collects the taps that meet the same source row: with 3 taps 0 1 2,
    # rows 0..3 hold tap 2, taps 1 + 2, taps 0 + 1 and tap 0.
    sums = weight.new_tensor([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]])
    return torch.einsum("yr,oirs,xs->ioyx", sums, weight, sums)


class UpsampleConv(nn.Conv2d):
    """``conv3x3(nearest_doubling(x))`` with the keys of the convolution.

    On CPU in eval mode without gradients it runs folded (equal to rounding, about twice as fast);
    the folded kernel is kept until the weight changes or training begins.

    Example:
        >>> UpsampleConv(8, 4)(torch.zeros(1, 8, 5, 5)).shape
        torch.Size([1, 4, 10, 10])
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)
        self._folded: tuple[tuple[object, ...], Tensor] | None = None

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Conv2d's own name
        """Map (B, I, h, w) to (B, O, 2 h, 2 w)."""
        if self._may_fold(input):
            return F.conv_transpose2d(input, self._folded_weight(), self.bias, stride=2, padding=1)
        return super().forward(F.interpolate(input, scale_factor=2.0, mode="nearest"))

    def _may_fold(self, x: Tensor) -> bool:
        needs_gradient = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        on_cpu = x.device.type == "cpu" and not torch.compiler.is_compiling()
        return on_cpu and not self.training and not needs_gradient

    def _folded_weight(self) -> Tensor:
        weight = self.weight
        # An inference tensor has no version counter; it cannot be trained either.
        version = 0 if weight.is_inference() else weight._version
        key = (weight.data_ptr(), version, weight.dtype)
        if self._folded is None or self._folded[0] != key:
            with torch.autocast("cpu", enabled=False):
                self._folded = (key, fold_doubling(weight.detach()))
        return self._folded[1]

    def train(self, mode: bool = True) -> UpsampleConv:
        """Switch the mode; the folded kernel does not outlive evaluation."""
        if mode:
            self._folded = None
        return super().train(mode)

    def __getstate__(self) -> dict[str, object]:
        return {**super().__getstate__(), "_folded": None}
