"""The blocks of the FID Inception, under the names of the official state dict.

Every convolution stands for convolution, batch norm and ReLU: the norm is folded in when weights
are loaded. Average pools leave the padding out of their count.

Letters: B pictures, C channels, h w the map; "c" is a width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Conv(nn.Conv2d):
    """Convolution with its folded batch norm, then ReLU; odd kernels keep the size by default."""

    def __init__(self, c_in: int, c_out: int, kernel: int | tuple[int, int], *, stride: int = 1,
                 pad: bool = True) -> None:  # fmt: skip
        kh, kw = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (kh // 2, kw // 2) if pad else (0, 0)
        super().__init__(c_in, c_out, (kh, kw), stride=stride, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C_out, h, w), never negative."""
        return F.relu_(super().forward(x))

    def pooled(self, x: Tensor) -> Tensor:
        """Return what a 3x3 average pool of ``x`` followed by this 1x1 convolution gives.

        A 1x1 convolution and an average commute (the bias too: the weights of an average sum to
        1), so the pool, which leaves padding out of its count, runs over the few output channels.
        """
        h = F.conv2d(x, self.weight, self.bias)
        return F.relu_(F.avg_pool2d(h, 3, stride=1, padding=1, count_include_pad=False))


class MixedA(nn.Module):
    """Mixed_5b, 5c, 5d: 35 x 35."""

    def __init__(self, c_in: int, c_pool: int) -> None:
        super().__init__()
        self.branch1x1 = Conv(c_in, 64, 1)
        self.branch5x5_1 = Conv(c_in, 48, 1)
        self.branch5x5_2 = Conv(48, 64, 5)
        self.branch3x3dbl_1 = Conv(c_in, 64, 1)
        self.branch3x3dbl_2 = Conv(64, 96, 3)
        self.branch3x3dbl_3 = Conv(96, 96, 3)
        self.branch_pool = Conv(c_in, c_pool, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, 224 + c_pool, 35, 35)."""
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        five = self.branch5x5_2(self.branch5x5_1(x))
        return torch.cat([self.branch1x1(x), five, double, self.branch_pool.pooled(x)], 1)


class MixedB(nn.Module):
    """Mixed_6a: 35 x 35 to 17 x 17."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3 = Conv(288, 384, 3, stride=2, pad=False)
        self.branch3x3dbl_1 = Conv(288, 64, 1)
        self.branch3x3dbl_2 = Conv(64, 96, 3)
        self.branch3x3dbl_3 = Conv(96, 96, 3, stride=2, pad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, 768, 17, 17)."""
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, stride=2)], 1)


class MixedC(nn.Module):
    """Mixed_6b to 6e: 17 x 17, with 7-long kernels of width c."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.branch1x1 = Conv(768, 192, 1)
        self.branch7x7_1 = Conv(768, c, 1)
        self.branch7x7_2 = Conv(c, c, (1, 7))
        self.branch7x7_3 = Conv(c, 192, (7, 1))
        self.branch7x7dbl_1 = Conv(768, c, 1)
        self.branch7x7dbl_2 = Conv(c, c, (7, 1))
        self.branch7x7dbl_3 = Conv(c, c, (1, 7))
        self.branch7x7dbl_4 = Conv(c, c, (7, 1))
        self.branch7x7dbl_5 = Conv(c, 192, (1, 7))
        self.branch_pool = Conv(768, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, 768, 17, 17)."""
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), seven, double, self.branch_pool.pooled(x)], 1)


class MixedD(nn.Module):
    """Mixed_7a: 17 x 17 to 8 x 8."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3_1 = Conv(768, 192, 1)
        self.branch3x3_2 = Conv(192, 320, 3, stride=2, pad=False)
        self.branch7x7x3_1 = Conv(768, 192, 1)
        self.branch7x7x3_2 = Conv(192, 192, (1, 7))
        self.branch7x7x3_3 = Conv(192, 192, (7, 1))
        self.branch7x7x3_4 = Conv(192, 192, 3, stride=2, pad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, 1280, 8, 8)."""
        seven = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        three = self.branch3x3_2(self.branch3x3_1(x))
        return torch.cat([three, self.branch7x7x3_4(seven), F.max_pool2d(x, 3, stride=2)], 1)


class MixedE(nn.Module):
    """Mixed_7b (average pool) and 7c (maximum pool): 8 x 8."""

    def __init__(self, c_in: int, *, max_pool: bool) -> None:
        super().__init__()
        self.max_pool = max_pool
        self.branch1x1 = Conv(c_in, 320, 1)
        self.branch3x3_1 = Conv(c_in, 384, 1)
        self.branch3x3_2a = Conv(384, 384, (1, 3))
        self.branch3x3_2b = Conv(384, 384, (3, 1))
        self.branch3x3dbl_1 = Conv(c_in, 448, 1)
        self.branch3x3dbl_2 = Conv(448, 384, 3)
        self.branch3x3dbl_3a = Conv(384, 384, (1, 3))
        self.branch3x3dbl_3b = Conv(384, 384, (3, 1))
        self.branch_pool = Conv(c_in, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, 2048, 8, 8)."""
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        if self.max_pool:
            pool = self.branch_pool(F.max_pool2d(x, 3, stride=1, padding=1))
        else:
            pool = self.branch_pool.pooled(x)
        return torch.cat([
            self.branch1x1(x), self.branch3x3_2a(three), self.branch3x3_2b(three),
            self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double), pool,
        ], 1)  # fmt: skip
