"""Branch usage: which branch, and which of its scales, lets its codes die.

    statistics of branch i     codebook/usage/scale3  ──▶  codebook/usage/branch<i>/scale3
    means over the branches                           ──▶  codebook/usage/scale3

Letters: P branches, S scales, K codes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def branch_statistics(found: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Name the statistics of every branch, and give means over branches under the plain names.

    Args:
        found: of every branch, as its quantizer gives them, reduced over processes.

    Returns:
        the same by branch, with ``codebook/dead_codes/branch0`` (codes that the batch never chose)
        and for several scales ``codebook/dead_codes/branch0/scale0`` and so on; means over
        branches under the plain names; ``codebook/counts`` (P, K) or (P, S, K) where all branches
        have as many codes.

    Example:
        >>> branch_statistics([one.statistics for one in quantized])["codebook/usage/branch0"]
    """
    named: dict[str, Tensor] = {}
    for i, statistics in enumerate(found):
        for name, value in (statistics | _dead_codes(statistics)).items():
            what, _, scale = name.partition("/scale")
            named[f"{what}/branch{i}" + (f"/scale{scale}" if scale else "")] = value
    for name, first in found[0].items():
        values = [statistics[name] for statistics in found]
        if any(value.shape != first.shape for value in values):
            continue  # counts of codebooks of several sizes
        stacked = torch.stack(values)
        named[name] = stacked if name == "codebook/counts" else stacked.float().mean(0)
    return named


def _dead_codes(statistics: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return how many codes the batch never chose, on all scales together and on every one."""
    counts = statistics.get("codebook/counts")
    if counts is None:
        return {}
    counts = counts.view(-1, counts.shape[-1])
    dead = {"codebook/dead_codes": (counts.sum(0) == 0).sum().float()}
    if len(counts) > 1:
        each = (counts == 0).sum(1).float()
        dead |= {f"codebook/dead_codes/scale{s}": number for s, number in enumerate(each)}
    return dead
