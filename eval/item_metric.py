"""ItemMetric: a metric with one number for each picture or sound, and a reason where there is none.

Letters: B items of a batch, N items seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat


class ItemMetric(Metric):
    """Base of metrics that are means over items.

    A subclass gives `measure`. An item without a number (PESQ finds no speech, a sound is too
    short) counts as failed, with its reason, and takes no part in the mean; nor does an infinite
    one, which is counted apart.

    Args:
        options: of `torchmetrics.Metric`.

    Attributes:
        REASONS: sentences by failure code; code 0 is no failure.

    Example:
        >>> metric = PSNR()
        >>> metric.update(decoded, originals)
        >>> metric.compute()
    """

    is_differentiable = False
    full_state_update = False
    REASONS: ClassVar[tuple[str, ...]] = ("",)
    values: list[Tensor]
    codes: list[Tensor]
    indices: list[Tensor]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name in ("values", "codes", "indices"):
            self.add_state(name, [], dist_reduce_fx="cat", persistent=True)

    def measure(self, *signals: Tensor) -> tuple[Tensor, Tensor]:
        """Return values float64 (B,) and failure codes int64 (B,), places in `REASONS`."""
        raise TypeError(f"{type(self).__name__} does not define measure")

    def update(self, *signals: Tensor, indices: Sequence[int] | Tensor | None = None) -> None:
        """Take what `measure` takes.

        Args:
            signals: the test item first, then its original where the metric is paired.
            indices: places of the items in the whole set, for values in that order; None leaves
                them in order of arrival, -1 each.
        """
        values, codes = self.measure(*signals)
        codes = torch.where(torch.isnan(values) & (codes == 0), -1, codes)
        numbers = torch.full_like(codes, -1) if indices is None else torch.as_tensor(indices)
        self.values.append(values.double().to(self.device))
        self.codes.append(codes.to(self.device))
        self.indices.append(numbers.long().to(self.device))

    def compute(self) -> Tensor:
        """Return the mean over items with a finite number, float64; NaN where there are none."""
        values, _, _ = self.collected()
        finite = values[torch.isfinite(values)]
        return finite.mean() if len(finite) else values.new_full((), float("nan"))

    def collected(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return values float64, failure codes and indices int64, each (N,), in order of index."""
        if not len(self.values):
            none = torch.zeros(0, dtype=torch.int64)
            return none.double(), none, none
        values, codes = dim_zero_cat(self.values), dim_zero_cat(self.codes)
        indices = dim_zero_cat(self.indices)
        order = torch.argsort(indices, stable=True)
        return values[order], codes[order], indices[order]

    def reason(self, code: int) -> str:
        """Return the sentence for a failure code."""
        return self.REASONS[code] if 0 <= code < len(self.REASONS) else "the measure is undefined"
