"""Run a function in two gloo processes; what a test compares is what both returned."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tests.warm_python import start_server

WHOLE = slice(None)


def half(rank: int | None, items: int) -> slice:
    """Return the part of a batch that a process sees; None stands for one process alone."""
    return WHOLE if rank is None else slice(rank * items // 2, (rank + 1) * items // 2)


def joined(bare: nn.Module, **options: Any) -> Any:
    """Return the module as training wraps it: itself where there is one process alone."""
    return DistributedDataParallel(bare, **options) if dist.is_initialized() else bare


def in_two(share: Callable[..., Any], folder: Path, *args: Any) -> tuple[Any, Any]:
    """Return what ``share(rank, *args)``, a function of a module, gave in both processes."""
    start_server()
    mp.start_processes(
        _work, args=(str(folder), share, args), nprocs=2, start_method="forkserver"
    )
    return torch.load(folder / "0.pt"), torch.load(folder / "1.pt")


def _work(rank: int, folder: str, share: Callable[..., Any], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2,
        timeout=datetime.timedelta(seconds=120),
    )  # fmt: skip
    torch.save(share(rank, *args), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def assert_alike(
    expected: Mapping[str, Tensor], first: Mapping[str, Tensor], second: Mapping[str, Tensor],
    *, tolerance: float, floor: float,
) -> None:  # fmt: skip
    """Both processes hold the same bits, and one process's numbers to a share of the largest."""
    assert expected.keys() == first.keys()
    for name, value in expected.items():
        assert torch.equal(first[name], second[name]), f"{name} differs between the processes"
        torch.testing.assert_close(
            first[name], value, rtol=tolerance, atol=tolerance * float(value.abs().max()) + floor,
            msg=lambda text, name=name: f"{name}: {text}",
        )  # fmt: skip
