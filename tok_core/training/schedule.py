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
    return end + (base - end) * _half_cosine(progress)


def epoch_learning_rate(
    epoch: int, *, base: float, end: float, start: float, warmup: int, epochs: int
) -> float:
    """One rate per epoch: linear warm-up from ``start``, then a half cosine to ``end``.

    Args:
        epoch: epochs already done; below 0 for a network whose turn has not come.
        base: the cosine's height at epoch 0, which nothing runs at when there is a warm-up: its
            time is part of the cosine's, unlike in `learning_rate`.
        end: rate that the cosine would reach at ``epochs``, and from there on.
        start: rate of epoch 0 when there is a warm-up, and of all before.
        warmup: epochs of warm-up.
        epochs: all epochs, warm-up included.

    Returns:
        The rate of every step in this epoch, in the units of ``base``.

    Source: XQ-GAN (arXiv 2412.01762) and RobusTok (arXiv 2509.12474), training scripts.

    Example:
        >>> epoch_learning_rate(1, base=5e-5, end=1e-5, start=1e-5, warmup=2, epochs=100)
        3.0000000000000004e-05
    """
    if epoch < 0:
        return start
    if epoch < warmup:
        return start + (base - start) * epoch / warmup
    return end + (base - end) * _half_cosine(min(1.0, epoch / max(1, epochs)))


def _half_cosine(progress: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress))
