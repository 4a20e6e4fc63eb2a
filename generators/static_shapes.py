"""How far a step of fixed shapes reads, and what of it is hidden.

    position      0 ......... 63 | 64 ........ 127 | ...
    reads up to        64        |       128       | ...   a mask hides what is not written yet

One stretch for all steps would read twice what there is, one for each would have to be captured as
often; a few in between cost an eighth more than is needed.
"""

from __future__ import annotations

import torch
from torch import Tensor

# A mask's rows begin at multiples of this many entries, which fused attention asks for.
ALIGNED = 16
# Fewer positions than this are not worth another capture.
SHORTEST = 64
PARTS = 4


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


class Stretches:
    """The stretches of a cache for ``capacity`` positions.

    Attributes:
        longest: of them. capacity: to make the cache with.

    Example:
        >>> [Stretches(256).of(count) for count in (1, 64, 65, 256)]
        [64, 64, 128, 256]
    """

    def __init__(self, capacity: int) -> None:
        self.longest = _up(capacity, ALIGNED)
        # Never read to its end: a part and a whole would need another compiled form each.
        self.capacity = self.longest + 1
        self.part = max(SHORTEST, _up(-(-capacity // PARTS), ALIGNED))

    def of(self, count: int) -> int:
        """Return how far a step reads after which the cache holds ``count`` positions."""
        return min(self.longest, _up(count, self.part))

    def causal(self, like: Tensor) -> Tensor:
        """Return what attention adds for every position, (longest, longest), of a tensor's kind."""
        seen = torch.ones(self.longest, self.longest, dtype=torch.bool, device=like.device).tril()
        return hidden_entries(seen, like=like)


def hidden_entries(seen: Tensor, like: Tensor) -> Tensor:
    """Return 0 where bool ``seen`` is True and minus infinity elsewhere, of a tensor's type."""
    zero = torch.zeros(seen.shape, dtype=like.dtype, device=like.device)
    return zero.masked_fill_(~seen, -torch.inf)
