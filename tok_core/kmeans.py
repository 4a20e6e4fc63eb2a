"""k-means over the joined batch: where a codebook starts, so that every code is near some data.

Letters: N latents of this process, M of all processes together, K codes, D dimensions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tok_core.nearest_code import nearest_code
from tok_core.processes import from_first_process, joined_length, joined_rows

# More latents per code than this change the centres little and cost time and memory.
_POINTS_PER_CODE = 32


@torch.no_grad()
def kmeans(
    z: Tensor,
    num_codes: int,
    *,
    iterations: int = 10,
    spherical: bool = False,
    seed: int = 0,
    start: Tensor | None = None,
    keep_empty: bool = False,
    points_per_code: int | None = _POINTS_PER_CODE,
) -> Tensor:
    """Return K centres of the latents of all processes, identical on each of them.

    Lloyd's iterations from randomly chosen latents, on at most 32 K latents taken evenly from the
    joined batch; a centre that loses all its latents moves to the latent farthest from its own.
    With fewer latents than codes, the rest are the same latents moved by a hundredth of their
    spread.

    Args:
        z: (N, D) latents of this process; N may differ between processes.
        num_codes: K.
        iterations: of assigning and averaging, at least 0.
        spherical: keep centres at unit length, for codebooks that are L2-normalised.
        seed: of the choice of starting latents.
        start: (K, D) centres to start from instead of randomly chosen latents, alike on every
            process.
        keep_empty: a centre that loses all its latents stays where it is.
        points_per_code: latents per code that are looked at, at most; None takes all.

    Returns:
        (K, D) float32 centres.

    Source: Lloyd 1982; as codebook start: Lancucki et al. 2020, arXiv 2005.08520.

    Example:
        >>> codebook.copy_(kmeans(latents, 4096))
    """
    z = F.normalize(z.float(), dim=-1) if spherical else z.float()
    total = joined_length(z)[1]
    size = total if points_per_code is None else min(total, points_per_code * num_codes)
    # Evenly spaced positions of the joined batch: one process or many choose the same latents.
    points = joined_rows(z, torch.arange(size, device=z.device) * total // size)
    if start is None:
        # CPU generator: the same choice on every device.
        centres = _start(points, num_codes, torch.Generator().manual_seed(seed))
    else:
        centres = start.to(points)
    for _ in range(iterations):
        centres = F.normalize(centres, dim=-1) if spherical else centres
        codes = nearest_code(points, centres)
        counts = torch.bincount(codes, minlength=num_codes)
        sums = torch.zeros_like(centres).index_add_(0, codes, points)
        means = sums / counts.clamp(min=1)[:, None]
        if keep_empty:
            means = torch.where((counts > 0)[:, None], means, centres)
        else:
            _fill_empty(means, centres, counts, points, codes)
        centres = means
    centres = F.normalize(centres, dim=-1) if spherical else centres
    return from_first_process(centres)


def _fill_empty(
    means: Tensor, centres: Tensor, counts: Tensor, points: Tensor, codes: Tensor
) -> None:
    """Give centres without latents a place in ``means``: a far latent, else where they were."""
    empty = counts == 0
    means[empty] = centres[empty]
    distance = (points - centres[codes]).square().sum(1)
    far = distance.argsort(descending=True, stable=True)[: int((distance > 0).sum())]
    chosen = empty.nonzero()[: len(far), 0]
    means[chosen] = points[far[: len(chosen)]]


def _start(points: Tensor, num_codes: int, generator: torch.Generator) -> Tensor:
    order = torch.randperm(len(points), generator=generator)[:num_codes]
    centres = points[order.to(points.device)]
    missing = num_codes - len(centres)
    if missing == 0:
        return centres
    again = torch.randint(len(points), (missing,), generator=generator).to(points.device)
    noise = torch.randn(missing, points.shape[1], generator=generator).to(points.device)
    spread = points.std(0, unbiased=False).clamp(min=1e-6)
    return torch.cat((centres, points[again] + 0.01 * spread * noise))
