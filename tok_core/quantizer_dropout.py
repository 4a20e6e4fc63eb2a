"""Quantizer dropout: some items of a training batch keep their coarse scales only.

    chosen items (share r) ──▶ d uniform in start..S ──▶ the first d scales reach the decoder

So that a coarse prefix is a picture by itself.  The choice is made once for all branches.  Whoever
compares latents with a teacher leaves the chosen items out, whatever d they drew.

Li et al. 2024, "ImageFolder", arXiv 2410.01756.  Letters: B items, S scales, r rate, d depth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tok_core.errors import ConfigError
from tok_core.item_selection import check_selection, chosen_items


class Dropped(NamedTuple):
    """One draw.

    Attributes:
        items: bool (B,), the items that were chosen.
        depths: int64 (B,), the scales every item keeps, 1 to S.
    """

    items: Tensor
    depths: Tensor


@dataclass(frozen=True, kw_only=True)
class QuantizerDropout:
    """Draws which items lose scales, and how many they keep.

    Args:
        rate: r, share of the items of a batch, 0 to 1.
        start_drop: least number of scales an item keeps, 1 to S.
        selection: how they are chosen, see `tok_core.item_selection`.

    Raises:
        ConfigError: a value out of range or an unknown selection.

    Source: released code of arXiv 2410.01756 and 2412.01762 (r 0.1, start 3).

    Example:
        >>> QuantizerDropout(rate=0.5).draw(4, 10).items
        tensor([ True,  True, False, False])
    """

    rate: float
    start_drop: int = 3
    selection: str = "first"

    def __post_init__(self) -> None:
        if not 0.0 <= self.rate <= 1.0:
            raise ConfigError(f"the dropout rate is {self.rate}; it must lie in 0 to 1.")
        if self.start_drop < 1:
            raise ConfigError(
                f"start_drop is {self.start_drop}; an item keeps at least 1 scale, so give 1 or "
                "more."
            )
        check_selection(self.selection)

    def check(self, num_scales: int) -> None:
        """Raise ConfigError where ``start_drop`` lies beyond the S scales there are.

        A single scale is never dropped, so there every ``start_drop`` is legal.
        """
        if self.rate and 1 < num_scales < self.start_drop:
            raise ConfigError(
                f"start_drop is {self.start_drop} but there are {num_scales} scales; "
                f"give 1 to {num_scales}, or a dropout rate of 0."
            )

    def draw(self, batch: int, num_scales: int, *, depths: Tensor | None = None) -> Dropped:
        """Draw for a batch of B items over S scales.

        Args:
            batch: B. num_scales: S.
            depths: int64 (B,) to use instead of a draw; items that are not chosen keep all S.
        """
        items = chosen_items(batch, self.rate, self.selection)
        if depths is None:
            # A stretched list of another grid may be the shorter one.
            start = min(self.start_drop, num_scales)
            depths = torch.randint(start, num_scales + 1, (batch,))
        depths = depths.cpu().clamp(max=num_scales)
        return Dropped(items, torch.where(items, depths, num_scales))
