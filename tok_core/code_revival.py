"""Code revival: where a codebook starts, and what happens to codes that nothing chooses.

For quantizers that keep codes in a form of their own (two tables under one index, one table over
many scales): they pass the codes as one table and put back what comes out.  Letters: N latents,
K codes, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tok_core.dead_codes import restart_dead_codes
from tok_core.errors import ConfigError
from tok_core.kmeans import kmeans


class CodeRevival(nn.Module):
    """k-means start and dead-code restart, each only where its option is on.

    Both are collectives. State exists only where an option needs it.

    Args:
        codebook_size: K.
        kmeans_start: put the codes on k-means centres of the first batch.
        dead_code_every: batches between restarts of codes unused since the last one; 0 never.

    Raises:
        ConfigError: ``dead_code_every`` below 0.

    Example:
        >>> revival = CodeRevival(4096, kmeans_start=True, dead_code_every=100)
        >>> moved, vectors = revival.start(lambda: latents)
    """

    initialised: Tensor
    recent_counts: Tensor
    batches: Tensor

    def __init__(self, codebook_size: int, *, kmeans_start: bool, dead_code_every: int) -> None:
        super().__init__()
        if dead_code_every < 0:
            raise ConfigError(
                f"dead_code_every is {dead_code_every}; it counts training forwards: give 0 or more"
            )
        self.codebook_size = codebook_size
        self.kmeans_start, self.dead_code_every = kmeans_start, dead_code_every
        if kmeans_start:
            self.register_buffer("initialised", torch.zeros((), dtype=torch.int64))
        if dead_code_every:
            self.register_buffer("recent_counts", torch.zeros(codebook_size, dtype=torch.int64))
            self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def start(self, latents: Callable[[], Tensor]) -> Tensor | None:
        """Return (K, D) codes to begin with, on the first call; None ever after.

        Args:
            latents: gives the (N, D) latents, asked only where they are needed.
        """
        if not self.kmeans_start or bool(self.initialised):
            return None
        self.initialised.fill_(1)
        return kmeans(latents(), self.codebook_size)

    @torch.no_grad()
    def restart(
        self, vectors: Tensor, counts: Tensor, latents: Callable[[], Tensor]
    ) -> tuple[Tensor, Tensor] | None:
        """Count a batch; when it is time, return codes to move, (M,) int64, and (M, D) whereto.

        Args:
            vectors: (K, D) the codes as they are.
            counts: (K,) of the batch, over all processes.
            latents: gives the (N, D) latents of the batch, asked only where they are needed.
        """
        if not self.dead_code_every:
            return None
        self.recent_counts += counts
        self.batches += 1
        done = int(self.batches)
        if done % self.dead_code_every:
            return None
        table = vectors.detach().clone()
        moved = restart_dead_codes(table, self.recent_counts, latents(), seed=done)
        self.recent_counts.zero_()
        return moved, table[moved]
