"""Usage per scale: a coarse scale uses its codes otherwise than a fine one, and collapses first.

Letters: B batch, H W the latent's grid, S scales, K codes.  Figures are reduced over processes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tok_core.codebook_usage import code_counts, perplexity, usage
from tok_core.processes import per_process, world_size

# A code counts as used where it is hit at least this share of what equal use would give.
_MARGIN = 0.08


def scale_statistics(codes: Sequence[Tensor], codebook_size: int) -> dict[str, Tensor]:
    """Return the statistics of one batch.

    Args:
        codes: int64 of any shape, one tensor for every scale, values in [0, K).
        codebook_size: K.

    Returns:
        ``codebook/usage`` and ``codebook/perplexity`` over all scales together,
        ``codebook/counts`` (K,) for one scale, else (S, K), and for more than one scale
        ``codebook/usage/scale0`` and ``codebook/perplexity/scale0`` and so on.
    """
    # One collective for all scales: scale s counts in rows of its own.
    shifted = [part.reshape(-1) + s * codebook_size for s, part in enumerate(codes)]
    counts = code_counts(torch.cat(shifted), len(codes) * codebook_size)
    counts = counts.view(len(codes), codebook_size)
    together = counts.sum(0)
    found = {
        "codebook/usage": usage(together),
        "codebook/perplexity": perplexity(together),
        "codebook/counts": together if len(codes) == 1 else counts,
    }
    if len(codes) > 1:
        for s, (used, spread) in enumerate(zip(usage(counts), perplexity(counts), strict=True)):
            found[f"codebook/usage/scale{s}"] = used
            found[f"codebook/perplexity/scale{s}"] = spread
    return found


class AverageHits(nn.Module):
    """Running average of how often every code is chosen on every scale.

    A batch holds few codes of a coarse scale (one a picture on 1x1): its own counts say little.

    Args:
        num_scales: S. codebook_size: K.
        official_count: count every scale of a batch as an update, as the released codes of VAR
            and ImageFolder do: only the first scale of the first batch is copied, the other scales
            grow from what was there (0 in a fresh model), and decay 0.99 begins after 100 / S
            batches.

    Attributes:
        hits: (S, K) float32, average hits in a batch of all processes.

    Source: Tian et al. 2024, arXiv 2404.02905: the first batch is copied, decay 0.9 for 100
    updates, then 0.99.

    Example:
        >>> average = AverageHits(10, 4096)
        >>> average.update(counts)
        >>> average.usage(batch_cells=8 * 256)
    """

    hits: Tensor
    updates: Tensor

    def __init__(
        self, num_scales: int, codebook_size: int, *, official_count: bool = False
    ) -> None:
        super().__init__()
        self.official_count = official_count
        self.register_buffer("hits", torch.zeros(num_scales, codebook_size))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, counts: Tensor) -> None:
        """Move the averages by the counts (S, K) of a batch, already summed over processes."""
        scales = len(self.hits)
        each, apart = (scales, 1) if self.official_count else (1, 0)
        done = [int(self.updates) * each + apart * scale for scale in range(scales)]
        decay = [0.0 if n == 0 else 0.9 if n < 100 else 0.99 for n in done]
        keep = self.hits.new_tensor(decay)[:, None]
        self.hits.mul_(keep).add_(counts.to(self.hits) * (1.0 - keep))
        self.updates += 1

    def usage(self, batch_cells: int) -> Tensor:
        """Return (S,) the share of codes in use on every scale, in [0, 1].

        Args:
            batch_cells: cells of the latents of one process's batch, B H W; a code is in use
                where its average reaches 0.08 of these, of all processes, divided by K.
        """
        margin = _MARGIN * world_size() * batch_cells / self.hits.shape[1]
        return (self.hits >= margin).float().mean(1)


class RecentCodes(nn.Module):
    """The codes chosen last, first in first out: usage over a window longer than a batch.

    Args:
        length: codes remembered, at least 1.

    Attributes:
        codes: (length,) int64, newest last; starts as zeros.

    Source: released code of LlamaGen (arXiv 2406.06525) and TokenFlow (arXiv 2412.03069), whose
    windows hold 65,536 and 131,072 codes of one process; here of all processes.

    Example:
        >>> recent = RecentCodes(65536)
        >>> recent.push([codes])
        >>> recent.usage(16384)
    """

    codes: Tensor

    def __init__(self, length: int) -> None:
        super().__init__()
        self.register_buffer("codes", torch.zeros(length, dtype=torch.int64))

    @torch.no_grad()
    def push(self, codes: Sequence[Tensor]) -> None:
        """Remember a batch, coarse scales first; codes below 0 are passed over.

        Args:
            codes: int64 tensors of any shape, one for every scale; each shaped alike on every
                process.
        """
        new = torch.cat([per_process(part.reshape(-1)).reshape(-1) for part in codes])
        window = torch.cat((self.codes, new[new >= 0]))
        self.codes.copy_(window[-len(self.codes) :])

    def usage(self, codebook_size: int) -> Tensor:
        """Return the share of the K codes that occur in the window, a scalar."""
        seen = torch.zeros(codebook_size, device=self.codes.device)
        return usage(seen.index_fill_(0, self.codes, 1))
