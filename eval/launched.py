"""The processes of one run: started by torchrun or accelerate, each with a block of the items."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Processes:
    """This process's place among all.

    Args:
        rank: from 0. world: how many there are.
    """

    rank: int = 0
    world: int = 1

    @property
    def main(self) -> bool:
        """Whether this process prints and writes."""
        return self.rank == 0

    def block(self, items: int) -> range:
        """Return this process's places among so many items.

        Blocks follow each other in rank order, so that what processes collect, put one after the
        other, stands in the order that one process would have.
        """
        return range(items * self.rank // self.world, items * (self.rank + 1) // self.world)

    def gathered(self, value: Any) -> list[Any]:
        """Return every process's value in rank order, on the main process; [] elsewhere."""
        if self.world == 1:
            return [value]
        import torch.distributed as dist

        every: list[Any] | None = [None] * self.world if self.main else None
        dist.gather_object(value, every)
        return every or []

    def shared(self, value: Any) -> Any:
        """Return the main process's value on all."""
        if self.world == 1:
            return value
        import torch.distributed as dist

        box = [value]
        dist.broadcast_object_list(box)
        return box[0]


def own_device(device: str) -> str:
    """Return this process's device: ``auto`` gives every process of a machine its own GPU.

    Raises:
        ConfigError: no such device here.
    """
    from tok_core.shipped_models import find_device

    found = find_device(device)
    local = os.environ.get("LOCAL_RANK")
    if device == "auto" and found == "cuda" and local is not None:
        import torch

        return f"cuda:{int(local) % torch.cuda.device_count()}"
    return found


@contextmanager
def processes() -> Iterator[Processes]:
    """Join the other processes of this run, if a launcher started several, while the block runs."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Processes()
        return
    import torch.distributed as dist

    ours = not dist.is_initialized()
    if ours:
        # Only plain objects travel, so gloo will do on every device.
        dist.init_process_group("gloo")
    try:
        yield Processes(dist.get_rank(), world)
    finally:
        if ours:
            dist.destroy_process_group()
