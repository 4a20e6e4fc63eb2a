"""EMA codebook: every code is the running average of the latents assigned to it.

Letters: N latents of this process, K codes, D dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tok_core.processes import sum_over_processes

# A code whose average count fell below this keeps its place: sum / count is only noise by then.
_SMALLEST_COUNT = 1e-4


@torch.no_grad()
def update_ema_codebook(
    vectors: Tensor,
    usage_ema: Tensor,
    sum_ema: Tensor,
    counts: Tensor,
    codes: Tensor,
    z: Tensor,
    *,
    decay: float = 0.99,
    smoothing: float = 0.0,
    joined: bool = True,
) -> None:
    """Update both averages and put every code on their quotient, in place.

    ``n <- decay n + (1 - decay) counts``, ``m <- decay m + (1 - decay) sums``, ``c = m / n``.
    Without smoothing a code that lost its latents stays where it is. With it, every code is
    ``m / n'``, ``n' = (n + e) / (sum n + K e) sum n``, and such a code drifts to 0.

    Args:
        vectors: (K, D) codes.
        usage_ema: (K,) average count n.
        sum_ema: (K, D) average sum m.
        counts: (K,) occurrences in this batch, over all processes.
        codes: (N,) int64 codes of ``z``.
        z: (N, D) latents of this process.
        decay: of the averages, in (0, 1).
        smoothing: e of Laplace smoothing, as EnCodec and its heirs train (1e-5); 0 for none.
        joined: sum the latents over processes; False takes this process's alone (and its counts).

    Source: van den Oord et al. 2017, arXiv 1711.00937, appendix A.1, eq. 6 to 8.

    Example:
        >>> update_ema_codebook(codebook, usage_ema, sum_ema, counts, codes, latents)
    """
    sums = torch.zeros_like(sum_ema).index_add_(0, codes, z.to(sum_ema.dtype))
    usage_ema.lerp_(counts.to(usage_ema.dtype), 1 - decay)
    sum_ema.lerp_(sum_over_processes(sums) if joined else sums, 1 - decay)
    if smoothing:
        total = usage_ema.sum()
        smoothed = (usage_ema + smoothing) / (total + len(usage_ema) * smoothing) * total
        vectors.copy_(sum_ema / smoothed[:, None])
        return
    alive = (usage_ema > _SMALLEST_COUNT)[:, None]
    means = sum_ema / usage_ema.clamp(min=_SMALLEST_COUNT)[:, None]
    vectors.copy_(torch.where(alive, means, vectors))
