"""Classifier-free guidance: how far logits move from the unconditional ones, step by step.

    logits = u + (c - u) * s_t          s = 1 is the conditional model alone

    constant      s_t = s
    linear        s_t = 1 + (s - 1) t / (n - 1)
    half_linear   s_t = 1 + (s - 1) min(1, 2 t / n)                 Token-Shuffle's
    ramp          s_t = 1 + (s - 1) t / n, never quite s              TiTok's "linear"
    power_cosine  s_t = 1 + (s - 1) (1 - cos(pi (t / n)^power)) / 2   RAR's, MaskGIT's

Early errors of the unconditional branch add up, which is why scales that rise do better than
constant ones (Token-Shuffle).  Ho and Salimans 2022, arXiv 2207.12598; Yu et al. 2024, arXiv
2411.00776; Ma et al. 2025, arXiv 2504.17789.  Letters: c, u conditional and unconditional logits,
s scale, t step of n.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tok_core.errors import ConfigError, nearest

SCHEDULES = ("constant", "linear", "half_linear", "ramp", "power_cosine")


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """A scale and how it changes over the steps of one generation.

    Attributes:
        scale: s, at least 0; 1 is no guidance, and then only the conditional half is run.
        schedule: one of `SCHEDULES`.
        power: of ``power_cosine``; 0 is constant.
        stop: first step that goes without guidance, None for never. LlamaGen's ``cfg_interval`` k
            is ``stop=k + 2``: it counts from the second token and compares one step late.

    Raises:
        ConfigError: an unknown schedule or an impossible number.

    Example:
        >>> Guidance(scale=3.0, schedule="half_linear").at(1, 4)
        2.0
    """

    scale: float = 1.0
    schedule: str = "constant"
    power: float = 1.0
    stop: int | None = None

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ConfigError(
                f"guidance schedule '{self.schedule}' is unknown; legal are "
                f"{', '.join(SCHEDULES)}{nearest(self.schedule, SCHEDULES)}"
            )
        if not (math.isfinite(self.scale) and self.scale >= 0 and self.power >= 0):
            raise ConfigError(
                f"guidance scale {self.scale} and power {self.power} came in; give numbers of at "
                "least 0, a scale of 1 for no guidance."
            )
        if self.stop is not None and self.stop < 0:
            raise ConfigError(f"guidance stop is {self.stop}; give a step from 0, or None.")

    @property
    def active(self) -> bool:
        """Whether any step needs unconditional logits."""
        return self.scale != 1.0 and self.stop != 0

    def at(self, step: int, steps: int) -> float:
        """Return s_t of step t from 0 of n."""
        if self.stop is not None and step >= self.stop:
            return 1.0
        return 1.0 + (self.scale - 1.0) * _share(self, step, steps)


def _share(guidance: Guidance, step: int, steps: int) -> float:
    if guidance.schedule == "linear":
        return step / (steps - 1) if steps > 1 else 1.0
    if guidance.schedule == "half_linear":
        return min(1.0, 2.0 * step / steps)
    if guidance.schedule == "ramp":
        return step / steps
    if guidance.schedule == "power_cosine":
        return 0.5 * (1.0 - math.cos(math.pi * (step / steps) ** guidance.power))
    return 1.0


def guided(logits: Tensor, scale: float | Tensor, batch: int) -> Tensor:
    """Return float32 logits (B, ...) of rows (B, ...) or, conditional half first, (2 B, ...).

    A scale of 1 gives exactly the conditional ones; as a tensor, float32 (), it is read where it
    is.
    """
    logits = logits.float()
    if len(logits) == batch:
        return logits
    conditional, unconditional = logits.split(batch)
    if not isinstance(scale, Tensor) and scale == 1.0:
        return conditional
    return torch.lerp(unconditional, conditional, scale)
