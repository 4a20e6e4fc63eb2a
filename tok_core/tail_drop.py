"""Tail token drop: train on random prefixes, so that any prefix can be decoded.

One-D-Piece (arXiv 2501.10064): in training only the first k of N quantized tokens reach the
decoder, k uniform in 1..N, one k per forward pass and process; the encoder and the quantizer always
see all N.  Everything beyond that is ours to choose from: a k per sample, other draws, full and
truncated length in the same step (NesTok found the last one necessary).

Letters: B batch, N tokens, k kept tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tok_core.errors import ConfigError, nearest

DRAWS = ("uniform", "power", "log_uniform")


@dataclass(frozen=True, kw_only=True)
class TailDropOptions:
    """Options of `TailDrop`; the defaults are the official draw."""

    draw: str = "uniform"
    per_sample: bool = False
    joint: bool = False
    probability: float = 1.0
    power: float = 2.0


class TailDrop:
    """Draws how many leading tokens the decoder gets to see.

    Args:
        num_tokens: N.
        draw: ``uniform`` (official: every k in 1..N equally likely), ``power``
            (k = ceil(N u^power): mass on short prefixes for power > 1), ``log_uniform`` (each
            doubling of k equally likely).
        per_sample: one k per item instead of one per batch.
        joint: train at full length and at k in the same step.
        probability: share of steps on which a k is drawn at all; otherwise k = N.
        power: exponent of the ``power`` draw.

    Raises:
        ConfigError: unknown draw or a value out of range.

    Example:
        >>> TailDrop(8, draw="power", per_sample=True).draw_lengths(4).shape
        torch.Size([4])
    """

    def __init__(
        self,
        num_tokens: int,
        draw: str = "uniform",
        per_sample: bool = False,
        joint: bool = False,
        probability: float = 1.0,
        power: float = 2.0,
    ) -> None:
        if draw not in DRAWS:
            raise ConfigError(
                f"tail_drop.draw is '{draw}'; legal are {', '.join(DRAWS)}{nearest(draw, DRAWS)}"
            )
        if not 0.0 <= probability <= 1.0:
            raise ConfigError(f"tail_drop.probability is {probability}; it must lie in 0 to 1.")
        if not power > 0.0:
            raise ConfigError(f"tail_drop.power is {power}; it must be above 0.")
        if num_tokens < 1:
            raise ConfigError(f"tail drop over {num_tokens} tokens is impossible; use at least 1.")
        self.num_tokens = num_tokens
        self.draw = draw
        self.per_sample = per_sample
        self.joint = joint
        self.probability = probability
        self.power = power

    def draw_length(self, generator: torch.Generator | None = None) -> int:
        """Return one k in 1..N from the CPU generator (the global one when None)."""
        return int(self._draw(1, generator))

    def draw_lengths(self, batch: int, generator: torch.Generator | None = None) -> Tensor:
        """Return the k of every item, int64 (B,): one shared draw, or B with ``per_sample``."""
        # The official draw must use the generator exactly once, so the coin exists only if needed.
        if self.probability < 1.0:
            coin = float(torch.rand((), generator=generator))
            if coin >= self.probability:
                return torch.full((batch,), self.num_tokens)
        if self.per_sample:
            return self._draw(batch, generator)
        return self._draw(1, generator).expand(batch)

    def _draw(self, count: int, generator: torch.Generator | None) -> Tensor:
        if self.draw == "uniform":
            return torch.randint(1, self.num_tokens + 1, (count,), generator=generator)
        u = torch.rand(count, generator=generator, dtype=torch.float64)
        if self.draw == "power":
            k = torch.ceil(self.num_tokens * u**self.power)
        else:
            k = torch.floor(torch.exp(u * math.log(self.num_tokens + 1)))
        return k.to(torch.int64).clamp(1, self.num_tokens)


def prefix_mask(lengths: Tensor, size: int) -> Tensor:
    """Return bool (B, size), True at the first ``lengths[b]`` positions of each item."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]
