"""PSNR and SSIM of pictures, both on the bytes that a picture file would hold.

Letters: B batch, C channels, H W pixels, k window side.

One byte rule for the whole suite, ``round(255 * (x + 1) / 2)`` clamped to 0..255 with halves to
even: a float picture in [-1, 1] is turned into bytes before anything is measured, so the numbers
are those of the written PNG.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from tok_core.errors import MediaError

PEAK = 255.0
WINDOW, SIGMA, K1, K2 = 11, 1.5, 0.01, 0.03  # Wang et al. 2004, section III-B


def to_uint8(x: Tensor) -> Tensor:
    """Turn a picture in [-1, 1] into bytes: ``round(255 * (x + 1) / 2)``, clamped, halves to even.

    Args:
        x: float, any shape; values outside [-1, 1] are clamped.

    Returns:
        uint8, same shape.

    Raises:
        MediaError: x holds NaN, for which there is no byte.

    Example:
        >>> to_uint8(torch.tensor([-1.0, 0.0, 1.0, 7.0])).tolist()
        [0, 128, 255, 255]
    """
    return ((without_nan(x) + 1) / 2).clamp(0, 1).mul(PEAK).round().to(torch.uint8)


def without_nan(x: Tensor) -> Tensor:
    """Return a picture in float32 or float64; MediaError where it holds NaN, which is no byte."""
    if bool(torch.isnan(x).any()):
        raise MediaError(
            "the picture holds NaN where values in [-1, 1] are legal: the model that made it is"
            " damaged, load another checkpoint"
        )
    return x if x.dtype == torch.float64 else x.float()


def psnr(test: Tensor, reference: Tensor) -> Tensor:
    """Return 10 log10(255^2 / MSE) over all channels and pixels, per picture.

    Args:
        test: (B, C, H, W), uint8 or float in [-1, 1] (goes through `to_uint8`).
        reference: the same shape.

    Returns:
        float64 (B,) in decibels; identical pictures give +inf.

    Raises:
        MediaError: the shapes differ.

    Example:
        >>> psnr(torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4)).round(decimals=2).tolist()
        [6.05]
    """
    a, b = byte_pair(test, reference)
    error = (a - b).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(PEAK**2 / error)


def ssim(test: Tensor, reference: Tensor) -> Tensor:
    """Return the structural similarity, mean over channels and window positions, per picture.

    Gaussian window 11 x 11, sigma 1.5, only where it lies wholly inside the picture, population
    covariance, K1 0.01, K2 0.03, range 255, each channel alone, in float64 (scikit-image gives the
    same with ``gaussian_weights=True, sigma=1.5, use_sample_covariance=False``).  A picture with a
    side below 11 pixels takes the largest odd window that fits, with the same sigma.

    Args:
        test: (B, C, H, W), uint8 or float in [-1, 1] (goes through `to_uint8`).
        reference: the same shape.

    Returns:
        float64 (B,), at most 1.

    Raises:
        MediaError: the shapes differ.

    Source: Wang, Bovik, Sheikh, Simoncelli 2004, eq. 13.

    Example:
        >>> ssim(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16)).tolist()
        [1.0]
    """
    a, b = byte_pair(test, reference)
    side = min(WINDOW, *a.shape[-2:])
    window = _gaussian(side - 1 + side % 2, a.device)
    return similarity_index(a, b, lambda x: _blur(x, window), peak=PEAK)


def similarity_index(
    a: Tensor,
    b: Tensor,
    average: Callable[[Tensor], Tensor],
    *,
    peak: float,
    unbias: float = 1.0,
) -> Tensor:
    """Return the mean structural similarity under any window and range, per picture.

    Args:
        a: (B, C, H, W) values of any range. b: the same shape.
        average: the window's weighted mean at every place, (B, C, H, W) to (B, C, h, w).
        peak: range of the values, which the two constants grow with.
        unbias: factor on variances and covariance, n / (n - 1) for those of a sample.

    Returns:
        (B,) of the type of a.

    Source: Wang, Bovik, Sheikh, Simoncelli 2004, eq. 13.
    """
    mean_a, mean_b = average(a), average(b)
    var_a = unbias * (average(a * a) - mean_a.square())
    var_b = unbias * (average(b * b) - mean_b.square())
    covariance = unbias * (average(a * b) - mean_a * mean_b)
    c1, c2 = (K1 * peak) ** 2, (K2 * peak) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a.square() + mean_b.square() + c1)
    structure = (2 * covariance + c2) / (var_a + var_b + c2)
    return (luminance * structure).mean(dim=(1, 2, 3))


def check_pair(test: Tensor, reference: Tensor) -> None:
    """Raise MediaError unless both are batches (B, C, H, W) of one shape, and not empty."""
    if test.shape != reference.shape or test.ndim != 4 or test.numel() == 0:
        raise MediaError(
            f"pictures of shapes {tuple(test.shape)} and {tuple(reference.shape)} cannot be"
            " compared: give two batches (B, C, H, W) of one shape"
        )


def byte_pair(test: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Return two batches of one shape as bytes in float64; MediaError where shapes differ.

    Args:
        test: (B, C, H, W), uint8 or float in [-1, 1] (goes through `to_uint8`).
        reference: the same shape.
    """
    check_pair(test, reference)
    a, b = (x if x.dtype == torch.uint8 else to_uint8(x) for x in (test, reference))
    return a.double(), b.double()


def _gaussian(side: int, device: torch.device) -> Tensor:
    at = torch.arange(side, dtype=torch.float64, device=device) - side // 2
    weights = torch.exp(-at.square() / (2 * SIGMA**2))
    return weights / weights.sum()


def _blur(x: Tensor, window: Tensor) -> Tensor:
    """Filter (B, C, H, W) along both axes, without padding."""
    planes = x.flatten(0, 1)[:, None]
    planes = F.conv2d(F.conv2d(planes, window[None, None, None, :]), window[None, None, :, None])
    return planes[:, 0].unflatten(0, x.shape[:2])
