"""SSIM as different programs compute it: one name, values that differ by 0.1 on the same pair.

    gaussian                 11x11 Gaussian inside the picture: ours, scikit-image's with weights
    skimage                  7x7 uniform, sample covariance: scikit-image's default
    llamagen                 that on [0, 1] values with range 2: LlamaGen, TokenFlow, ImageFolder
    torchmetrics             11x11 Gaussian, borders reflected and counted
    torchmetrics-own-range   the same where data_range was left out: the pair's own range
    luma                     torchmetrics' on BT.601 luma: pyiqa's ``ssim``

All in float64 and per picture.  The constants of Wang et al. 2004 grow with the range, so a range
twice too large (llamagen) makes scores look better.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from tok_core.image_measures import byte_pair, similarity_index, ssim

UNIFORM = 7
# Shares of red, green and blue in ITU-R BT.601 luma.
BT601 = (0.299, 0.587, 0.114)


def ssim_skimage(test: Tensor, reference: Tensor) -> Tensor:
    """Return (B,) scikit-image's default on bytes: uniform 7x7 window, sample covariance."""
    return _uniform(*byte_pair(test, reference), peak=255.0)


def ssim_llamagen(test: Tensor, reference: Tensor) -> Tensor:
    """Return (B,) LlamaGen's: scikit-image's default on [0, 1] values with a range of 2.

    Args:
        test: (B, C, H, W) uint8, or float in [-1, 1] which is turned into bytes.
        reference: the same shape; a float picture in [-1, 1] stays unquantised, as there.
    """
    return _uniform(*unit_pair(test, reference), peak=2.0)


def ssim_torchmetrics(test: Tensor, reference: Tensor) -> Tensor:
    """Return (B,) torchmetrics' with a range of 1: reflected borders count like the inside."""
    a, b = byte_pair(test, reference)
    return _torchmetrics(a / 255, b / 255, 1.0)


def ssim_torchmetrics_own_range(test: Tensor, reference: Tensor) -> Tensor:
    """Return (B,) torchmetrics' where data_range was forgotten: each pair's own range.

    There it is the range of the batch, so that values depend on who shares it; here each picture
    is its own batch. Two flat pictures have no range, and so no value.
    """
    a, b = byte_pair(test, reference)
    found = []
    for x, y in zip(a.split(1), b.split(1), strict=True):
        flat = x.min() == x.max() and y.min() == y.max()
        value = _torchmetrics(x / 255, y / 255, None)
        found.append(torch.full_like(value, torch.nan) if flat else value)
    return torch.cat(found)


def ssim_luma(test: Tensor, reference: Tensor) -> Tensor:
    """Return (B,) that of BT.601 luma, full range and unrounded, with reflected borders."""
    a, b = byte_pair(test, reference)
    shares = torch.tensor(BT601, dtype=torch.float64, device=a.device).view(1, 3, 1, 1)
    return _torchmetrics(
        (a * shares).sum(1, keepdim=True) / 255, (b * shares).sum(1, keepdim=True) / 255, 1.0
    )


def unit_pair(test: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Return both in [0, 1], float64: the test picture from bytes, a float reference as it is."""
    a, b = byte_pair(test, reference)
    exact = b / 255 if reference.dtype == torch.uint8 else (reference.double() + 1) / 2
    return a / 255, exact


def _uniform(a: Tensor, b: Tensor, *, peak: float) -> Tensor:
    n = UNIFORM**2
    return similarity_index(
        a, b, lambda x: F.avg_pool2d(x, UNIFORM, stride=1), peak=peak, unbias=n / (n - 1)
    )


def _torchmetrics(a: Tensor, b: Tensor, data_range: float | None) -> Tensor:
    from torchmetrics.functional.image import structural_similarity_index_measure

    found = structural_similarity_index_measure(a, b, reduction="none", data_range=data_range)
    assert isinstance(found, Tensor)
    return found.double().reshape(-1)


# By name: the measure, and the smallest side of a picture that it is defined for.
SSIM_CONVENTIONS: Mapping[str, tuple[Callable[[Tensor, Tensor], Tensor], int]] = {
    "gaussian": (ssim, 1),
    "skimage": (ssim_skimage, UNIFORM),
    "llamagen": (ssim_llamagen, UNIFORM),
    "torchmetrics": (ssim_torchmetrics, 6),  # half the window must fit to be reflected
    "torchmetrics-own-range": (ssim_torchmetrics_own_range, 6),
    "luma": (ssim_luma, 6),
}
