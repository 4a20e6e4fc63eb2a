"""One generation of RAR: a cache, and the modulations of the next few slots.

    step 0  [start, condition] --> code 0        step t  [code t - 1] --> code t

A slot's modulations follow from the condition and the slot's number, never from the codes.  They
hold a third of the weights that a step would have to read, so at few rows they are made for many
slots at once.  Letters: R rows (B, or 2 B under guidance), B samples, F factors, W width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from generators.contract import Condition, Draw

if TYPE_CHECKING:
    from generators.rar import RAR

# Rows times slots whose modulations are held: enough to make reading their weights cheap (twice the
# steps per second at batch 1, one thread), in less memory than one row of the key-value cache.
HELD = 64


class RARSession:
    """What `RAR.session` returns.

    Args:
        model: in eval mode. condition: of every sample. batch: B. guided: run null rows, too.
    """

    def __init__(self, model: RAR, condition: Condition, *, batch: int, guided: bool) -> None:
        self.model, self.steps = model, model.settings.length
        rows = [model.condition(model.condition.checked(condition, batch), batch)]
        if guided:
            rows.append(model.condition.null(batch))
        self.copies = len(rows)
        self.rows = torch.cat(rows)  # (R, 1, W)
        self.places = torch.arange(self.steps, device=self.rows.device)
        self.cache = model.trunk.cache(len(self.rows), self.steps + 1)
        self._begin = self._end = 0
        self._modulations: list[Tensor] = []

    def step(self, step: int, codes: Tensor, draw: Draw) -> None:
        """Draw the codes of position ``step`` into ``codes``, int64 (B, L, F), in place."""
        model = self.model
        if step == 0:
            x, first = model.prefix(self.rows), 0
        else:
            x, first = model.embedded(codes[:, step - 1 : step]), step + 1
            x = x.repeat(self.copies, 1, 1) + model.positions[first]
        target = torch.zeros_like(x)
        target[:, -1] = model.target_positions[step]
        x = model.trunk.step(x + target, self._of(first, x.shape[1]), self.cache)
        logits = model.logits(x[:, -1:])
        places = self.places[step : step + 1]
        for factor, size in enumerate(model.spec.vocabulary):
            codes[:, step, factor] = draw(logits[:, :, factor, :size], places, factor)[:, 0]

    def _of(self, first: int, count: int) -> list[Tensor]:
        """Return the modulations of ``count`` slots from ``first``."""
        if first + count > self._end:
            self._begin = first
            self._end = min(first + max(count, HELD // max(len(self.rows), 1)), self.steps + 1)
            numbers = self.model.slots[self._begin : self._end]
            self._modulations = self.model.trunk.modulations(self.rows + numbers)
        part = slice(first - self._begin, first - self._begin + count)
        return [made[:, part] for made in self._modulations]
