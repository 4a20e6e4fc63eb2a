"""A small causal transformer over the slots of one position: each code sees those before it.

    slot j: features f_j + embedding of code j - 1  --blocks, causal over slots--> f'_j --> code j

Slots are the tokens of a Token-Shuffle window, which otherwise are drawn in parallel and so
independently of each other, or the dimensions of a TokenBridge latent.  Letters: N positions of all
items, S slots, V codes of a slot, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from generators.device_tables import DeviceTables
from generators.factors import factor_starts
from generators.kv_cache import KeyValueCache
from generators.llama_blocks import LlamaTrunk, hidden_width
from tok_core.errors import ConfigError


class CausalHead(nn.Module):
    """Slot features to slot features that know the codes before them.

    Args:
        width: W. slots: S. vocabulary: codes of each slot, or one number for all.
        layers, heads: of its transformer.

    Raises:
        ConfigError: heads that do not divide W, or vocabularies of another number than slots.

    Example:
        >>> head = CausalHead(64, slots=4, vocabulary=16, heads=2)
        >>> head(torch.zeros(3, 4, 64), torch.zeros(3, 4, dtype=torch.int64)).shape
        torch.Size([3, 4, 64])
    """

    def __init__(
        self, width: int, slots: int, vocabulary: int | tuple[int, ...], *, layers: int = 1,
        heads: int = 4,
    ) -> None:  # fmt: skip
        super().__init__()
        each = (vocabulary,) * slots if isinstance(vocabulary, int) else tuple(vocabulary)
        if len(each) != slots or width % heads:
            raise ConfigError(
                f"a head of {slots} slots got {len(each)} vocabularies and {heads} heads for a "
                f"width of {width}; give one vocabulary per slot and heads that divide the width."
            )
        self.slots = slots
        # Slots share no table: the same code may mean another thing in another slot.
        self._tables = DeviceTables(lambda: {"starts": factor_starts(each)})
        self.before = nn.Embedding(sum(each), width)
        self.places = nn.Parameter(torch.zeros(slots, width))
        self.trunk = LlamaTrunk(layers, width, heads=heads, hidden=hidden_width(width, 32))

    def forward(self, features: Tensor, codes: Tensor) -> Tensor:
        """Map features (N, S, W) and all codes (N, S) to (N, S, W); slot j sees codes before j."""
        before = self.before(codes[:, :-1] + self._starts[:-1])
        x = features + self.places
        x = torch.cat((x[:, :1], x[:, 1:] + before), dim=1)
        return self.trunk(x, None)

    @property
    def _starts(self) -> Tensor:
        return self._tables.on(self.places.device)["starts"]

    def cache(self, rows: int) -> KeyValueCache:
        """Return the state of one position of ``rows`` items."""
        return self.trunk.cache(rows, self.slots)

    def step(self, features: Tensor, before: Tensor | None, cache: KeyValueCache) -> Tensor:
        """Return features (N, W) of the next slot.

        Args:
            features: (N, W) of that slot. before: int64 (N,) codes of the slot before, None at the
                first. cache: of this position; it knows which slot is next.
        """
        slot = cache.length
        x = features + self.places[slot]
        if before is not None:
            x = x + self.before(before + self._starts[slot - 1])
        return self.trunk(x[:, None], None, cache=cache)[:, 0]
