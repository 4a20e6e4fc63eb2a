"""A small causal transformer over the slots of one position: each code sees those before it.

    slot j: feature f_j, code j - 1  --blocks, causal over slots--> f'_j --> code j

    llama   the feature is added      x_j = f_j + place_j + code_{j - 1}
    adaln   the feature modulates     c_j = proj(f_j) + step_j      x_j = code_{j - 1} + place_j

Slots are the tokens of a Token-Shuffle window, which otherwise are drawn in parallel and so
independently of each other, the factors of a position, or the dimensions of a TokenBridge latent,
whose dimension-wise head is the form ``adaln`` (Wang et al. 2025, arXiv 2503.16430).  Letters: N
positions of all items, S slots, n of them, V codes of a slot, D features, W width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from generators.adaln_block import AdaLNTrunk, initialise_adaln
from generators.device_tables import DeviceTables
from generators.factors import factor_logits, factor_starts
from generators.kv_cache import KeyValueCache
from generators.llama_blocks import LlamaTrunk, hidden_width
from tok_core.errors import ConfigError, nearest
from tok_core.fast_linear import Linear

BLOCKS = ("llama", "adaln")
# What the form adaln reads at slot 0, where there is no code before: c_0 without or with step_0.
FIRST_INPUTS = ("official", "bare", "stepped")


class CausalHead(nn.Module):
    """Features of slots to features that know the codes before them.

    Args:
        width: W. slots: S. vocabulary: codes of each slot, or one number for all.
        layers, heads: of its transformer.
        blocks: ``llama`` or ``adaln``.
        features: D of a projection to W; None leaves it out, and D is W.
        output: whether it has layers from W to logits, for `logits`.
        sees_codes: False leaves codes out, so that slots are predicted in parallel: the control
            of the comparison, of the same size but for the embeddings of codes.
        first_input: of ``adaln``: ``bare`` reads c_0 without step_0, ``stepped`` with it, and
            ``official`` without in `forward` and with it in `step`, as the released TokenBridge
            was trained and is sampled from.
        eps: of the norms of ``adaln``.

    Raises:
        ConfigError: heads that do not divide W, vocabularies of another number than slots, an
            unknown form.

    Example:
        >>> head = CausalHead(64, slots=4, vocabulary=16, heads=2)
        >>> head(torch.zeros(3, 4, 64), torch.zeros(3, 4, dtype=torch.int64)).shape
        torch.Size([3, 4, 64])
    """

    def __init__(
        self, width: int, slots: int, vocabulary: int | Sequence[int], *, layers: int = 1,
        heads: int = 4, blocks: str = "llama", features: int | None = None, output: bool = False,
        sees_codes: bool = True, first_input: str = "official", eps: float = 1e-6,
    ) -> None:  # fmt: skip
        super().__init__()
        each = (vocabulary,) * slots if isinstance(vocabulary, int) else tuple(vocabulary)
        _check(width, heads, slots, each, blocks, first_input)
        self.width, self.slots, self.vocabulary = width, slots, each
        # A head without codes was never published, with a mismatch or otherwise.
        self.first_input = first_input if sees_codes or first_input != "official" else "stepped"
        # Slots share no table: the same code may mean another thing in another slot.
        self._tables = DeviceTables(lambda: {"starts": factor_starts(each)})
        self.project = nn.Identity() if features is None else Linear(features, width)
        # Nothing comes after the codes of the last slot.
        self.before = nn.Embedding(sum(each[:-1]), width) if sees_codes else None
        self.places = nn.Parameter(torch.zeros(slots, width))
        self.steps = nn.Parameter(torch.zeros(slots, width)) if blocks == "adaln" else None
        self.trunk: LlamaTrunk | AdaLNTrunk
        if blocks == "adaln":
            self.trunk = AdaLNTrunk(
                layers, width, heads=heads, hidden=4 * width, eps=eps, last_norm=True
            )
        else:
            self.trunk = LlamaTrunk(layers, width, heads=heads, hidden=hidden_width(width, 32))
        self.output = Linear(width, sum(each)) if output else None
        if blocks == "adaln":
            self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Draw weights anew as the released TokenBridge does: Xavier, tables 0.02, gates shut."""
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.xavier_uniform_(part.weight)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)
        for table in (self.places, self.steps):
            if table is not None:
                nn.init.normal_(table, std=0.02)
        if self.before is not None:
            nn.init.normal_(self.before.weight)
        if isinstance(self.trunk, AdaLNTrunk):
            initialise_adaln(self.trunk)

    # -- all slots at once -----------------------------------------------------------------------

    def forward(self, features: Tensor, codes: Tensor) -> Tensor:
        """Map features and codes to (N, n, W); slot j sees codes before j.

        Args:
            features: (N, n, D), or (N, 1, D) for all slots. codes: int64 (N, n), the last of them
                unused; of the first n slots where n is below S.
        """
        count = codes.shape[1]
        condition = self.project(features).expand(-1, count, -1)
        before = None
        if self.before is not None:
            before = self.before(codes[:, :-1] + self._starts[: count - 1])
        x = self._inputs(condition, before, self.first_input == "stepped")
        if self.steps is None or isinstance(self.trunk, LlamaTrunk):
            return self.trunk(x, None)
        return self.trunk(x, condition + self.steps[:count])

    def _inputs(self, condition: Tensor, before: Tensor | None, stepped: bool) -> Tensor:
        """Return what the blocks read, (N, n, W), from conditions alike and codes (N, n - 1, W)."""
        places = self.places[: condition.shape[1]]
        if self.steps is None:
            x = condition + places
            return x if before is None else torch.cat((x[:, :1], x[:, 1:] + before), dim=1)
        read = condition + self.steps[: condition.shape[1]] if stepped else condition
        return places + (read if before is None else torch.cat((read[:, :1], before), dim=1))

    @property
    def _starts(self) -> Tensor:
        return self._tables.on(self.places.device)["starts"]

    def logits(self, features: Tensor, slot: int) -> Tensor:
        """Map features (..., W) to float32 logits (..., V) of one slot; needs ``output``."""
        assert self.output is not None
        return factor_logits(features, self.output.weight, self.vocabulary, slot, self.output.bias)

    # -- slot by slot ----------------------------------------------------------------------------

    def begin(self, features: Tensor) -> HeadSession:
        """Begin to draw one position of N items, from features (N, S, D), or (N, 1, D) for all."""
        return HeadSession(self, features)

    def cache(self, rows: int) -> KeyValueCache:
        """Return the state of one position of ``rows`` items, for `step`."""
        return self.trunk.cache(rows, self.slots)

    def step(self, features: Tensor, before: Tensor | None, cache: KeyValueCache) -> Tensor:
        """Return features (N, W) of the next slot, where not all slots' features are there yet.

        Args:
            features: (N, D) of that slot. before: int64 (N,) codes of the slot before, None at the
                first. cache: of this position; it knows which slot is next.
        """
        slot = cache.length
        condition = self.project(features)[:, None]
        return self.advance(condition, self.modulations(condition, slot), before, cache)

    def modulations(self, condition: Tensor, slot: int = 0) -> list[Tensor]:
        """Return what ``adaln`` needs for projected features (N, n, W) from a slot on."""
        if self.steps is None or isinstance(self.trunk, LlamaTrunk):
            return []
        return self.trunk.modulations(condition + self.steps[slot : slot + condition.shape[1]])

    def advance(
        self, condition: Tensor, modulations: Sequence[Tensor], before: Tensor | None,
        cache: KeyValueCache,
    ) -> Tensor:  # fmt: skip
        """Return features (N, W) of the next slot from its projected features (N, 1, W)."""
        slot = cache.length
        x = condition
        if before is not None and self.before is not None:
            code = self.before(before[:, None] + self._starts[slot - 1])
            x = code if self.steps is not None else x + code
        elif self.steps is not None and self.first_input != "bare":
            x = x + self.steps[slot]
        x = x + self.places[slot]
        if isinstance(self.trunk, LlamaTrunk):
            return self.trunk(x, None, cache=cache)[:, 0]
        return self.trunk.step(x, modulations, cache)[:, 0]


class HeadSession:
    """One position of N items, drawn slot by slot.

    What does not depend on codes is computed once for all slots: with a few items a step is bound
    by reading weights, and a third of those of ``adaln`` are then read once instead of S times.

    Args:
        head: in eval mode. features: (N, S, D), or (N, 1, D) for all slots.
    """

    def __init__(self, head: CausalHead, features: Tensor) -> None:
        self.head = head
        self.condition = head.project(features).expand(-1, head.slots, -1)
        self.modulations = head.modulations(self.condition)
        self.cache = head.cache(len(features))
        self.slot = 0

    def step(self, before: Tensor | None) -> Tensor:
        """Return features (N, W) of the next slot; ``before`` as in `CausalHead.step`."""
        here = slice(self.slot, self.slot + 1)
        self.slot += 1
        parts = [part[:, here] for part in self.modulations]
        return self.head.advance(self.condition[:, here], parts, before, self.cache)


def _check(
    width: int, heads: int, slots: int, each: tuple[int, ...], blocks: str, first_input: str
) -> None:
    if len(each) != slots or width % heads:
        raise ConfigError(
            f"a head of {slots} slots got {len(each)} vocabularies and {heads} heads for a "
            f"width of {width}; give one vocabulary per slot and heads that divide the width."
        )
    for name, value, legal in (
        ("blocks", blocks, BLOCKS), ("first_input", first_input, FIRST_INPUTS)
    ):  # fmt: skip
        if value not in legal:
            raise ConfigError(
                f"{name} of the head is '{value}'; legal are {', '.join(legal)}"
                f"{nearest(str(value), legal)}"
            )
