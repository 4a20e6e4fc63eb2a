"""Which codes may be drawn: temperature, the k best, the smallest set that holds p.

    logits --/ temperature--> --top-k--> --top-p--> softmax

Letters: V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tok_core.errors import ConfigError

NEVER = -math.inf


@dataclass(frozen=True, kw_only=True)
class TokenFilter:
    """How logits become the probabilities that a code is drawn from.

    Attributes:
        temperature: 0 takes the likeliest code.
        top_k: number of codes that stay, with those as likely as the last of them; 0 for all.
        top_p: codes stay, likeliest first, until their probabilities exceed it, with the one that
            crosses; 1 for all.

    Raises:
        ConfigError: an impossible number.

    Example:
        >>> TokenFilter(top_k=1).probabilities(torch.tensor([[0.0, 2.0]]))
        tensor([[0., 1.]])
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ConfigError(f"temperature is {self.temperature}; give 0 (greedy) or more.")
        if self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ConfigError(
                f"top_k is {self.top_k} and top_p {self.top_p}; give top_k from 0 (all) and top_p "
                "above 0 to 1 (all)."
            )

    def probabilities(self, logits: Tensor) -> Tensor:
        """Map logits (..., V) to float32 probabilities (..., V)."""
        logits = logits.float()
        if not self.temperature:
            best = logits.argmax(dim=-1, keepdim=True)
            return torch.zeros_like(logits).scatter_(-1, best, 1.0)
        logits = logits / self.temperature
        if 0 < self.top_k < logits.shape[-1]:
            least = logits.topk(self.top_k, dim=-1).values[..., -1:]
            logits = logits.masked_fill(logits < least, NEVER)
        if self.top_p < 1:
            ordered, order = logits.sort(dim=-1, descending=True)
            shares = ordered.softmax(dim=-1)
            over = shares.cumsum(dim=-1) - shares > self.top_p
            logits = logits.masked_fill(over.scatter(-1, order, over), NEVER)
        return logits.softmax(dim=-1)

    def draw(self, logits: Tensor, uniform: Tensor) -> Tensor:
        """Draw codes, int64 (...), for logits (..., V) and numbers (...) in [0, 1) that decide."""
        # One code of probability 1 needs no sums.
        if not self.temperature:
            return logits.argmax(dim=-1)
        return inverse_draw(self.probabilities(logits), uniform)


def inverse_draw(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Draw codes by inverse transform: the same numbers in give the same codes on every device.

    Args:
        probabilities: (..., V), of any sum above 0. uniform: (...) in [0, 1).

    Returns:
        int64 (...), never a code of probability 0.
    """
    sums = probabilities.cumsum(dim=-1, dtype=torch.float64)
    whole = sums[..., -1:]
    aim = uniform.double()[..., None] * whole
    # Rounding may leave the aim at the whole sum, behind the last code that can be drawn.
    aim = torch.minimum(aim, torch.nextafter(whole, torch.zeros_like(whole)))
    return torch.searchsorted(sums, aim, right=True)[..., 0]
