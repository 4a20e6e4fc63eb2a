"""Neighbour table: the nearest codes of every code, searched once and looked up ever after.

    distances of a block of queries to a block of codes -> keys -> the smallest delta so far

Letters: K codes, D dimensions, N queries, R queries and C codes of one block, delta neighbours.

Many codes lie equally far from one another (all neighbours of a scalar level, all binary words one
bit away), and which of them comes first decides what a seed perturbs. So distances are taken in
float64, those that agree to twelve digits count as equal, and the lower index goes first: distance
and index share one integer key, and no two keys are equal whatever the device or the block.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tok_core.codebook import Codebook
from tok_core.errors import ConfigError

# Keys of 8 bytes in a block: 4 MB, about three alive at a time, near a core's own cache.
_ROWS, _COLUMNS = 64, 8192
# GPUs want few, large launches; their block is 67 MB.
_GPU_ROWS = 1024
# Cells of a distance, relative to the largest possible one: coarser than float64's rounding by a
# factor of 100 and more, finer than float32's by 100,000.
_CELLS = 40


@torch.no_grad()
def neighbour_table(codebook: Codebook, delta: int) -> Tensor:
    """Return, for every code, the ``delta`` codes nearest to it, itself first.

    Extra memory is that of the table and about 20 MB; the K x K distances never exist at once.

    Args:
        codebook: vectors (K, D) and the metric of the assignment.
        delta: neighbours wanted, itself included, at least 1; clipped to K.

    Returns:
        int64 (K, min(delta, K)), nearest first, the lower index first among equals.

    Raises:
        ConfigError: delta below 1, or a codebook that is empty or not finite.

    Source: Qiu et al. 2025, arXiv 2503.08354 (neighbourhood of the assigned code).

    Example:
        >>> neighbour_table(Codebook(torch.tensor([[0.0], [1.0], [3.0]]), "l2"), 2).tolist()
        [[0, 1], [1, 0], [2, 1]]
    """
    every = torch.arange(len(codebook.vectors), device=codebook.vectors.device)
    return code_neighbours(codebook, every, delta)


@torch.no_grad()
def code_neighbours(codebook: Codebook, codes: Tensor, delta: int) -> Tensor:
    """Return the rows of `neighbour_table` for some codes alone.

    Args:
        codebook: vectors (K, D) and metric. codes: int64 (M,) in [0, K).
        delta: neighbours wanted, itself included, at least 1; clipped to K.

    Returns:
        int64 (M, min(delta, K)).
    """
    vectors = _measured(codebook.vectors, codebook.metric)
    own = codes.to(vectors.device)
    return _nearest(vectors[own], vectors, _clipped(delta, vectors), own).to(codes.device)


@torch.no_grad()
def nearest_neighbours(z: Tensor, codebook: Codebook, delta: int) -> Tensor:
    """Return, for every latent, the ``delta`` codes nearest to it.

    Args:
        z: (..., D) latents before quantization. codebook: vectors (K, D) and metric.
        delta: neighbours wanted, at least 1; clipped to K.

    Returns:
        int64 (..., min(delta, K)), nearest first: place 0 is the ordinary assignment.

    Raises:
        ConfigError: delta below 1, values that are not finite, or another D.
    """
    vectors = _measured(codebook.vectors, codebook.metric)
    if z.shape[-1] != vectors.shape[1]:
        raise ConfigError(
            f"latents of width {z.shape[-1]} met codes of width {vectors.shape[1]}; legal are "
            "latents as the quantizer compares them, with the width of its codes."
        )
    rows = _measured(z.reshape(-1, z.shape[-1]), codebook.metric)
    found = _nearest(rows, vectors, _clipped(delta, vectors), None)
    return found.view(*z.shape[:-1], -1).to(z.device)


def neighbour_tables(codebooks: Sequence[Codebook], delta: int) -> tuple[Tensor, ...]:
    """Return the `neighbour_table` of every factor; equal codebooks are searched once and shared.

    Args:
        codebooks: one for each factor, as ``tokenizer.codebooks``. delta: see `neighbour_table`.
    """
    tables: list[Tensor] = []
    for index, codebook in enumerate(codebooks):
        for earlier in range(index):
            if _same(codebooks[earlier], codebook):
                tables.append(tables[earlier])
                break
        else:
            tables.append(neighbour_table(codebook, delta))
    return tuple(tables)


def _nearest(rows: Tensor, vectors: Tensor, delta: int, own: Tensor | None) -> Tensor:
    """Return int64 (N, delta); ``own`` (N,) names the code that is each query itself."""
    squares = vectors.square().sum(1)
    bits = max(len(vectors) - 1, 1).bit_length()
    cells = float(2 ** min(_CELLS, 62 - bits))
    reach = squares.max().sqrt()
    found = torch.empty(len(rows), delta, dtype=torch.int64, device=rows.device)
    height = _ROWS if rows.device.type == "cpu" else _GPU_ROWS
    for at in range(0, len(rows), height):
        part = rows[at : at + height]
        norms = part.square().sum(1, keepdim=True)
        # Per query, so that a latent finds the same neighbours in any company.
        scale = cells / (norms.sqrt() + reach).square().clamp(min=1e-300)
        best: Tensor | None = None
        for start in range(0, len(vectors), _COLUMNS):
            block = vectors[start : start + _COLUMNS]
            distances = torch.addmm(squares[None, start : start + _COLUMNS], part, block.t(),
                                    alpha=-2.0).add_(norms).clamp_(min=0.0)  # fmt: skip
            keys = distances.mul_(scale).round_().long().bitwise_left_shift_(bits)
            keys += torch.arange(start, start + len(block), device=keys.device)
            if own is not None:
                _put_itself_first(keys, own[at : at + height], start)
            joined = keys if best is None else torch.cat((best, keys), 1)
            best = _smallest(joined, min(delta, joined.shape[1]))
        assert best is not None
        found[at : at + len(part)] = best.sort(dim=1).values & ((1 << bits) - 1)
    return found


def _smallest(keys: Tensor, count: int) -> Tensor:
    """Return the ``count`` smallest keys (R, C) of each row, in any order."""
    if keys.device.type != "cpu":
        return keys.topk(count, dim=1, largest=False).values
    # NumPy's selection is vectorised and ten times as fast as torch's; keys are never equal, so
    # both find the same ones.
    return torch.from_numpy(np.partition(keys.numpy(), count - 1, axis=1)[:, :count])


def _put_itself_first(keys: Tensor, own: Tensor, start: int) -> None:
    """Give each code distance -1 to itself, so that a twin with a lower index stands behind it."""
    inside = (own >= start) & (own < start + keys.shape[1])
    rows = inside.nonzero().squeeze(1)
    column = own[rows] - start
    # The index lives in the low bits: a negative key with the same low bits sorts first.
    keys[rows, column] = own[rows] + torch.iinfo(torch.int64).min


def _measured(vectors: Tensor, metric: str) -> Tensor:
    """Return (N, D) float64 as the metric compares them, on a device that has float64."""
    vectors = vectors.detach()
    vectors = (vectors.cpu() if vectors.device.type == "mps" else vectors).double()
    if vectors.ndim != 2 or (vectors.numel() and not bool(torch.isfinite(vectors).all())):
        raise ConfigError(
            f"vectors of shape {tuple(vectors.shape)} came in, or with values that are not finite; "
            "legal are finite (N, D): load an undamaged tokenizer."
        )
    if metric not in ("l2", "cosine"):
        raise ConfigError(f"metric '{metric}' is unknown; legal are l2 and cosine.")
    return F.normalize(vectors, dim=-1) if metric == "cosine" else vectors


def _clipped(delta: int, vectors: Tensor) -> int:
    if delta < 1 or len(vectors) < 1:
        raise ConfigError(
            f"{delta} neighbours among {len(vectors)} codes were asked for; legal is at least 1 of "
            "at least 1."
        )
    return min(delta, len(vectors))


def _same(a: Codebook, b: Codebook) -> bool:
    if a.metric != b.metric or a.vectors.shape != b.vectors.shape:
        return False
    return a.vectors is b.vectors or torch.equal(a.vectors, b.vectors)
