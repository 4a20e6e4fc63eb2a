"""Which items of a training batch something is done to: a share of them, chosen in one of two ways.

    first       the first int(B r) items: the released choice of XQ-GAN and RobusTok, whose batches
                are shuffled; it truncates, so with r 0.1 a batch of fewer than 10 has none
    bernoulli   each item on its own with chance r

Letters: B items, r share.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tok_core.errors import ConfigError, nearest

SELECTIONS = ("first", "bernoulli")


def check_selection(selection: str) -> None:
    """Raise ConfigError unless it is one of `SELECTIONS`."""
    if selection not in SELECTIONS:
        raise ConfigError(
            f"selection '{selection}' is unknown; legal are {' and '.join(SELECTIONS)}"
            f"{nearest(selection, SELECTIONS)}"
        )


def chosen_items(batch: int, share: float, selection: str) -> Tensor:
    """Return bool (B,), the items that are chosen, drawn on the CPU where chance decides.

    Args:
        batch: B. share: r, 0 to 1. selection: one of `SELECTIONS`.

    Example:
        >>> chosen_items(4, 0.5, "first")
        tensor([ True,  True, False, False])
    """
    if selection == "first":
        return torch.arange(batch, device="cpu") < int(batch * share)
    return torch.rand(batch, device="cpu") < share
