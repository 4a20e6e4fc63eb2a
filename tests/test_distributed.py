"""Two real processes (gloo) against one process on the joined batch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests import warm_python
from tok_core.training.checkpoint import checkpoints, latest_checkpoint

ROOT = Path(__file__).parents[1]
FIXED = ("keep=11", "start=0", "optimizer.betas=[0.9,0.99]", "log.save_every=1", "log.keep_last=9")


def _run(folder: Path, processes: int, *options: str) -> str:
    """Run the tiny training in so many processes; the joined batch always has 8 pictures."""
    done = warm_python.launch(
        "-m", "tests.tiny_training", str(folder), f"train.batch_size={8 // processes}", *options,
        processes=processes, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def _state(folder: Path, name: str, number: int = -1) -> dict[str, Tensor]:
    """Read one file of the last checkpoint, or of another one."""
    return load_file(checkpoints(folder / "checkpoints")[number] / f"{name}.safetensors")


def _close(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        scale = max(float(tensor.double().abs().max()), 1e-12)
        error = float((tensor.double() - theirs[name].double()).abs().max())
        assert error <= tolerance * scale, f"{name}: {error / scale:.2e} relative"


@pytest.fixture(scope="module", params=["plain", "restarts", "hybrid"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same run by one and by two processes, without and with the codebook's own
    moves, and of a real OneDPiece."""
    model = {
        "plain": ["restarts=0"], "restarts": ["restarts=2"], "hybrid": ["hybrid=1", "restarts=0"],
    }[request.param]
    folders = []
    for processes in (1, 2):
        folder = tmp_path_factory.mktemp(f"{request.param}{processes}")
        _run(folder, processes, *FIXED, *model, "train.steps=6", "train.clip=0")
        folders.append(folder)
    return folders


@pytest.mark.parametrize("player", ["optimizer", "discriminator_optimizer"])
def test_gradients_equal_one_process_on_the_joined_batch(pair: list[Path], player: str) -> None:
    # After one step AdamW's first moment is a tenth of the gradient.
    one, two = (_state(folder, player, 0) for folder in pair)
    moments = [name for name in one if name.endswith("exp_avg")]
    assert moments
    _close({n: one[n] for n in moments}, {n: two[n] for n in moments}, 1e-4)


@pytest.mark.parametrize("part", ["model", "ema", "objective"])
def test_state_after_some_steps_agrees(pair: list[Path], part: str) -> None:
    one, two = (_state(folder, part) for folder in pair)
    _close(one, two, 2e-3)


def test_logged_numbers_are_those_of_the_joined_batch(pair: list[Path]) -> None:
    one, two = (
        [json.loads(line) for line in (f / "metrics.jsonl").read_text().splitlines()]
        for f in pair
    )
    assert len(one) == len(two)
    speed = {"images_per_second"}
    for ours, theirs in zip(one, two, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours.keys() - speed:
            if isinstance(ours[name], float):
                assert ours[name] == pytest.approx(theirs[name], rel=5e-3, abs=1e-5), name


def test_processes_draw_their_own_lengths_and_resume_together(tmp_path: Path) -> None:
    _run(tmp_path / "whole", 2, "train.steps=8")
    _run(tmp_path / "cut", 2, "train.steps=8", "train.accumulation=1", "log.keep_last=9")
    last = latest_checkpoint(tmp_path / "cut" / "checkpoints")
    assert last is not None
    streams = [load_file(last / f"random_{p}.safetensors")["torch"] for p in (0, 1)]
    assert not torch.equal(*streams)
    for file in last.iterdir():
        file.unlink()
    last.rmdir()
    assert "resumed at step 6" in _run(tmp_path / "cut", 2, "resume=1", "train.steps=8")
    for part in ("model", "ema", "optimizer", "discriminator_optimizer", "objective"):
        whole, cut = (_state(tmp_path / name, part) for name in ("whole", "cut"))
        assert all(torch.equal(whole[name], cut[name]) for name in whole), part


def test_every_process_perturbs_items_of_its_own_batch(tmp_path: Path) -> None:
    # Four pictures each: the official rule takes one of every process's own.
    line = "perturbation={alpha: 1.0, beta: 0.25, delta: 16}"
    _run(tmp_path, 2, "hybrid=1", "restarts=0", line, "train.steps=2", "log.validate_every=0",
         "log.pictures_every=0", "log.save_every=0")  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    changed = [line["perturbation/changed"] for line in lines if "loss" in line]
    assert len(changed) == 2 and all(0.15 < share <= 0.25 for share in changed)
