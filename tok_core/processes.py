"""What the processes of one run know together: sums, and rows of their joined batch.

The joined batch is the batches of all processes one after the other, in rank order. Everything
here is a collective: with more than one process, all of them must call it.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Return the number of processes of this run; 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_processes(value: Tensor) -> Tensor:
    """Return the sum of ``value`` (any shape) over all processes; itself with one process."""
    if world_size() == 1:
        return value
    value = value.contiguous().clone()
    dist.all_reduce(value)
    return value


def per_process(value: Tensor) -> Tensor:
    """Return (P, ...) the equally shaped ``value`` of every process, in rank order."""
    if world_size() == 1:
        return value[None]
    parts = [torch.empty_like(value) for _ in range(world_size())]
    dist.all_gather(parts, value.contiguous())
    return torch.stack(parts)


def from_first_process(value: Tensor) -> Tensor:
    """Overwrite ``value`` in place with the first process's copy and return it."""
    if world_size() > 1:
        dist.broadcast(value, src=0)
    return value


def joined_length(rows: Tensor) -> tuple[int, int]:
    """Return (rows before this process's own, rows in all) for the joined batch of ``rows``."""
    if world_size() == 1:
        return 0, len(rows)
    lengths = per_process(torch.tensor(len(rows), device=rows.device)).tolist()
    return sum(lengths[: dist.get_rank()]), sum(lengths)


def joined_rows(rows: Tensor, indices: Tensor) -> Tensor:
    """Return chosen rows of the joined batch, the same on every process.

    Memory is that of the chosen rows, never of the joined batch.

    Args:
        rows: (N, D) this process's own batch; N may differ between processes.
        indices: (M,) int64 positions in the joined batch, equal on every process.

    Returns:
        (M, D) the rows.

    Example:
        >>> joined_rows(z, torch.arange(0, joined_length(z)[1], 7))
    """
    if world_size() == 1:
        return rows[indices]
    before, _ = joined_length(rows)
    own = (indices >= before) & (indices < before + len(rows))
    chosen = rows.new_zeros(len(indices), rows.shape[1])
    chosen[own] = rows[indices[own] - before]
    # Every row has one owner and zeros elsewhere, so the sum is exact.
    return sum_over_processes(chosen)


def joined_mean(mean: Tensor) -> Tensor:
    """Return the mean over processes of each one's ``mean`` (any shape), of equally many rows each.

    The value is that of the joined batch, the gradient the one of this process's part: with
    gradients averaged over processes afterwards, as DDP does, a function of it has the gradient
    that one process would compute on the joined batch.

    Example:
        >>> loss = (scores - joined_mean(scores.mean())).square().mean()
    """
    if world_size() == 1:
        return mean
    local = mean.detach()
    return mean + (sum_over_processes(local) / world_size() - local)
