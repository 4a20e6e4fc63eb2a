"""`python -m vision_tok.train`: one sentence and code 2 for mistakes, a whole run otherwise."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from PIL import Image

from tests import warm_python
from tok_core.loading import load
from vision_tok.train import main

ROOT = Path(__file__).parents[2]
SMOKE = str(ROOT / "assets" / "configs" / "smoke.yaml")
QUICK = ["--set", "train.steps=2", "--set", "log.tracker=none", "--set", "validation_images=2"]


def _run(*arguments: str) -> int:
    return main(["--config", SMOKE, *QUICK, *arguments])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "/no/such/folder"], ["/no/such/folder", "folder"]),
        (["--set", "train.stepz=3"], ["train.stepz", "did you mean 'steps'"]),
        (["--set", "model.config.num_tokns=3"], ["num_tokns", "did you mean 'num_tokens'"]),
        (["--set", "model.class=OneDPeace"], ["did you mean 'OneDPiece'"]),
        (["--set", "model.from=/no/model"], ["/no/model"]),
        (["--set", "objective.perceptual=lpips", "--set", "objective.lpips_vgg16=/no/vgg.pth"],
         ["/no/vgg.pth"]),
        (["--set", "train.batch_size=0"], ["'train.batch_size'", "greater than or equal to 1"]),
        (["--set", "train.freeze=[encodr]"], ["did you mean 'encoder'"]),
        (["--set", "data.size=64"], ["64", "32"]),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: list[str], words: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert _run("--out", str(tmp_path / "run"), *arguments) == 2
    output = capfd.readouterr().err
    assert "Traceback" not in output
    message = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(message) == 1
    for word in words:
        assert word in message[0]


def test_missing_recipe(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", SMOKE.replace("smoke", "smoek")]) == 2
    assert "did you mean 'smoke.yaml'" in capfd.readouterr().err


def test_folder_with_a_broken_picture_then_resume(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for number in range(3):
        Image.effect_noise((40, 50), 80).convert("RGB").save(data / f"{number}.png")
    (data / "broken.png").write_bytes(b"not a picture")
    run = tmp_path / "run"
    arguments = ["--data", str(data), "--out", str(run), "--set", "train.batch_size=8"]
    assert _run(*arguments) == 0
    captured = capfd.readouterr().out
    assert "skipped" in captured and "broken.png" in captured
    resolved = yaml.safe_load((run / "config.yaml").read_text())
    assert resolved["data"]["path"] == str(data) and resolved["train"]["steps"] == 2
    assert "extends" not in resolved

    assert _run(*arguments) == 2
    assert "--resume" in capfd.readouterr().err
    assert _run(*arguments, "--resume", "--set", "train.steps=3") == 0
    captured = capfd.readouterr().out
    assert "resumed at step 2" in captured and "train.steps 2 -> 3" in captured
    assert load(run / "model").config.num_tokens == 16


def test_a_resumed_one_d_piece_ends_in_the_same_bits(tmp_path: Path) -> None:
    more = ["--set", "train.steps=8", "--set", "log.save_every=3", "--set", "log.keep_last=9",
            "--set", "objective.discriminator_start=4"]
    assert _run("--out", str(tmp_path / "whole"), *more) == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for step in (6, 8):
        shutil.rmtree(tmp_path / "cut" / "checkpoints" / f"step_{step:08d}")
    shutil.rmtree(tmp_path / "cut" / "model")
    assert _run("--out", str(tmp_path / "cut"), *more, "--resume") == 0
    hashes = [load(tmp_path / name / "model").weights_hash() for name in ("whole", "cut")]
    assert hashes[0] == hashes[1]


def test_resolved_config_makes_the_same_run(tmp_path: Path) -> None:
    assert _run("--out", str(tmp_path / "a")) == 0
    again = ["--config", str(tmp_path / "a" / "config.yaml"), "--out", str(tmp_path / "b")]
    assert main(again) == 0
    hashes = [load(tmp_path / name / "model").weights_hash() for name in ("a", "b")]
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize(
    ("launcher", "processes"),
    [
        pytest.param(["accelerate.commands.launch", "--cpu"], 1, marks=pytest.mark.smoke),
        (["torch.distributed.run", "--standalone", "--nproc_per_node", "2"], 2),
    ],
    ids=["accelerate", "torchrun"],
)
def test_launched_as_documented(launcher: list[str], processes: int, tmp_path: Path) -> None:
    done = warm_python.run(
        "-m", *launcher, "-m", "vision_tok.train", "--config", SMOKE,
        "--out", str(tmp_path / "run"), *QUICK, "--set", "train.device=cpu", cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"on {processes} x cpu" in done.stdout
    assert (tmp_path / "run" / "model" / "config.json").is_file()
