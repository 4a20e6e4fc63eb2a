"""Rate matching: features of one frame rate, read at the moments of another.

    (B, L, D) at rate r, first frame at second s --mean over a target frame--> --linear--> (B, F, D)

A teacher's frames (50 a second for HuBERT) are rarely a codec's (40, 75, 100).

Letters: B sounds, L frames of the source, F moments, D features.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def at_moments(features: Tensor, moments: Tensor, *, rate: float, first: float) -> Tensor:
    """Return features at other moments, by linear interpolation between frames.

    Where a moment stands for more than one source frame, these are averaged first, so that a slow
    codec hears all of what its frame covers.  Moments outside the frames take the nearest one.

    Args:
        features: (B, L, D), L at least 1.
        moments: float (F,) seconds, rising evenly: centres of the target frames.
        rate: source frames per second. first: second of the first frame's centre.

    Returns:
        (B, F, D) in the type of ``features``.

    Example:
        >>> at_moments(torch.tensor([[[0.0], [2.0]]]), torch.tensor([0.5]), rate=1.0, first=0.0)
        tensor([[[1.]]])
    """
    frames = features.shape[1]
    spacing = float(moments[1] - moments[0]) * rate if len(moments) > 1 else 1.0
    width = min(round(spacing), frames)
    offset = 0.0
    if width > 1:
        rows = F.avg_pool1d(features.transpose(1, 2), width, stride=1)
        features, offset = rows.transpose(1, 2), (width - 1) / 2
    last = features.shape[1] - 1
    place = ((moments.to(features.device) - first) * rate - offset).clamp(0, last)
    low = place.floor().long().clamp(max=max(last - 1, 0))
    share = (place - low).to(features.dtype)[:, None]
    return torch.lerp(features[:, low], features[:, (low + 1).clamp(max=last)], share)
