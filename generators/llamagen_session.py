"""One generation of LlamaGen: a cache, and which window is next.

    step 0  condition --trunk--> window 0        step t  window t - 1 --trunk--> window t

Letters: R rows (B, or 2 B under guidance), B samples, T condition positions, L token positions, F
factors, C windows, S slots, W width, n new positions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from generators.condition_embedding import caption_attention
from generators.contract import Condition, Draw
from generators.static_shapes import Stretches, hidden_entries
from generators.steps import Step, entry

if TYPE_CHECKING:
    from generators.llamagen import LlamaGen


class LlamaGenSession:
    """What `LlamaGen.session` returns: every step reads just what there is.

    Args:
        model: in eval mode. condition: of every sample. batch: B. guided: run null rows, too.
    """

    def __init__(
        self, model: LlamaGen, condition: Condition, *, batch: int, guided: bool
    ) -> None:
        self.model, self.batch, self.guided = model, batch, guided
        self.rows = 2 * batch if guided else batch
        self.tables, self.front = model.tables, model.settings.prefix
        self.steps = len(self.tables["windows"])
        self.prefix, self.real = self._conditioned(condition)
        # What the last window holds is never read.
        self.cache = model.trunk.cache(self.rows, self.front + self.steps - 1)

    def _conditioned(self, condition: Condition) -> tuple[Tensor, Tensor | None]:
        """Return embedded conditions (R, T, W) and which are real, bool (R, T), None for all."""
        model = self.model
        condition = model.condition.checked(condition, self.batch)
        prefix, mask = model.condition(condition, self.batch), condition.mask
        if self.guided:
            prefix = torch.cat((prefix, model.condition.null(self.batch)))
            # The null rows see what the captions' padding leaves, as the released code has it.
            mask = None if mask is None else mask.repeat(2, 1)
        real = None if mask is None or bool(mask.all()) else mask
        return prefix.to(model.tokens.weight.dtype), real

    def step(self, step: Step, codes: Tensor, draw: Draw) -> None:
        """Draw the codes of window ``step`` into codes (B, L, F), in place."""
        places = entry(self.tables["windows"], step)
        slots = self.model._slots(self._hidden(step, codes))[:, 0]
        if self.model.head is None:
            for factor in range(codes.shape[-1]):
                logits = self.model.factor_logits(slots, factor)
                codes[:, places, factor] = draw(logits, places, factor)
        else:
            self._one_by_one(slots, places, codes, draw)

    def _one_by_one(self, slots: Tensor, places: Tensor, codes: Tensor, draw: Draw) -> None:
        """Draw the codes of slots (R, S, W) so that each sees those before it."""
        head = self.model.head
        assert head is not None
        cache, before = head.cache(self.rows), None
        for slot in range(slots.shape[1]):
            here = places[slot : slot + 1]
            for factor in range(codes.shape[-1]):
                features = head.step(slots[:, slot], before, cache)
                drawn = draw(self.model.factor_logits(features[:, None], factor), here, factor)
                codes[:, here, factor] = drawn
                before = (drawn.repeat(2, 1) if self.guided else drawn)[:, 0]

    def _hidden(self, step: Step, codes: Tensor) -> Tensor:
        """Return features (R, 1, W) of the window to draw."""
        if isinstance(step, int) and step == 0:
            x = self.prefix
        else:
            window = entry(self.tables["windows"], step - 1)
            x = self.model._fused(codes[:, window][:, None])
            x = x.repeat(2, 1, 1) if self.guided else x
        rotation, mask = self._around(step, x.shape[1])
        return self.model.trunk(x, rotation, mask, self.cache)[:, -1:]

    def _around(self, step: Step, count: int) -> tuple[Tensor, Tensor | None]:
        """Return the rotation of ``count`` new positions and what they may see."""
        start, end = self.cache.length, self.cache.length + count
        rotation = self.tables["rotation"][start:end]
        if self.real is None or step == 0:
            return rotation, caption_attention(self.real, end)
        # Behind a caption everything is real.
        seen = self.real.new_ones(len(self.real), end)
        seen[:, : self.front] = self.real
        return rotation, seen[:, None, None]


class StaticLlamaGenSession(LlamaGenSession):
    """What `LlamaGen.static_session` returns: equal shapes at every step of a stretch.

    Args:
        model, condition, batch, guided: as in `LlamaGenSession`.
    """

    def __init__(
        self, model: LlamaGen, condition: Condition, *, batch: int, guided: bool
    ) -> None:
        super().__init__(model, condition, batch=batch, guided=guided)
        self.stretches = Stretches(self.cache.capacity)
        self.stretch = self.stretches.of(self.front)
        self.cache = model.trunk.cache(self.rows, self.stretches.capacity)
        self.cache.clear()
        self.first_places = torch.arange(self.front, device=self.prefix.device)
        self.causal = self.stretches.causal(like=self.prefix)
        self.hidden: Tensor | None = None
        if model.settings.caption_width is not None:
            self.hidden = self.prefix.new_zeros(self.rows, self.front + 1, self.stretches.longest)
        self._hide()

    def begin(self, condition: Condition) -> None:
        """Start over with another condition, in the same memory."""
        prefix, self.real = self._conditioned(condition)
        self.prefix.copy_(prefix)
        self._hide()

    def _hide(self) -> None:
        """Note that padding is seen by itself alone: a row for each of the front, one behind it."""
        if self.hidden is None:
            return
        self.hidden.zero_()
        if self.real is not None:
            rows = self.front + 1
            itself = torch.eye(rows, self.front, dtype=torch.bool, device=self.real.device)
            seen = self.real[:, None] | itself
            self.hidden[:, :, : self.front] = hidden_entries(seen, like=self.hidden)

    def prepare(self, step: int) -> tuple[bool, int]:
        """Choose how far a step reads; return that, and whether it is the first."""
        self.stretch = self.stretches.of(self.front + step)
        return step == 0, self.stretch

    def _around(self, step: Step, count: int) -> tuple[Tensor, Tensor | None]:
        place = self.first_places if isinstance(step, int) else step + (self.front - 1)
        self.cache.point(place, self.stretch)
        mask = self.causal.index_select(0, place)[:, : self.stretch]
        if self.hidden is not None:
            front = self.hidden[:, : self.front]
            hidden = front if isinstance(step, int) else self.hidden[:, self.front :]
            mask = (mask + hidden[..., : self.stretch])[:, None]
        return self.tables["rotation"].index_select(0, place), mask
