"""Two processes (gloo) train the discriminator as one process does on the joined batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.two_processes import half, in_two, joined
from tok_core.contract import Tokens, TrainingOutput
from vision_tok.dino_discriminator import DinoDiscriminator
from vision_tok.discriminator_trunk import TrunkOptions, build_trunk
from vision_tok.image_objective import ImageObjective, ImageObjectiveConfig

STEPS, BATCH = 3, 4


TRUNK = TrunkOptions(kind="random", readouts=(0, 1), sizes={
    "patch_size": 6, "grid": 4, "width": 16, "layers": 2, "heads": 2, "mlp_width": 24,
})  # fmt: skip


def train(rank: int | None, unused: bool, kind: str) -> dict[str, Tensor]:
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
    objective.discriminator = joined(bare, find_unused_parameters=unused)
    optimizer = torch.optim.SGD(bare.parameters(), lr=0.05)
    own = half(rank, BATCH)
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


@pytest.mark.parametrize(("kind", "unused"), [("patch", False), ("patch", True), ("dino", False)])
def test_two_processes_are_one(tmp_path: Path, kind: str, unused: bool) -> None:
    expected = train(None, unused, kind)
    first, second = in_two(train, tmp_path, unused, kind)
    for name, value in expected.items():
        pictures = name.startswith("picture/")
        ours = torch.cat((first[name], second[name])) if pictures else first[name]
        # A bias in front of a batch norm has no gradient but rounding.
        allowed = 1e-3 * float(value.abs().max()) + 1e-7
        torch.testing.assert_close(ours, value, rtol=1e-3, atol=allowed)
        if not pictures:
            assert torch.equal(first[name], second[name])
