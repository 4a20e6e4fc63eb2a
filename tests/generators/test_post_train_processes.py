"""Two processes make the pairs that one makes, SIGKILL costs a part, and the decoders are equal."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from generators.contract import fixed_spec
from generators.llamagen import LlamaGen
from tests import warm_python
from tok_core.token_shards import TokenShards
from vision_tok.vqgan import VQGAN

PAIRS = 24


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    side = {"channels": 8, "multipliers": [1, 2, 2], "res_blocks": 1, "attention": []}
    tokenizer = VQGAN(
        encoder_sizes=side, decoder_sizes=side, z_channels=6, code_dim=4, codebook_size=16,
        norm_groups=4, image_size=16,
    ).eval()  # fmt: skip
    folder = tmp_path_factory.mktemp("recipe")
    tokenizer.save_pretrained(folder / "tokenizer")
    LlamaGen(
        spec=fixed_spec(tokenizer.spec).to_json(), code_hash=tokenizer.code_hash(), classes=12,
        width=32, layers=1, heads=2,
    ).save_pretrained(folder / "generator")  # fmt: skip
    file = folder / "recipe.yaml"
    file.write_text(json.dumps({
        "model": {"from": str(folder / "tokenizer")},
        "data": {
            "source": "classes", "size": 16,
            "pairs": {"path": "pairs", "generator": str(folder / "generator"), "count": PAIRS,
                      "batch_size": 2},
        },
        "objective": {"picture_range": "signed", "l2_weight": 4.0, "quantizer_weight": 0.0},
        "optimizer": {"lr": 1e-3}, "schedule": {"end_lr": 1e-3, "warmup": 0},
        "train": {"steps": 3, "train_only": "decoder", "device": "cpu", "clip": 0.0},
        "log": {"every": 1, "validate_every": 0, "pictures_every": 0, "save_every": 0,
                "tracker": "none"},
        "validation_images": 0,
    }))  # fmt: skip
    return file


def words(recipe: Path, folder: Path, processes: int) -> list[str]:
    return [
        "-m", "generators.post_train", "--config", str(recipe), "--out", str(folder / "run"),
        "--set", f"data.pairs.path={folder / 'pairs'}",
        "--set", f"train.batch_size={4 // processes}",
    ]  # fmt: skip


def post_train(recipe: Path, folder: Path, processes: int) -> None:
    folder.mkdir(exist_ok=True)
    done = warm_python.launch(*words(recipe, folder, processes), processes=processes, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def one(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    post_train(recipe, folder, 1)
    return folder


def pairs(folder: Path) -> list[Any]:
    shards = TokenShards(folder / "pairs")
    return [(shards.item(i, view=v)[0]) for i in range(shards.length) for v in (0, 1)]


def same_pairs(a: Path, b: Path) -> bool:
    return all(torch.equal(x, y) for x, y in zip(pairs(a), pairs(b), strict=True))


def test_two_processes_are_one(recipe: Path, one: Path, tmp_path: Path) -> None:
    post_train(recipe, tmp_path, 2)
    assert len(pairs(one)) == 2 * PAIRS and same_pairs(one, tmp_path)
    # Adam turns the rounding of gradients near zero into whole steps, so weights say less.
    assert losses(tmp_path) == pytest.approx(losses(one), rel=1e-4) and len(losses(one)) == 3


def losses(folder: Path) -> list[float]:
    lines = map(json.loads, (folder / "run" / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def test_killed_while_pairs_are_made(recipe: Path, one: Path, tmp_path: Path) -> None:
    process = warm_python.WarmProcess(*words(recipe, tmp_path, 1), cwd=tmp_path)
    unfinished = tmp_path / "pairs" / "unfinished"
    end = time.monotonic() + 120
    while len(list(unfinished.glob("part-*.json"))) < 2 and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "pairs" / "index.json").exists(), "it was killed too late to show it"
    post_train(recipe, tmp_path, 1)
    assert same_pairs(one, tmp_path)
