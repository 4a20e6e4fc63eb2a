"""Static key-value cache: the state of one generation, allocated once, outside of every module.

    layer i:  keys, values (R, H, capacity, D)   filled up to ``length``

A module that held its cache would save it with its weights and could serve one generation at a
time.  Letters: R rows (batch, twice with guidance), H heads, D head width, n new positions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tok_core.errors import TokenError


class Seen(NamedTuple):
    """What new positions attend to: keys and values (R, H, length + n, D)."""

    keys: Tensor
    values: Tensor


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
        >>> seen = cache.append(0, torch.zeros(1, 4, 1, 16), torch.zeros(1, 4, 1, 16))
        >>> cache.advance(1)
    """

    def __init__(
        self, layers: int, *, rows: int, heads: int, capacity: int, width: int,
        dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        self.capacity, self.length = capacity, 0
        # One block for all layers; not cleared, since nothing unwritten is ever read.
        self._store = torch.empty(
            layers, 2, rows, heads, capacity, width, dtype=dtype, device=device
        )

    def append(self, layer: int, keys: Tensor, values: Tensor) -> Seen:
        """Write new keys and values (R, H, n, D) of one layer and return all it has seen.

        Raises:
            TokenError: more positions than the cache was made for.
        """
        end = self.length + keys.shape[2]
        if end > self.capacity:
            raise TokenError(
                f"position {end} does not fit a cache of {self.capacity}; make it larger, or "
                "generate fewer tokens."
            )
        kept = self._store[layer]
        kept[0, :, :, self.length : end] = keys
        kept[1, :, :, self.length : end] = values
        return Seen(kept[0, :, :, :end], kept[1, :, :, :end])

    def advance(self, count: int) -> None:
        """Count ``count`` positions as seen, after all layers have written them."""
        self.length += count
