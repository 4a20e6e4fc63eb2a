"""Learning rate as a pure function of the optimizer step: nothing to save, nothing to drift."""

from __future__ import annotations

import math


def learning_rate(step: int, *, base: float, end: float, warmup: int, total: int) -> float:
    """Linear warm-up from 0 to ``base``, then a half cosine to ``end``.

    Args:
        step: optimizer steps already done, 0-based; the first step therefore runs at 0 when there
            is a warm-up.
        base: rate after the warm-up.
        end: rate at ``total`` and after it.
        warmup: steps of warm-up.
        total: all steps, warm-up included.

    Returns:
        The rate of this step, in the units of ``base``.

    Source: One-D-Piece (arXiv 2501.10064), training scripts; the discriminator uses the same
    curve counted from its own first step.

    Example:
        >>> learning_rate(5, base=1e-4, end=1e-5, warmup=10, total=100)
        5e-05
    """
    if step < warmup:
        return base * step / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return end + (base - end) * 0.5 * (1.0 + math.cos(math.pi * progress))
