"""The averaged weights: what is validated and exported."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def ema_decay(update: int, decay: float = 0.999) -> float:
    """Decay used at the ``update``-th update (1-based): it warms up so early weights fade fast.

    With v = update - 1: 0 if v = 0, else min((1 + v) / (10 + v), decay).  Source: official
    TiTok / One-D-Piece training code.

    Example:
        >>> ema_decay(2)
        0.18181818181818182
    """
    v = update - 1
    return 0.0 if v <= 0 else min((1 + v) / (10 + v), decay)


class AveragedModel:
    """A second copy of the model that follows the first: e <- d e + (1 - d) p.

    Frozen parameters, integer tensors and buffers are copied, not averaged: a codebook that a
    quantizer moves by itself is an average already.

    Args:
        model: the unwrapped model, on its final device and before the first step.
        decay: in [0, 1); 0 makes this the trained model itself.

    Example:
        >>> average = AveragedModel(model, 0.999)  # doctest: +SKIP
        >>> average.update(model)  # doctest: +SKIP
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Follow ``model`` after one optimizer step."""
        self.updates += 1
        keep = ema_decay(self.updates, self.decay)
        averaged: list[torch.Tensor] = []
        current: list[torch.Tensor] = []
        for ours, theirs in zip(self.model.parameters(), model.parameters(), strict=True):
            if theirs.requires_grad and theirs.is_floating_point():
                averaged.append(ours)
                current.append(theirs.detach())
            else:
                ours.copy_(theirs)
        if averaged:
            torch._foreach_lerp_(averaged, current, 1.0 - keep)
        for kept, given in zip(self.model.buffers(), model.buffers(), strict=True):
            kept.copy_(given)

    @contextmanager
    def whole(self) -> Iterator[nn.Module]:
        """Yield the averaged model to look at, save or export; every process must enter."""
        yield self.model

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take averaged weights and buffers by name."""
        self.model.load_state_dict(tensors)
