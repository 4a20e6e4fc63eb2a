"""Codebook usage per position: which part of the book each token of the sequence really uses.

Letters: B batch, L positions, K codes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tok_core.codebook_usage import CodebookUsage, perplexity
from tok_core.processes import sum_over_processes

LARGEST = 1 << 24  # entries of the L x K table that is still worth its memory


class Usage(NamedTuple):
    """Per position, lists of length L.

    Attributes:
        used: number of different codes seen.
        perplexity: exp of the entropy of the codes seen; 1 = always the same code.
    """

    used: list[int]
    perplexity: list[float]


class PositionUsage(CodebookUsage):
    """Counts codes per position over a window of steps; see `CodebookUsage` for the sizes.

    Example:
        >>> usage = PositionUsage(4096, num_tokens=256)
        >>> usage.update(tokens.codes)
        >>> usage.finish().used
    """

    @classmethod
    def of(cls, model: object) -> PositionUsage | None:
        """Make one for a tokenizer with one code per position and a fixed length, else None."""
        spec = getattr(model, "spec", None)
        if spec is None or len(spec.vocabulary) != 1:
            return None
        sizes = [axis.size for axis in spec.axes]
        if any(size is None for size in sizes):
            return None
        length = math.prod(size for size in sizes if size is not None)
        fits = length * spec.vocabulary[0] <= LARGEST
        return cls(spec.vocabulary[0], num_tokens=length) if fits else None

    @torch.no_grad()
    def update(self, codes: Tensor) -> None:
        """Count the codes (B, ...) of one batch; shorter sequences count at their positions."""
        super().update(codes.flatten(1))

    def finish(self) -> Usage:
        """Return the usage of the window over all processes, and begin a new window."""
        counts = sum_over_processes(self.counts).cpu()
        self.reset()
        spread = [round(p, 2) for p in perplexity(counts).tolist()]
        return Usage((counts > 0).sum(1).tolist(), spread)


def usage_picture(usage: Usage, vocabulary: int, height: int = 96) -> np.ndarray:
    """Draw the usage as bars, one per position: uint8 (height, 4 L, 3), full height = all K codes.

    Dark bars: share of codes seen; light bars on top: perplexity over K, both on a log scale.
    """
    picture = np.full((height, 4 * len(usage.used), 3), 255, np.uint8)
    top = np.log1p(vocabulary)
    for position, (used, spread) in enumerate(zip(*usage, strict=True)):
        for value, colour in ((used, (176, 190, 210)), (spread, (38, 70, 120))):
            rows = round(height * min(1.0, np.log1p(value) / top))
            picture[height - rows :, 4 * position : 4 * position + 3] = colour
    return picture
