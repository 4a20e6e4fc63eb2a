"""Dead-code restart: codes that nothing chose for a while are moved onto latents of the batch.

Letters: N latents of this process, K codes, D dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tok_core.processes import joined_length, joined_rows


@torch.no_grad()
def restart_dead_codes(vectors: Tensor, counts: Tensor, z: Tensor, *, seed: int) -> Tensor:
    """Move every code with count 0 onto a randomly drawn latent of the joined batch, in place.

    Latents are drawn without replacement; where there are more dead codes than latents, the rest
    wait for the next call (two codes in one place would leave the second dead).

    Args:
        vectors: (K, D) codes, changed in place and alike on every process.
        counts: (K,) how often each code was chosen since the last call, over all processes.
        z: (N, D) latents of this process.
        seed: of the draw, equal on every process; the training step does.

    Returns:
        (R,) int64 indices of the codes that were moved.

    Source: Dhariwal et al. 2020, "Jukebox", arXiv 2005.00341, section 3.2.

    Example:
        >>> moved = restart_dead_codes(codebook, counts, latents, seed=step)
    """
    dead = (counts == 0).nonzero()[:, 0]
    if len(dead) == 0:
        return dead
    total = joined_length(z)[1]
    # CPU generator: the same draw on every device and after a resume.
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    dead = dead[:total]
    vectors[dead] = joined_rows(z, order[: len(dead)].to(z.device)).to(vectors.dtype)
    return dead
