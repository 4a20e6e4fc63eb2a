"""How pictures of any size reach the 299 x 299 of the FID Inception: three rules, three FIDs.

    tf           TensorFlow 1's bilinear, corner to corner, no antialiasing; (v - 128) / 128
    pytorch-fid  half-pixel bilinear of values in [0, 1], no antialiasing; 2 v - 1
    clean        Pillow's bicubic on each channel in floats, clipped, not rounded; (v - 128) / 128

Letters: B pictures, H W pixels in, S = 299 pixels out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

SIDE = 299


def tf_bilinear(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize as TensorFlow 1 did with its default settings.

    Output pixel i looks at i * (in / out), the ratio rounded to float32, without a half-pixel
    offset; the second neighbour is clamped to the edge. Along x first, then along y.

    Args:
        x: float (B, C, H, W). size: of the output, height and width.

    Returns:
        (B, C, *size), neither clamped nor rounded.

    Source: TensorFlow 1 ``resize_bilinear(align_corners=False, half_pixel_centers=False)``.

    Example:
        >>> tf_bilinear(torch.tensor([[[[0.0, 2.0]]]]), (1, 4)).flatten().tolist()
        [0.0, 1.0, 2.0, 2.0]
    """
    if x.shape[-2:] == size:
        return x
    low, high, part = _positions(x.shape[3], size[1], x)
    left, right = x.index_select(3, low), x.index_select(3, high)
    x = right.sub_(left).mul_(part).add_(left)
    low, high, part = _positions(x.shape[2], size[0], x)
    top, bottom = x.index_select(2, low), x.index_select(2, high)
    return bottom.sub_(top).mul_(part[:, None]).add_(top)


def _positions(before: int, after: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the two neighbours (after,) of every output pixel and the share of the second."""
    scale = torch.tensor(before / after, dtype=torch.float32, device=like.device)
    # The ratio is float32 always; the product takes the precision of the pixels.
    at = torch.arange(after, dtype=like.dtype, device=like.device) * scale.to(like.dtype)
    low = at.long().clamp_(max=before - 1)
    return low, (low + 1).clamp_(max=before - 1), at - low


def resize_tf(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Return uint8 (B, 3, H, W) as (B, 3, S, S) in about [-1, 1], by the ``tf`` rule."""
    return tf_bilinear(images.to(dtype), (SIDE, SIDE)).sub(128.0).div_(128.0)


def resize_pytorch_fid(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Return uint8 (B, 3, H, W) as (B, 3, S, S) in [-1, 1], by the ``pytorch-fid`` rule."""
    x = images.to(dtype) / 255.0
    return 2.0 * F.interpolate(x, (SIDE, SIDE), mode="bilinear", align_corners=False) - 1.0


def resize_clean(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Return uint8 (B, 3, H, W) as (B, 3, S, S) in about [-1, 1], by the ``clean`` rule."""
    planes = images.flatten(0, 1).cpu().numpy().astype(np.float32)
    small = np.stack([
        np.asarray(Image.fromarray(plane).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        for plane in planes
    ]).clip(0.0, 255.0)  # fmt: skip
    x = torch.from_numpy(small).view(len(images), 3, SIDE, SIDE).to(images.device, dtype)
    return x.sub_(128.0).div_(128.0)


RESIZES: Mapping[str, Callable[[Tensor, torch.dtype], Tensor]] = {
    "tf": resize_tf, "pytorch-fid": resize_pytorch_fid, "clean": resize_clean,
}  # fmt: skip


def resize(images: Tensor, rule: str, dtype: torch.dtype) -> Tensor:
    """Return uint8 (B, 3, H, W) as the network takes it, by the rule of that name."""
    return RESIZES[rule](images, dtype)
