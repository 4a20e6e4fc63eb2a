"""Training through torch.compile, prefixes of another length in every step."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from vision_tok.train import main

pytestmark = [
    pytest.mark.smoke,
    pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler"),
]
ROOT = Path(__file__).resolve().parents[2]


def test_tail_drop_and_perturbation(tmp_path: Path) -> None:
    size = "{width: 64, layers: 1, heads: 2}"
    settings = {
        "model.config.decoder_size": size, "objective.discriminator": False,
        "objective.perceptual_weight": 0.0, "train.compile": True, "train.steps": 4,
        "train.batch_size": 4, "train.accumulation": 1, "train.device": "cpu", "train.workers": 0,
        "log.every": 1, "log.validate_every": 0, "log.pictures_every": 0, "log.tracker": "none",
        "validation_images": 1, "perturbation": "{alpha: 1.0, beta: 0.5, delta: 20}",
    }  # fmt: skip
    words = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    recipe = ROOT / "assets" / "configs" / "smoke.yaml"
    assert main(
        ["--config", str(recipe), "--data", "procedural", "--out", str(tmp_path / "run"), *words]
    ) == 0  # fmt: skip
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [row["step"] for row in map(json.loads, lines) if "loss" in row] == [1, 2, 3, 4]
