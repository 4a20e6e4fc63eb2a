"""Two processes (gloo) train the discriminator as one process does on the joined batch."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from tok_core.contract import Tokens, TrainingOutput
from vision_tok.dino_discriminator import DinoDiscriminator
from vision_tok.discriminator_trunk import TrunkOptions, build_trunk
from vision_tok.image_objective import ImageObjective, ImageObjectiveConfig

STEPS, BATCH = 3, 4


TRUNK = TrunkOptions(kind="random", readouts=(0, 1), sizes={
    "patch_size": 6, "grid": 4, "width": 16, "layers": 2, "heads": 2, "mlp_width": 24,
})  # fmt: skip


def train(own: slice, unused: bool, kind: str) -> dict[str, Tensor]:
    """Both players' gradients and LeCam's averages over some steps."""
    torch.manual_seed(3)
    dino = kind == "dino"
    # A heavy LeCam term, so that it weighs in the gradients compared.
    config = ImageObjectiveConfig(
        discriminator=True, discriminator_start=0, discriminator_channels=32,
        discriminator_stages=2, lecam_weight=2.0, lecam_decay=0.5, discriminator_kind=kind,
        lecam_update_first=dino,
    )  # fmt: skip
    # Virtual batches of one process's pictures, so that they fall alike on two.
    heads = DinoDiscriminator(build_trunk(TRUNK), virtual=BATCH // 2) if dino else None
    objective = ImageObjective(config, discriminator=heads)
    bare = objective.discriminator
    if dist.is_initialized():
        objective.discriminator = DistributedDataParallel(bare, find_unused_parameters=unused)
    optimizer = torch.optim.SGD(bare.parameters(), lr=0.05)
    seen: dict[str, Tensor] = {}
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        x, y = torch.rand(2, BATCH, 3, 24, 24, generator=generator) * 2 - 1
        x, y = x[own], y[own].requires_grad_()
        codes = torch.zeros(len(x), 1, dtype=torch.int64)
        out = TrainingOutput(y, Tokens(codes), {}, {})
        sum(objective.generator_losses(x, out, step).values()).backward()
        # Averaged over processes later, a local mean's gradient is twice the joined one's.
        seen[f"picture/{step}"] = y.grad * len(x) / BATCH
        optimizer.zero_grad()
        sum(objective.discriminator_losses(x, out, step).values()).backward()
        for name, parameter in bare.named_parameters():
            seen[f"{name}/{step}"] = parameter.grad.clone()
        optimizer.step()
    return seen | {k: v.clone() for k, v in objective.lecam.state_dict().items()}


def work(rank: int, folder: str, unused: bool, kind: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2,
        timeout=datetime.timedelta(seconds=60),
    )
    half = BATCH // 2
    torch.save(train(slice(rank * half, (rank + 1) * half), unused, kind), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize(("kind", "unused"), [("patch", False), ("patch", True), ("dino", False)])
def test_two_processes_are_one(tmp_path: Path, kind: str, unused: bool) -> None:
    expected = train(slice(None), unused, kind)
    mp.spawn(work, args=(str(tmp_path), unused, kind), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name, value in expected.items():
        pictures = name.startswith("picture/")
        ours = torch.cat((first[name], second[name])) if pictures else first[name]
        # A bias in front of a batch norm has no gradient but rounding.
        allowed = 1e-3 * float(value.abs().max()) + 1e-7
        torch.testing.assert_close(ours, value, rtol=1e-3, atol=allowed)
        if not pictures:
            assert torch.equal(first[name], second[name])
