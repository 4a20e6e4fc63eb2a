"""Two processes (gloo) train a VQGAN as one process does on the joined batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.two_processes import assert_alike, half, in_two, joined
from vision_tok.image_objective import ImageObjective, ImageObjectiveConfig
from vision_tok.vqgan import VQGAN

BATCH = 4
KINDS: dict[str, dict[str, Any]] = {
    "vector": {
        "quantizer_options": {"entropy_weight": 0.1, "entropy_temperature": 0.5,
                              "usage_window": 200},
    },
    "multi_scale": {"quantizer_kind": "multi_scale", "scales": [1, 2, 4], "l2_normalize": False},
}  # fmt: skip


def train(rank: int | None, kind: str) -> dict[str, Tensor]:
    """Gradients of every parameter, the adaptive weight, the usage window."""
    torch.manual_seed(3)
    side = {"channels": 8, "multipliers": [1, 2], "res_blocks": 1}
    bare = VQGAN(
        encoder_sizes=side, z_channels=6, code_dim=4, codebook_size=16, norm_groups=4, **KINDS[kind]
    ).train()  # fmt: skip
    model = joined(bare, find_unused_parameters=True, broadcast_buffers=False)
    objective = ImageObjective(ImageObjectiveConfig(
        picture_range="signed", discriminator=True, discriminator_start=0,
        discriminator_channels=32, discriminator_stages=1, adaptive_weight=True,
    ))  # fmt: skip
    x = torch.rand(BATCH, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    x = x[half(rank, BATCH)]
    out = model(x)
    losses = objective.generator_losses(x, out, 0)
    torch.stack(list(losses.values())).sum().backward()
    found = {name: p.grad.clone() for name, p in bare.named_parameters() if p.grad is not None}
    found["adaptive_weight"] = torch.as_tensor(objective.last_statistics["adaptive_weight"])
    found["usage"] = out.statistics["codebook/usage"]
    if bare.recent is not None:
        found["window"] = bare.recent.codes.clone()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_are_one(tmp_path: Path, kind: str) -> None:
    both = in_two(train, tmp_path, kind)
    assert_alike(train(None, kind), *both, tolerance=1e-3, floor=1e-9)
