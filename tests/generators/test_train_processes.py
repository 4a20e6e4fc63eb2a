"""Two processes (gloo) train a generator as one does on the joined batch, save and resume."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests import warm_python
from tok_core.training.checkpoint import latest_checkpoint
from vision_tok.vqgan import VQGAN

RECIPE = """
model: {{class: LlamaGen, config: {{width: 32, layers: 2, heads: 2, dropout: 0.0, window: 2,
         condition_dropout: 0.0}}}}
data: {{tokenizer: {tokenizer}, signals: {{source: classes, size: 16}}, classes: 12}}
train: {{steps: 4, batch_size: 4, seed: 0, ema_decay: 0.9, device: cpu, clip: 0.0}}
optimizer: {{lr: 0.001}}
schedule: {{end_lr: 0.001}}
log: {{every: 1, validate_every: 2, pictures_every: 0, save_every: 2, tracker: none}}
validation_samples: 3
shown: 0
"""


def train(recipe: Path, folder: Path, processes: int, *options: str) -> str:
    """One process is started as the documents say, two as a launcher starts them."""
    words = ["-m", "generators.train", "--config", str(recipe), "--out", str(folder)]
    words += ["--set", f"train.batch_size={4 // processes}", *options]
    if processes == 1:
        launcher = ["-m", "accelerate.commands.launch", "--cpu"]
        done = warm_python.run(*launcher, *words, cwd=folder.parent)
    else:
        done = warm_python.launch(*words, processes=processes, cwd=folder.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    side = {"channels": 8, "multipliers": [1, 2, 2], "res_blocks": 1, "attention": []}
    folder = tmp_path_factory.mktemp("recipe")
    VQGAN(
        encoder_sizes=side, decoder_sizes=side, z_channels=6, code_dim=4, codebook_size=16,
        norm_groups=4, image_size=16,
    ).save_pretrained(folder / "tokenizer")  # fmt: skip
    file = folder / "recipe.yaml"
    file.write_text(RECIPE.format(tokenizer=folder / "tokenizer"))
    return file


def losses(folder: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss/tokens"] for row in rows if "loss/tokens" in row}


def test_two_processes_are_one_and_resume(recipe: Path, tmp_path: Path) -> None:
    train(recipe, tmp_path / "one", 1)
    train(recipe, tmp_path / "two", 2, "--set", "train.steps=2")
    out = train(recipe, tmp_path / "two", 2, "--resume")
    assert "resumed at step 2" in out and out.count("model written to") >= 1
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert one.keys() == two.keys() == {1, 2, 3, 4}
    assert list(two.values()) == pytest.approx(list(one.values()), rel=1e-5)
    states = []
    for name in ("one", "two"):
        last = latest_checkpoint(tmp_path / name / "checkpoints")
        assert last is not None
        states.append(load_file(last / "ema.safetensors"))
    for key, tensor in states[0].items():
        torch.testing.assert_close(states[1][key], tensor, rtol=1e-3, atol=1e-5)
