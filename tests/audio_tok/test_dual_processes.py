"""Two processes (gloo) train the codec with a dual codebook as one does on the joined batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from audio_tok.audio_objective import AudioObjective, AudioObjectiveConfig
from audio_tok.dual_wav_tokenizer import DualWavTokenizer
from tests.two_processes import assert_alike, half, in_two, joined
from tok_core.run_config import from_mapping

BATCH, STEPS = 4, 3
KINDS: dict[str, dict[str, Any]] = {
    "plain": {"kmeans_start": False, "recent_codes": 200},
    "entropy": {"kmeans_start": False, "entropy": 0.1, "temperature": 0.5},
    # Tables that move by themselves: every process has to move them alike.
    "revived": {"kmeans_start": True, "dead_code_every": 1},
}
OBJECTIVE: dict[str, Any] = {
    "sample_rate": 8000, "mel_weight": 0.0, "multi_mel_weight": 15.0, "semantic_weight": 10.0,
    "semantic": {"kind": "mel_cepstral", "coefficients": 13, "deltas": 2},
    "period": {"enabled": False}, "resolution": {"enabled": False}, "dac": {"enabled": False},
}  # fmt: skip


def train(rank: int | None, kind: str) -> dict[str, Tensor]:
    """Take some steps; return the last gradients, the losses, the tables and the statistics."""
    torch.manual_seed(3)
    bare = DualWavTokenizer(
        sample_rate=8000, strides=[4, 4, 5], encoder_width=4, lstm_layers=0, acoustic_dim=4,
        semantic={"dim": 6, "encoder_width": 4, "width": 16, "hidden": 24, "layers": 1},
        decoder={"width": 32, "hidden": 32, "layers": 1, "attention": False, "condition_ids": 1},
        codebook_size=12, quantizer=KINDS[kind],
    ).train()  # fmt: skip
    model = joined(bare, find_unused_parameters=True, broadcast_buffers=False)
    objective = AudioObjective(from_mapping(AudioObjectiveConfig, OBJECTIVE))
    optimizer = torch.optim.SGD(bare.parameters(), lr=1e-3)
    x = torch.rand(BATCH, 1, 1600, generator=torch.Generator().manual_seed(0)) - 0.5
    x = x[half(rank, BATCH)]
    found: dict[str, Tensor] = {}
    for step in range(STEPS):
        out = model(x)
        losses = objective.generator_losses(x, out, step)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        found = {n: p.grad.clone() for n, p in bare.named_parameters() if p.grad is not None}
        found |= {f"statistic/{n}": s.float() for n, s in out.statistics.items()}
        if step < STEPS - 1:
            optimizer.step()
    return found | {f"state/{n}": t.float() for n, t in bare.quantizer.state_dict().items()}


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_are_one(tmp_path: Path, kind: str) -> None:
    both = in_two(train, tmp_path, kind)
    assert_alike(train(None, kind), *both, tolerance=2e-3, floor=1e-8)
