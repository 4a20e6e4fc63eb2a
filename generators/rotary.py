"""Rotary positions of grids and sequences: a table of angles, and the rotation of queries and keys.

    grid      angles of (row, column): [row * f, column * f], f_i = base ^ (-2 i / (D / 2))
    sequence  angles of time t: t * f,                        f_i = base ^ (-2 i / D)
    prefix    zero rows: cosine AND sine are 0

Pairs are interleaved: entries 2 j and 2 j + 1 of a head turn by angle j.  LlamaGen's condition
tokens have no position, and in its released code that is no rotation by 0 but a product with 0:
their queries and keys vanish, so they look at everything evenly and everything looks at them with
weight exp(0).  Published weights depend on it.

Su et al. 2021, arXiv 2104.09864; Sun et al. 2024, arXiv 2406.06525.  Letters: B rows, H heads, L
positions, D head width, T prefix positions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tok_core.errors import ConfigError

BASE = 10_000.0


def grid_table(rows: Tensor, columns: Tensor, width: int, base: float = BASE) -> Tensor:
    """Return cosines and sines (L, D / 2, 2) of places on a grid.

    Args:
        rows, columns: int64 (L,). width: D, a multiple of 4.

    Raises:
        ConfigError: D is no multiple of 4.
    """
    if width % 4:
        raise ConfigError(
            f"heads are {width} wide but positions on a grid need a multiple of 4; change the "
            "number of heads."
        )
    half = width // 2
    steps = base ** (-torch.arange(0, half, 2).float() / half)
    angles = torch.cat((rows[:, None] * steps, columns[:, None] * steps), dim=1)
    return torch.stack((angles.cos(), angles.sin()), dim=-1)


def sequence_table(times: Tensor, width: int, base: float = BASE) -> Tensor:
    """Return cosines and sines (L, D / 2, 2) of int64 times (L,); D is even."""
    if width % 2:
        raise ConfigError(f"heads are {width} wide; rotary positions need an even number.")
    steps = base ** (-torch.arange(0, width, 2).float() / width)
    angles = times[:, None] * steps
    return torch.stack((angles.cos(), angles.sin()), dim=-1)


def with_prefix(table: Tensor, count: int) -> Tensor:
    """Put ``count`` zero rows before a table: positions that neither turn nor count."""
    return torch.cat((table.new_zeros(count, *table.shape[1:]), table))


class Turns(NamedTuple):
    """A table spread over whole heads, (L, D) each, or (B, 1, L, D): what `rotated` takes.

    Attributes:
        cosine: of every entry. sine: that its partner is multiplied by, with its sign.
    """

    cosine: Tensor
    sine: Tensor


def turns(table: Tensor) -> Turns:
    """Spread a table (L, D / 2, 2) or (B, L, D / 2, 2), once for all layers."""
    cosine, sine = (table[:, None] if table.dim() == 4 else table).unbind(-1)
    return Turns(
        torch.stack((cosine, cosine), -1).flatten(-2), torch.stack((-sine, sine), -1).flatten(-2)
    )


def rotated(x: Tensor, turns: Turns) -> Tensor:
    """Turn (..., B, H, L, D), in float32."""
    wide = x.float()
    swapped = wide.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return torch.addcmul(wide * turns.cosine, swapped, turns.sine).to(x.dtype)
