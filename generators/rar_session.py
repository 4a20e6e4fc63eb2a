"""One generation of RAR: a cache, and the modulations of the next few slots.

    step 0  [start, condition] --> code 0        step t  [code t - 1] --> code t

A slot's modulations follow from the condition and the slot's number, never from the codes.  They
hold a third of the weights that a step would have to read, so at few rows they are made for many
slots at once.  Letters: R rows (B, or 2 B under guidance), B samples, F factors, W width, K slots
held, n new ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from generators.contract import Condition, Draw
from generators.static_shapes import Stretches
from generators.steps import Step, entry

if TYPE_CHECKING:
    from generators.rar import RAR

# Rows times slots whose modulations are held: enough to make reading their weights cheap (twice the
# steps per second at batch 1, one thread), in less memory than one row of the key-value cache.
HELD = 64
# A GPU has the memory, and waits for every kernel that it is sent between captured steps.
HELD_ON_GPU = 1024
FRONT = 2  # slots before the codes


class RARSession:
    """What `RAR.session` returns: every step reads just what there is.

    Args:
        model: in eval mode. condition: of every sample. batch: B. guided: run null rows, too.
    """

    def __init__(self, model: RAR, condition: Condition, *, batch: int, guided: bool) -> None:
        self.model, self.steps = model, model.settings.length
        self.batch, self.copies = batch, 2 if guided else 1
        self.rows = self._conditioned(condition)  # (R, 1, W)
        self.places = torch.arange(self.steps, device=self.rows.device)
        self.cache = model.trunk.cache(len(self.rows), self.steps + 1)
        most = HELD if self.rows.device.type == "cpu" else HELD_ON_GPU
        held = max(FRONT, most // max(len(self.rows), 1))
        self.held = min(held, self.steps + 1)
        self._part = -1  # slots part * K to part * K + K - 1 are held
        self._modulations = self.rows.new_empty(0)

    def _conditioned(self, condition: Condition) -> Tensor:
        embedding = self.model.condition
        rows = embedding(embedding.checked(condition, self.batch), self.batch)
        return rows if self.copies == 1 else torch.cat((rows, embedding.null(self.batch)))

    def step(self, step: Step, codes: Tensor, draw: Draw) -> None:
        """Draw the codes of position ``step`` into ``codes``, int64 (B, L, F), in place."""
        model, place = self.model, entry(self.places, step)[None]
        if isinstance(step, int) and step == 0:
            x = model.prefix(self.rows)
        else:
            x = model.embedded(codes.index_select(1, place - 1)).repeat(self.copies, 1, 1)
            x = x + entry(model.positions, step + 1)
        x[:, -1] += entry(model.target_positions, step)
        mask, modulations = self._around(step, x.shape[1])
        x = model.trunk.step(x, modulations, self.cache, mask)
        logits = model.logits(x[:, -1:])
        for factor, size in enumerate(model.spec.vocabulary):
            codes[:, place, factor] = draw(logits[:, :, factor, :size], place, factor)

    def _around(self, step: Step, count: int) -> tuple[Tensor | None, list[Tensor]]:
        """Return what ``count`` new slots may see, and their modulations."""
        assert isinstance(step, int)
        self.hold(step)
        last = (step + 1) % self.held
        return None, self._split(self._modulations[:, last + 1 - count : last + 1])

    def hold(self, step: int) -> None:
        """Make the modulations of a step's slots, (R, K, all), and those of slots near it."""
        part = (step + 1) // self.held
        if part == self._part:
            return
        self._part = part
        numbers = self.model.slots[part * self.held : (part + 1) * self.held]
        made = torch.cat(self.model.trunk.modulations(self.rows + numbers), dim=-1)
        self._keep(made)

    def _keep(self, made: Tensor) -> None:
        self._modulations = made

    def _split(self, made: Tensor) -> list[Tensor]:
        """Return the modulations of every block and of the last norm."""
        width, layers = self.rows.shape[-1], len(self.model.trunk.blocks)
        return list(made.split([6 * width] * layers + [2 * width], dim=-1))


class StaticRARSession(RARSession):
    """What `RAR.static_session` returns: equal shapes at every step of a stretch.

    Args:
        model, condition, batch, guided: as in `RARSession`.
    """

    def __init__(self, model: RAR, condition: Condition, *, batch: int, guided: bool) -> None:
        super().__init__(model, condition, batch=batch, guided=guided)
        self.stretches = Stretches(self.cache.capacity)
        self.stretch = self.stretches.of(FRONT)
        self.cache = model.trunk.cache(len(self.rows), self.stretches.capacity)
        self.cache.clear()
        self.first_places = torch.arange(FRONT, device=self.rows.device)
        self.causal = self.stretches.causal(like=self.rows)
        width = (6 * len(model.trunk.blocks) + 2) * self.rows.shape[-1]
        self._modulations = self.rows.new_empty(len(self.rows), self.held, width)

    def begin(self, condition: Condition) -> None:
        """Start over with another condition, in the same memory."""
        self.rows.copy_(self._conditioned(condition))
        self._part = -1

    def prepare(self, step: int) -> tuple[bool, int]:
        """Make modulations and choose how far a step reads; return that, and if it is the first."""
        self.hold(step)
        self.stretch = self.stretches.of(FRONT + step)
        return step == 0, self.stretch

    def _around(self, step: Step, count: int) -> tuple[Tensor | None, list[Tensor]]:
        place = self.first_places if isinstance(step, int) else step + 1
        self.cache.point(place, self.stretch)
        mask = self.causal.index_select(0, place)[:, : self.stretch]
        return mask, self._split(self._modulations.index_select(1, place % self.held))

    def _keep(self, made: Tensor) -> None:
        self._modulations[:, : made.shape[1]].copy_(made)
