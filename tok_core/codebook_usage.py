"""How much of a codebook is used: usage, perplexity, usage per position.

Letters: K codes, N positions, B batch. Every figure is reduced over processes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tok_core.processes import sum_over_processes


def code_counts(codes: Tensor, codebook_size: int) -> Tensor:
    """Return (K,) int64, how often each code occurs in ``codes`` (any shape) over all processes."""
    return sum_over_processes(_counts(codes, codebook_size))


def usage(counts: Tensor) -> Tensor:
    """Return the fraction of codes that occur at all, a scalar in [0, 1], from (..., K) counts."""
    return (counts > 0).float().mean(-1)


def perplexity(counts: Tensor) -> Tensor:
    """Return exp(entropy) of the code distribution, in [1, K]; 0 where nothing was counted.

    The number of codes that, used equally often, would carry as much information.

    Args:
        counts: (..., K) occurrences.

    Returns:
        (...) float32.

    Example:
        >>> perplexity(torch.tensor([5, 5, 0, 0]))
        tensor(2.)
    """
    value = entropy(counts).exp()
    return torch.where(counts.sum(-1) > 0, value, torch.zeros_like(value)).float()


def entropy(counts: Tensor, *, epsilon: float = 0.0) -> Tensor:
    """Return the entropy of the code distribution in nats; divide by ln 2 for bits.

    Args:
        counts: (..., K) occurrences.
        epsilon: added to every share inside the logarithm, as some evaluators do; 0 is exact.

    Returns:
        (...) float64, 0 where nothing was counted.

    Source: Shannon 1948.
    """
    p = counts.double() / counts.sum(-1, keepdim=True).clamp(min=1)
    return 0.0 - torch.special.xlogy(p, p + epsilon).sum(-1)


def codebook_statistics(codes: Tensor, codebook_size: int) -> dict[str, Tensor]:
    """Return the statistics of one batch of ``codes``, reduced over processes.

    Args:
        codes: int64 of any shape, values in [0, K).
        codebook_size: K.

    Returns:
        ``codebook/usage`` and ``codebook/perplexity`` (scalars), ``codebook/counts`` (K,) int64.
    """
    counts = code_counts(codes, codebook_size)
    return {
        "codebook/usage": usage(counts),
        "codebook/perplexity": perplexity(counts),
        "codebook/counts": counts,
    }


def add_counts(counts: Tensor, codes: Tensor, valid: Tensor | None = None) -> None:
    """Add to the counts of each position what occurs there, in place; no temporary of their size.

    Args:
        counts: (N, K) int64.
        codes: int64 (B, n), n at most N, values in [0, K), on the device of counts.
        valid: bool (B, n), false where an item has no code; None for all.
    """
    place = codes + torch.arange(codes.shape[1], device=codes.device) * counts.shape[1]
    chosen = place.reshape(-1) if valid is None else place[valid]
    counts.view(-1).index_add_(0, chosen, torch.ones_like(chosen))


class CodebookUsage:
    """Usage over many batches, whole and per token position, for validation loops.

    Counts N x K occurrences on the device of the codes (8 bytes each). ``update`` is local;
    ``compute`` is a collective.

    Args:
        codebook_size: K.
        num_tokens: N positions counted one by one; 0 counts the codebook as a whole only.

    Example:
        >>> meter = CodebookUsage(4096, num_tokens=256)
        >>> meter.update(tokens.codes)
        >>> meter.compute()["codebook/perplexity"]
    """

    def __init__(self, codebook_size: int, num_tokens: int = 0) -> None:
        self.codebook_size = codebook_size
        self.num_tokens = num_tokens
        self.counts = torch.zeros(max(num_tokens, 1), codebook_size, dtype=torch.int64)

    def update(self, codes: Tensor) -> None:
        """Count ``codes`` (B, n); shorter than N (tail-dropped) counts the first n positions."""
        self.counts = self.counts.to(codes.device)
        if self.num_tokens == 0:
            codes = codes.reshape(-1, 1)
        add_counts(self.counts, codes)

    def compute(self) -> dict[str, Tensor]:
        """Return whole usage, perplexity and counts, and (N,) figures per position if asked for."""
        counts = sum_over_processes(self.counts)
        whole = counts.sum(0)
        result = {
            "codebook/usage": usage(whole),
            "codebook/perplexity": perplexity(whole),
            "codebook/counts": whole,
        }
        if self.num_tokens:
            result["codebook/position_usage"] = usage(counts)
            result["codebook/position_perplexity"] = perplexity(counts)
        return result

    def reset(self) -> None:
        """Forget everything counted so far."""
        self.counts = torch.zeros_like(self.counts)


def _counts(codes: Tensor, size: int) -> Tensor:
    if codes.device.type == "meta":  # has no bincount
        return codes.new_empty(size)
    return torch.bincount(codes.reshape(-1), minlength=size)
