"""Static key-value cache: the state of one generation, allocated once, outside of every module.

    layer i:  keys, values (R, H, capacity, D)
    counted   new positions go behind ``length``; what is behind them is not read
    pointed   new positions go where a tensor says; a fixed stretch is read, the mask rules

Counting is what a processor does best: it reads no more than there is.  A captured or compiled
step needs equal shapes every time, and there the place is a tensor on the device.  A module that
held its cache would save it with its weights and could serve one generation at a time.  Letters: R
rows (batch, twice with guidance), H heads, D head width, n new positions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tok_core.errors import TokenError


class Seen(NamedTuple):
    """What new positions attend to: keys and values (R, H, length + n or the stretch, D)."""

    keys: Tensor
    values: Tensor


class LayerCache(NamedTuple):
    """One layer's part of a cache, for one step.

    Attributes:
        keys, values: (R, H, capacity or the stretch, D). length: positions held; of no meaning
            where ``place``, int64 (n,), says where the new ones go.
    """

    keys: Tensor
    values: Tensor
    length: int
    place: Tensor | None

    def extended(self, keys: Tensor, values: Tensor) -> Seen:
        """Write new keys and values (R, H, n, D) and return all that may be seen.

        Raises:
            TokenError: more positions than the cache was made for.
        """
        if self.place is not None:
            self.keys.index_copy_(2, self.place, keys)
            self.values.index_copy_(2, self.place, values)
            return Seen(self.keys, self.values)
        count, capacity = keys.shape[2], self.keys.shape[2]
        end = self.length + count
        if end > capacity:
            raise TokenError(
                f"position {end} does not fit a cache of {capacity}; make it larger, or generate "
                "fewer tokens."
            )
        self.keys.narrow(2, self.length, count).copy_(keys)
        self.values.narrow(2, self.length, count).copy_(values)
        return Seen(self.keys.narrow(2, 0, end), self.values.narrow(2, 0, end))


class KeyValueCache:
    """Keys and values of every layer for one generation.

    Args:
        layers: number of attention layers.
        rows: R. heads: H. capacity: most positions. width: D.
        dtype, device: of keys and values.

    Attributes:
        length: positions that every layer holds; `advance` moves it once per step.

    Example:
        >>> cache = KeyValueCache(2, rows=1, heads=4, capacity=17, width=16)
        >>> seen = cache.layers()[0].extended(torch.zeros(1, 4, 1, 16), torch.zeros(1, 4, 1, 16))
        >>> cache.advance(1)
    """

    def __init__(
        self, layers: int, *, rows: int, heads: int, capacity: int, width: int,
        dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        self.capacity, self.length = capacity, 0
        # One block for all layers; not cleared, since nothing unwritten is ever read by counting.
        self._store = torch.empty(
            layers, 2, rows, heads, capacity, width, dtype=dtype, device=device
        )
        self._parts = [(layer[0], layer[1]) for layer in self._store]
        self._place: Tensor | None = None

    def layers(self) -> list[LayerCache]:
        """Return the part of every layer, for one step."""
        return [
            LayerCache(keys, values, self.length, self._place) for keys, values in self._parts
        ]

    def advance(self, count: int) -> None:
        """Count ``count`` positions as seen, after all layers have written them."""
        if self._place is None:
            self.length += count

    def clear(self) -> None:
        """Fill with zeros: what a mask hides must be finite all the same, to weigh nothing."""
        self._store.zero_()

    def point(self, place: Tensor, stretch: int) -> None:
        """Say where the next positions go, and how much is read; clear the cache before the first.

        Args:
            place: int64 (n,) on the cache's device. stretch: the first positions are read, as many
                as this; the caller's mask hides what is not written yet.
        """
        if self._parts[0][0].shape[2] != stretch:
            read = self._store[..., :stretch, :]
            self._parts = [(layer[0], layer[1]) for layer in read]
        self._place = place
