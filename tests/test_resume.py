"""Resuming: the same numbers as an uninterrupted run, also after a kill at any moment."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests import warm_python
from tests.tiny_training import TinyTokenizer, tiny_engine
from tok_core.errors import TesseraError
from tok_core.training.checkpoint import checkpoints, latest_checkpoint

ROOT = Path(__file__).parents[1]
STEPS = 24


def _same(a: Path, b: Path) -> None:
    """Two checkpoints hold the same bits in every file."""
    assert sorted(p.name for p in a.iterdir()) == sorted(p.name for p in b.iterdir())
    for file in a.iterdir():
        other = b / file.name
        if file.suffix == ".json":
            assert json.loads(file.read_text()) == json.loads(other.read_text()), file.name
            continue
        ours, theirs = load_file(file), load_file(other)
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            assert torch.equal(tensor, theirs[name]), f"{file.name}: {name}"


def _losses(folder: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


def test_resume_continues_to_the_same_bits(tmp_path: Path) -> None:
    steps = f"train.steps={STEPS}"
    tiny_engine(tmp_path / "whole", steps).run()

    class Stop(Exception):
        pass

    engine = tiny_engine(tmp_path / "cut", steps)
    real, engine._step = engine._step, None  # type: ignore[method-assign, assignment]

    def until_ten(*arguments: object, **options: object) -> dict[str, float]:
        if engine.step == 10:
            raise Stop
        return real(*arguments, **options)  # type: ignore[arg-type]

    engine._step = until_ten  # type: ignore[method-assign]
    with pytest.raises(Stop):
        engine.run()
    latest = latest_checkpoint(tmp_path / "cut" / "checkpoints")
    assert latest is not None and latest.name == "step_00000009"
    tiny_engine(tmp_path / "cut", steps).run(resume=True)
    _same(*(checkpoints(tmp_path / n / "checkpoints")[-1] for n in ("whole", "cut")))
    assert _losses(tmp_path / "whole") == _losses(tmp_path / "cut")


def test_resume_without_a_checkpoint_begins_at_the_start(tmp_path: Path) -> None:
    assert tiny_engine(tmp_path, "train.steps=2").run(resume=True) is not None


def test_resume_of_a_finished_run_only_exports_again(tmp_path: Path) -> None:
    tiny_engine(tmp_path, "train.steps=3").run()
    before = _losses(tmp_path)
    assert tiny_engine(tmp_path, "train.steps=3").run(resume=True) == tmp_path / "model"
    assert _losses(tmp_path) == before


def test_resume_with_another_model_is_refused(tmp_path: Path) -> None:
    tiny_engine(tmp_path, "train.steps=3").run()
    other = tiny_engine(tmp_path, "train.steps=5", model=TinyTokenizer(width=8))
    with pytest.raises(TesseraError, match="shape"):
        other.run(resume=True)


def _start(folder: Path, *more: str) -> warm_python.WarmProcess:
    words = ("tests.tiny_training", str(folder), f"train.steps={STEPS}", "log.save_every=2")
    return warm_python.WarmProcess("-m", *words, *more, cwd=ROOT)


def _run(folder: Path, *more: str) -> None:
    process = _start(folder, *more)
    _, errors = process.communicate(300)
    assert process.returncode == 0, errors


def _kill_after(folder: Path, step: int, number: int) -> int:
    """Start a run, send a signal once it has logged ``step`` steps; return its exit code."""
    process = _start(folder, "resume=1")
    metrics = folder / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if metrics.exists() and len(metrics.read_bytes().splitlines()) >= step:
            break
        time.sleep(0.0005)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode in (-number, 0), errors
    return process.returncode


def test_sigkill_at_random_steps_changes_nothing(tmp_path: Path) -> None:
    # In a process like the killed ones: another number of threads would round differently.
    _run(tmp_path / "whole")
    folder = tmp_path / "killed"
    rng = random.Random()  # noqa: S311 - another moment in every run is the point
    killed = 0
    for _ in range(3):
        killed += _kill_after(folder, rng.randint(1, STEPS - 4), signal.SIGKILL) == -signal.SIGKILL
    assert killed, "no run was killed before its end"
    _run(folder, "resume=1")
    _same(*(checkpoints(p / "checkpoints")[-1] for p in (tmp_path / "whole", folder)))
    assert _losses(tmp_path / "whole") == _losses(folder)
    assert not list((folder / "checkpoints").glob(".*"))


def test_sigterm_saves_first(tmp_path: Path) -> None:
    code = _kill_after(tmp_path, 5, signal.SIGTERM)
    latest = latest_checkpoint(tmp_path / "checkpoints")
    assert code == 0 and latest is not None
    assert int(latest.name[5:]) == _losses(tmp_path)[-1][0] < STEPS
    assert not (tmp_path / "model").exists()
