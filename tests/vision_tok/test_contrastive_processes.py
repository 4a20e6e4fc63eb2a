"""Two processes (gloo) get the contrastive loss and gradients of one on the joined batch."""

from __future__ import annotations

import datetime
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vision_tok.contrastive_loss import contrastive_loss

ITEMS, WIDTH, CODE = 6, 5, 4


class Pair(nn.Module):
    """Two projections, one of them shared by both sides as quant_conv is."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.own = nn.Linear(WIDTH, CODE), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        return self.shared(teacher), self.shared(self.own(x))


def gradients(own: slice) -> dict[str, Tensor]:
    """Losses and gradients of both forms."""
    torch.manual_seed(1)
    bare = Pair()
    model = DistributedDataParallel(bare) if dist.is_initialized() else bare
    x, teacher = torch.randn(2, ITEMS, WIDTH, generator=torch.Generator().manual_seed(2))
    found = {}
    for normalize in (False, True):
        bare.zero_grad()
        loss = contrastive_loss(*model(x[own], teacher[own]), scale=2.0, normalize=normalize)
        loss.backward()
        found[f"loss/{normalize}"] = loss.detach()
        for name, parameter in bare.named_parameters():
            found[f"{name}/{normalize}"] = parameter.grad.clone()
    return found


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2,
        timeout=datetime.timedelta(seconds=120),
    )  # fmt: skip
    half = ITEMS // 2
    torch.save(gradients(slice(rank * half, (rank + 1) * half)), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_are_one(tmp_path: Path) -> None:
    expected = gradients(slice(None))
    mp.spawn(work, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert len(expected) == 10
    for name, value in expected.items():
        torch.testing.assert_close(first[name], value, rtol=1e-4, atol=1e-6)
        assert torch.equal(first[name], second[name])
