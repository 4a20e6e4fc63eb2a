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
    total = counts.sum(-1, keepdim=True)
    p = counts.double() / total.clamp(min=1)
    entropy = -torch.special.xlogy(p, p).sum(-1)
    return torch.where(total[..., 0] > 0, entropy.exp(), torch.zeros_like(entropy)).float()


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
            self.counts[0] += _counts(codes, self.codebook_size)
            return
        position = torch.arange(codes.shape[1], device=codes.device)
        self.counts += _counts(
            codes + position * self.codebook_size, self.counts.numel()
        ).view_as(self.counts)

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
