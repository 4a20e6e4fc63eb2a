"""One generation of TokenBridge: random orders of positions, several revealed at a time.

    features of the positions to reveal --guidance--> head: dimension o_0, o_1, ... o_(C-1)
    codes --levels--> inputs of the next step

A sample's order is a permutation of its own; generation runs from its end.  Guidance acts on the
features, not on logits: z = u + s (c - u).  Letters: B samples, L positions, n of a step, C
dimensions, V levels, W width, c, u features with and without the condition, s scale, R rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from generators.contract import Condition
from generators.guidance import Guidance, guided
from generators.mask_schedule import cosine_masked_after
from generators.random_order import check_orders
from generators.sampling import uniform_numbers
from generators.seeded_draw import Choose, Watch
from generators.token_bridge import TokenBridge
from generators.token_filter import TokenFilter, inverse_draw

# Positions that the head draws at once: enough for full speed, and its caches stay small.
MOST_POSITIONS = 256


class TokenBridgeRun:
    """The state of one generation, driven by `generators.masked_sampling.sample_masked`.

    Args:
        generator: in eval mode. condition: of every sample. seeds: one per sample.
        steps: T; more than L count as L. guidance: of features, see `scale_at`.
        token_filter: of every dimension.
        orders: int64 (B, L) permutations, the last entry revealed first; None draws them.

    Attributes:
        codes: int64 (B, L, C). masked: bool (B, L), where codes mean nothing yet.
    """

    def __init__(
        self, generator: TokenBridge, condition: Condition, seeds: Sequence[int], *, steps: int,
        guidance: Guidance, token_filter: TokenFilter, orders: Tensor | None = None,
    ) -> None:  # fmt: skip
        batch, length = len(seeds), generator.settings.length
        factors, device = generator.spec.factors, generator.device
        self.generator, self.length = generator, length
        self.steps = min(steps, length)
        self.guidance, self.token_filter = guidance, token_filter
        embedding = generator.condition
        self.condition = embedding(embedding.checked(condition, batch), batch)
        self.nothing = embedding.null(batch)
        # One number per code, and one per position for the order.
        numbers = uniform_numbers(seeds, (length, factors + 1)).to(device)
        self.numbers = numbers[..., :factors]
        if orders is None:
            orders = numbers[..., factors].argsort(dim=1)
        else:
            check_orders(orders, batch, length)
        self.orders = orders.to(device)
        self.left = length
        self.codes = torch.zeros(batch, length, factors, dtype=torch.int64, device=device)
        self.masked = torch.ones(batch, length, dtype=torch.bool, device=device)

    def step(
        self, step: int, choose: Choose | None, watch: Watch | None, given: Tensor | None,
        keep: Tensor | None,
    ) -> None:  # fmt: skip
        """Reveal the positions of a step; codes to keep take the place of drawn ones."""
        left = cosine_masked_after(step, self.steps, self.left, self.length)
        scale = scale_at(self.guidance, self.length - left, self.length)
        if step == self.steps - 1:
            left = 0
        places = self.orders[:, left : self.left]
        features = self._features(scale)
        features = features.gather(1, _wide(places, features.shape[-1]))
        codes, size = self.codes, max(1, MOST_POSITIONS // max(1, len(self.codes)))
        for part, here in zip(features.split(size, 1), places.split(size, 1), strict=True):
            drawn = self._drawn(part, here, choose, watch, given, keep)
            codes = codes.scatter(1, _wide(here, drawn.shape[-1]), drawn)
        # New tensors: who follows may keep the old ones.
        self.codes, self.masked = codes, self.masked.scatter(1, places, False)
        self.left = left

    def _features(self, scale: float) -> Tensor:
        """Return guided features (B, L, W); one pass is enough where the scale is 0 or 1."""
        model, values, masked = self.generator, self.generator.values(self.codes), self.masked
        if scale in (0.0, 1.0):
            return model.backbone(values, masked, self.condition if scale else self.nothing)
        rows = model.backbone(
            values.repeat(2, 1, 1), masked.repeat(2, 1), torch.cat((self.condition, self.nothing))
        )
        return guided(rows, scale, len(masked)).to(rows.dtype)

    def _drawn(
        self, features: Tensor, places: Tensor, choose: Choose | None, watch: Watch | None,
        given: Tensor | None, keep: Tensor | None,
    ) -> Tensor:  # fmt: skip
        """Draw codes (B, n, C) from features (B, n, W) of positions (B, n)."""
        batch, count = places.shape
        head = self.generator.head
        drawn = self.codes.new_zeros(batch, count, self.codes.shape[-1])
        session, before = head.begin(features.flatten(0, 1)[:, None]), None
        for slot, factor in enumerate(self.generator.settings.channel_order):
            logits = head.logits(session.step(before), slot).unflatten(0, (batch, count))
            if watch is not None:
                watch(logits, places, factor)
            probabilities = self.token_filter.probabilities(logits)
            if choose is None:
                code = inverse_draw(probabilities, self.numbers[..., factor].gather(1, places))
            else:
                code = choose(probabilities, places, factor)
            if given is not None and keep is not None:
                kept = keep[..., factor].gather(1, places)
                code = torch.where(kept, given[..., factor].gather(1, places), code)
            drawn[..., factor] = code
            before = code.flatten()
        return drawn


def scale_at(guidance: Guidance, revealed: int, length: int) -> float:
    """Return the scale of a step after which so many of L positions are revealed.

    Schedules count positions, not steps: at MAR's cosine pace the first steps reveal few.
    TokenBridge's own "linear" is ``ramp``; its last step counts one position as masked.

    Example:
        >>> scale_at(Guidance(scale=3.0, schedule="ramp"), 128, 256)
        2.0
    """
    if guidance.stop is not None and revealed >= guidance.stop:
        return 1.0
    return replace(guidance, stop=None).at(revealed, length)


def _wide(places: Tensor, width: int) -> Tensor:
    """Return positions (B, n) as an index along the second axis of (B, L, width)."""
    return places[..., None].expand(-1, -1, width)
