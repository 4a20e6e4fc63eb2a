"""How the sources of a run are cut into shards, and shards into parts: fixed before any work.

    sources 0..n-1 --per_shard--> shards --per_part--> parts

A part is what one process makes at a time and what a kill can cost.  It depends on the plan alone,
so the shards do not depend on who made which part, nor when.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tok_core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """What a run does, as it is written down before the first part.

    Attributes:
        sources: number of samples that go in, n; unreadable ones leave a gap in their shard.
        per_shard: most samples of one shard.
        per_part: most samples of one part.
        head: of the index (`ShardHead`), as JSON values.
        facts: what a resumed run must have in common with this one, such as input and options.
        skipped: what could not be read before there were samples, ``{"source", "error"}`` each.

    Raises:
        ConfigError: a number below 1.
    """

    sources: int
    per_shard: int
    per_part: int
    head: Mapping[str, Any]
    facts: Mapping[str, Any]
    skipped: Sequence[Mapping[str, str]] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        for name in ("sources", "per_shard", "per_part"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; legal is 1 or more")

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.sources // self.per_shard)

    def parts_of(self, shard: int) -> range:
        """Return the numbers of the parts of one shard."""
        each = -(-self.per_shard // self.per_part)
        held = min(self.per_shard, self.sources - shard * self.per_shard)
        return range(shard * each, shard * each - (-held // self.per_part))

    def shard_of(self, part: int) -> int:
        """Return the shard that a part belongs to."""
        return part // -(-self.per_shard // self.per_part)

    def sources_of(self, part: int) -> range:
        """Return the sources of one part.

        Example:
            >>> plan = ShardPlan(sources=10, per_shard=6, per_part=4, head={}, facts={})
            >>> [list(plan.sources_of(p)) for shard in range(2) for p in plan.parts_of(shard)]
            [[0, 1, 2, 3], [4, 5], [6, 7, 8, 9]]
        """
        shard = self.shard_of(part)
        first = shard * self.per_shard + (part - self.parts_of(shard).start) * self.per_part
        return range(first, min(first + self.per_part, (shard + 1) * self.per_shard, self.sources))

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)
