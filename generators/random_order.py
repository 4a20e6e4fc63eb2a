"""Randomness annealing: train on random orders first, on raster order in the end.

    codes 0 1 2 3 --with chance r--> 2 0 3 1 --model--> logits of 2 0 3 1 --> back to 0 1 2 3

A model that has predicted codes in any order has learned what depends on what in both directions;
sampled from in raster order, it needs a key-value cache and nothing else.  r falls from 1 to 0 over
the second half of the training.  Yu et al. 2024, arXiv 2411.00776.  Letters: B batch, L positions,
r chance of a sample to be shuffled.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tok_core.errors import ConfigError, TokenError

UNITS = ("share", "steps")


@dataclass(frozen=True, kw_only=True)
class RandomnessAnnealing:
    """How the chance r of a random order changes while a model trains.

    Attributes:
        start: r is 1 up to here and then falls linearly. end: r is 0 from here on.
        unit: of both: ``share`` of the whole training (RAR: from half to three quarters of 250k
            steps), or ``steps``.

    Raises:
        ConfigError: an unknown unit, or an end before the start.

    Example:
        >>> RandomnessAnnealing().at(156_250, 250_000)
        0.5
    """

    start: float = 0.5
    end: float = 0.75
    unit: str = "share"

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ConfigError(f"unit '{self.unit}' is unknown; legal are {' and '.join(UNITS)}.")
        top = 1.0 if self.unit == "share" else float("inf")
        if not 0 <= self.start <= self.end <= top:
            legal = "0 <= start <= end" + (" <= 1" if self.unit == "share" else "")
            raise ConfigError(
                f"randomness annealing goes from {self.start} to {self.end} ({self.unit}); give "
                f"numbers with {legal}."
            )

    def at(self, step: int, steps: int) -> float:
        """Return r at a step from 0 of a training of ``steps``."""
        now = step / max(steps, 1) if self.unit == "share" else float(step)
        if now >= self.end:
            return 0.0
        return min(1.0, (self.end - now) / (self.end - self.start)) if now > self.start else 1.0


def random_orders(batch: int, length: int, ratio: float) -> Tensor:
    """Draw orders, int64 (B, L) on the CPU: a random one with chance ``ratio``, or raster order.

    Raises:
        ConfigError: a ratio outside 0 to 1.
    """
    if not 0 <= ratio <= 1:
        raise ConfigError(f"order_ratio is {ratio}; give a chance from 0 to 1.")
    raster = torch.arange(length).expand(batch, length)
    if not ratio:
        return raster
    shuffled = torch.rand(batch, length).argsort(dim=1)
    return torch.where(torch.rand(batch, 1) < ratio, shuffled, raster)


def check_orders(orders: Tensor, batch: int, length: int) -> None:
    """Refuse orders that are not one permutation of the positions per sample.

    Raises:
        TokenError: another shape or type, a position missing or twice.
    """
    places = torch.arange(length, device=orders.device).expand(batch, length)
    fits = orders.dtype == torch.int64 and orders.shape == places.shape
    if not fits or not torch.equal(orders.sort(dim=1).values, places):
        raise TokenError(
            f"orders {tuple(orders.shape)} of {orders.dtype} are no permutations; give int64 "
            f"({batch}, {length}) with each of 0 to {length - 1} once per row."
        )


def permuted(x: Tensor, orders: Tensor) -> Tensor:
    """Return (B, L, ...) in the order of (B, L): entry i is ``x[orders[i]]``."""
    return x[torch.arange(len(x), device=x.device)[:, None], orders]


def restored(x: Tensor, orders: Tensor) -> Tensor:
    """Invert `permuted`."""
    return permuted(x, orders.argsort(dim=1))
