"""Two processes (gloo) train a RobusTok as one process does on the joined batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.two_processes import assert_alike, half, in_two, joined
from vision_tok.image_objective import ImageObjective, ImageObjectiveConfig
from vision_tok.robus_tok import RobusTok
from vision_tok.semantic_teacher import TeacherOptions

BATCH = 4
KINDS: dict[str, dict[str, Any]] = {
    "one": {"quantizer_options": {"average_usage": True}},
    "product": {"branches": 2, "semantic_branches": "all"},
    "folded": {
        "branches": 2, "quantizer_kind": "multi_scale", "scales": [1, 2, 4],
        "quantizer_options": {"dropout": 0.0},
    },
}  # fmt: skip


def train(rank: int | None, kind: str) -> dict[str, Tensor]:
    """Gradients of every parameter, the adaptive weight, the usage."""
    torch.manual_seed(3)
    side = {"width": 128, "layers": 1, "heads": 4, "mlp_width": 32}
    bare = RobusTok(
        image_size=16, patch_size=4, encoder_size=side, decoder_size=side, code_dim=4,
        codebook_size=16, drop_path=0.0, layer_scale=0.5, **KINDS[kind],
    ).train()  # fmt: skip
    model = joined(bare, find_unused_parameters=True, broadcast_buffers=False)
    objective = ImageObjective(ImageObjectiveConfig(
        picture_range="signed", discriminator=True, discriminator_start=0,
        discriminator_channels=32, discriminator_stages=1, adaptive_weight=True,
        contrastive_weight=0.1, semantic_teacher=TeacherOptions(
            kind="classifier", weights="assets/classifiers/procedural-v1", strides=(2, 1, 2, 2, 1)
        ),
    ))  # fmt: skip
    x = torch.rand(BATCH, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    x = x[half(rank, BATCH)]
    out = model(x, **objective.model_inputs(x))
    losses = objective.generator_losses(x, out, 0)
    assert "loss/contrastive" in losses
    torch.stack(list(losses.values())).sum().backward()
    found = {name: p.grad.clone() for name, p in bare.named_parameters() if p.grad is not None}
    found["adaptive_weight"] = torch.as_tensor(objective.last_statistics["adaptive_weight"])
    found["usage"] = out.statistics["codebook/usage"]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_are_one(tmp_path: Path, kind: str) -> None:
    both = in_two(train, tmp_path, kind)
    assert_alike(train(None, kind), *both, tolerance=1e-3, floor=1e-9)
