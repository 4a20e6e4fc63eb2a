"""Online clustering of a codebook: rarely used codes are drawn to latents of the batch.

Letters: N latents of this process, K codes, D dimensions, P processes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tok_core.nearest_code import nearest_code
from tok_core.processes import joined_length, joined_rows, per_process


@torch.no_grad()
def online_clustering(
    vectors: Tensor,
    usage_ema: Tensor,
    counts: Tensor,
    z: Tensor,
    *,
    decay: float = 0.99,
    l2_normalize: bool = False,
) -> None:
    """Update the usage average, then pull every rarely used code to the latent nearest to it.

    With u_k the updated average of the batch's usage, a code moves by the share
    ``a_k = exp(-10 K u_k / (1 - decay) - 0.001)`` of the way: almost 1 for a code nothing uses,
    and practically 0 for a code with a hundredth of its fair share 1/K.

    Args:
        vectors: (K, D) codes, changed in place.
        usage_ema: (K,) average fraction of latents per code, changed in place.
        counts: (K,) occurrences in this batch, over all processes.
        z: (N, D) latents of this process, not normalised.
        decay: of the average, in (0, 1).
        l2_normalize: measure distances between normalised latents and codes; what a code is
            drawn to is the latent as it came either way.

    Source: Zheng and Vedaldi 2023, "Online Clustered Codebook", arXiv 2307.15139, eq. 4 to 6, in
    the form TA-TiTok trains with (arXiv 2501.07730).

    Example:
        >>> online_clustering(codebook, usage_ema, counts, latents)
    """
    share = counts.float() / counts.sum().clamp(min=1)
    usage_ema.mul_(decay).add_(share.to(usage_ema.dtype), alpha=1 - decay)
    pull = torch.exp(-usage_ema.float() * len(vectors) * 10 / (1 - decay) - 1e-3)[:, None]
    anchors = _nearest_latents(vectors.float(), z.float(), l2_normalize)
    vectors.copy_((1 - pull) * vectors + pull * anchors)


def _nearest_latents(vectors: Tensor, z: Tensor, l2_normalize: bool) -> Tensor:
    """Return (K, D), for every code the nearest latent of the joined batch."""
    points = F.normalize(z, dim=-1) if l2_normalize else z
    codes = F.normalize(vectors, dim=-1) if l2_normalize else vectors
    index = nearest_code(codes, points)
    distance = (points[index] - codes).square().sum(1)
    # Each process names its best latent; the nearest wins, the lowest rank on ties.
    best = per_process(distance).argmin(0, keepdim=True)
    positions = per_process(index + joined_length(z)[0]).gather(0, best)[0]
    return joined_rows(z, positions)
