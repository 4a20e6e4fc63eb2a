"""Nearest-code search that never holds the N x K matrix of distances.

Letters: N vectors, K codes, D dimensions, R rows and C codes of one block, J = ceil(K / C) blocks.

``argmin_k ||z - c_k||^2 = argmax_k (z . c_k - ||c_k||^2 / 2)``: a product with one extra column.
Taking the *index* of a maximum is an order of magnitude slower than taking the maximum (torch
vectorises the second only), and for small D it is what the search spends its time on. So:

    1. every block of R x C scores is made in one small buffer and reduced at once, while it lies
       in the cache, to its R maxima: an N x J table of block maxima remains;
    2. the winning block of each row is known; rows are sorted by it, each block scores its own
       rows once more and only now looks for the index: N x C work instead of N x K.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tok_core.errors import ConfigError, nearest
from tok_core.full_float32 import full_float32

# One block of scores is 2 MB on CPU, the second-level cache of one current core (measured best
# of 128..1024 codes by 512..8192 rows); GPUs want fewer, larger launches.
_CPU_BLOCK = (1024, 512)
_GPU_BLOCK = (16384, 2048)
# Below this many scores in all, one product and one argmax cost less than the second pass.
_DIRECT_SCORES = 1 << 17
METRICS = ("l2", "cosine")


@torch.no_grad()
def nearest_code(z: Tensor, vectors: Tensor, *, metric: str = "l2") -> Tensor:
    """Return, for each vector, the index of the nearest code; the lowest index on ties.

    Computed in float32 with autocast off, without gradient, in extra memory of about
    ``4 * (N + K) * (D + 1) + 4 * N * K / 512`` bytes plus one 2 MB block (CPU).

    Args:
        z: (N, D) vectors, any floating type; N may be 0.
        vectors: (K, D) codes, K at least 1.
        metric: ``"l2"`` (Euclidean) or ``"cosine"`` (both sides are L2-normalised first).

    Returns:
        (N,) int64 codes in [0, K).

    Raises:
        ConfigError: unknown metric, or shapes that do not fit.

    Source: van den Oord et al. 2017, "Neural Discrete Representation Learning", eq. 1.

    Example:
        >>> nearest_code(torch.tensor([[0.9, 0.1]]), torch.eye(2))
        tensor([0])
    """
    _check(z, vectors, metric)
    with full_float32(z.device.type):
        z, vectors = z.detach().float(), vectors.detach().float()
        if metric == "cosine":
            z, vectors = F.normalize(z, dim=-1), F.normalize(vectors, dim=-1)
        if z.device.type == "meta" or z.shape[0] == 0:
            return z.new_empty(z.shape[0], dtype=torch.int64)
        # [z, 1] . [c, -||c||^2 / 2]: the bias rides along as one more column of the product.
        rows = torch.cat((z, z.new_ones(len(z), 1)), dim=1)
        table = torch.cat((vectors, vectors.square().sum(1, keepdim=True).mul_(-0.5)), dim=1)
        if len(rows) * len(table) <= _DIRECT_SCORES:
            return (rows @ table.t()).argmax(1)
        return _blocked_argmax(rows, table)


def _blocked_argmax(rows: Tensor, table: Tensor) -> Tensor:
    """Return argmax_k of ``rows @ table.T`` by the two passes of the module docstring."""
    height, width = _CPU_BLOCK if rows.device.type == "cpu" else _GPU_BLOCK
    height, width = min(height, len(rows)), min(width, len(table))
    # The last block is moved back to full width and overlaps its neighbour: equal shapes mean
    # equal rounding, so a code that is in the table twice scores the same in every block.
    starts = [min(start, len(table) - width) for start in range(0, len(table), width)]
    blocks = [table[start : start + width].t().contiguous() for start in starts]
    buffer = rows.new_empty(height * width)
    maxima = rows.new_empty(len(rows), len(blocks))
    for at in range(0, len(rows), height):
        part = rows[at : at + height]
        scores = buffer[: len(part) * width].view(-1, width)
        for j, block in enumerate(blocks):
            torch.mm(part, block, out=scores)
            maxima[at : at + height, j] = scores.amax(1)
    winner = maxima.argmax(1)
    order = winner.argsort()
    counts = torch.bincount(winner, minlength=len(blocks)).tolist()
    codes = torch.empty_like(winner)
    end = 0
    for start, block, count in zip(starts, blocks, counts, strict=True):
        begin, end = end, end + count
        for at in range(begin, end, height):
            mine = order[at : min(at + height, end)]
            scores = buffer[: len(mine) * width].view(-1, width)
            torch.mm(rows[mine], block, out=scores)
            codes[mine] = scores.argmax(1).add_(start)
    return codes


def _check(z: Tensor, vectors: Tensor, metric: str) -> None:
    if metric not in METRICS:
        legal = ", ".join(METRICS) + nearest(metric, METRICS)
        raise ConfigError(f"metric '{metric}' is unknown; legal are {legal}")
    fits = z.ndim == 2 and vectors.ndim == 2 and z.shape[1] == vectors.shape[1]
    if not fits or vectors.shape[0] == 0:
        raise ConfigError(
            f"vectors of shape {tuple(z.shape)} met codes of shape {tuple(vectors.shape)}; "
            "legal are (N, D) and (K, D) with K at least 1: flatten the leading axes first"
        )
