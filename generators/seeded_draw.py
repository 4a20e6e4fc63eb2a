"""How a session's logits become codes: guidance, filter, and one number that decides.

    logits (R, n, V) --guidance--> (B, n, V) --temperature, top-k, top-p--> --number--> (B, n)

Letters: B samples, R rows (B, or 2 B under guidance), L positions, F factors, V vocabulary, n
places of a step.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from generators.guidance import Guidance, guided
from generators.steps import Step, entry
from generators.token_filter import TokenFilter

# Probabilities (B, n, V), positions (n,) and the factor to codes (B, n).
Choose = Callable[[Tensor, Tensor, int], Tensor]
# Sees guided logits (B, n, V), positions (n,) and the factor.
Watch = Callable[[Tensor, Tensor, int], None]


class SeededDraw:
    """What `Generator.session` calls for codes; see `generators.contract.Draw`.

    Args:
        uniform: (B, L, F) in [0, 1), what decides. guidance, token_filter: see there.
        steps: of the session.
        given: int64 (B, L, F) codes that may be kept, and ``keep``, bool alike, which are.
        choose: replaces ``uniform``. watch: sees every distribution.

    Attributes:
        step: which one it is; whoever runs the steps sets it.
    """

    def __init__(
        self, uniform: Tensor, guidance: Guidance, token_filter: TokenFilter, *, steps: int,
        given: Tensor | None = None, keep: Tensor | None = None, choose: Choose | None = None,
        watch: Watch | None = None,
    ) -> None:  # fmt: skip
        self.uniform, self.token_filter = uniform, token_filter
        self.given, self.keep, self.choose, self.watch = given, keep, choose, watch
        self.scales = [guidance.at(step, steps) for step in range(steps)]
        self.step: Step = 0
        # The same in memory, for steps that are captured.
        self.scale_table: Tensor | None = None

    def __call__(self, logits: Tensor, places: Tensor, factor: int = 0) -> Tensor:
        """Return int64 (B, n) for logits (R, n, V) at sequence positions (n,) of one factor."""
        logits = guided(logits, self._scale(), len(self.uniform))
        if self.watch is not None:
            self.watch(logits, places, factor)
        if self.choose is None:
            codes = self.token_filter.draw(logits, self.uniform[:, places, factor])
        else:
            codes = self.choose(self.token_filter.probabilities(logits), places, factor)
        if self.keep is None or self.given is None:
            return codes
        return torch.where(self.keep[:, places, factor], self.given[:, places, factor], codes)

    def _scale(self) -> float | Tensor:
        if self.scale_table is not None:
            return entry(self.scale_table, self.step)
        assert isinstance(self.step, int)
        return self.scales[self.step]

    def in_own_memory(self) -> SeededDraw:
        """Return itself with all that decides in memory of its own, for steps that are captured."""
        self.scale_table = torch.tensor(self.scales).to(self.uniform.device)
        self.uniform = self.uniform.clone()
        self.given = None if self.given is None else self.given.clone()
        self.keep = None if self.keep is None else self.keep.clone()
        return self

    def take(self, other: SeededDraw) -> None:
        """Copy what another draw of the same shapes and filter decides by, into the same memory."""
        self.scales = other.scales
        for mine, theirs in (
            (self.scale_table, torch.tensor(other.scales)), (self.uniform, other.uniform),
            (self.given, other.given), (self.keep, other.keep),
        ):  # fmt: skip
            if mine is not None and theirs is not None:
                mine.copy_(theirs)
