"""A killed run goes on by sample and ends with the numbers of an undisturbed one."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from torchmetrics import Metric

from eval.checkpoint import Checkpoint
from eval.launched import Processes
from eval.loop import Pass, run_passes
from eval.metric_states import metric_states, set_states
from tests import warm_python
from tests.eval.judged_files import Files, Judge
from tests.eval.tiny_tokenizers import MeanDistance

ROOT = Path(__file__).resolve().parents[2]


def arguments(files: Files, out: str) -> list[str]:
    return [
        "recon", "--tokenizer", "judged_contestants:slow", str(files.titok), "jpeg", "--data",
        str(files.pictures), "--size", "16", "--metrics", "psnr,ssim,ms_ssim,codes",
        "--qualities", "50", "--batch-size", "2", "--save-every", "0", "--out", out,
    ]  # fmt: skip


def numbers(path: Path) -> list[object]:
    plain = json.loads(path.read_text())
    return [{k: v for k, v in score.items() if k != "versions"} for score in plain["scores"]]


def test_sigkill_at_a_random_moment(files: Files, judge: Judge, tmp_path: Path) -> None:
    path = os.pathsep.join([str(ROOT), str(files.root)])
    process = warm_python.WarmProcess(
        "-m", "eval", *arguments(files, "killed.json"), cwd=tmp_path,
        env={"HF_HUB_OFFLINE": "1", "PYTHONPATH": path},
    )
    parts = tmp_path / "killed.json.parts"
    deadline = time.monotonic() + 120
    while not list(parts.glob("*.safetensors")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.3))
    process.send_signal(signal.SIGKILL)
    process.wait()
    if (tmp_path / "killed.json").exists():
        pytest.skip("the run was faster than the kill")
    torch.set_num_threads(1)
    again = judge(*arguments(files, "killed.json"))
    assert again.code == 0, again.err
    assert "going on after" in again.err or "ground truth" not in again.err
    whole = judge(*arguments(files, "whole.json"))
    assert whole.code == 0 and "going on after" not in whole.err
    assert numbers(tmp_path / "killed.json") == numbers(tmp_path / "whole.json")
    # What a finished run kept for the next one is gone.
    assert not parts.exists() and not list(tmp_path.glob("**/*.part"))


def test_another_command_does_not_read_the_parts(
    files: Files, judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eval import run

    real = run.Run._save

    def stop(self: run.Run, key: str, done: int) -> None:
        real(self, key, done)
        if done >= 4 and self.plan.seed == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(run.Run, "_save", stop)
    words = arguments(files, "a.json")
    stopped = judge(*words)
    assert stopped.code == 130 and list((tmp_path / "a.json.parts").iterdir())
    other = judge(*words, "--seed", "1")
    assert other.code == 0 and "going on after" not in other.err


class Numbers:
    """Items 0 to count - 1 as pictures."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def batches(self, places: range, size: int):  # type: ignore[no-untyped-def]
        """Yield indices and pictures of that grey."""
        for start in range(0, len(places), size):
            part = list(places[start : start + size])
            yield part, torch.stack([torch.full((3, 4, 4), i, dtype=torch.uint8) for i in part])


def test_a_loop_of_its_own_resumes_within_a_pass(tmp_path: Path) -> None:
    def passes(metric: Metric, most: int = 99) -> list[Pass]:
        seen = 0

        def show(real: bool):  # type: ignore[no-untyped-def]
            def update(indices: list[int], pictures: torch.Tensor) -> None:
                nonlocal seen
                seen += len(indices)
                if seen > most:
                    raise KeyboardInterrupt
                metric.update(pictures, real=real)

            return update

        return [Pass(items=Numbers(5), update=show(True)),
                Pass(items=Numbers(7), update=show(False))]  # fmt: skip

    kept = Checkpoint(tmp_path, Processes(), every=0)
    options = {"checkpoint": kept, "processes": Processes(), "facts": {}, "batch_size": 2,
               "label": "test"}  # fmt: skip
    whole, cut, again = MeanDistance(), MeanDistance(), MeanDistance()
    with pytest.raises(KeyboardInterrupt):
        run_passes(cut, passes(cut, most=8), **options)  # type: ignore[arg-type]
    resumed = run_passes(again, passes(again), **options)  # type: ignore[arg-type]
    for one in tmp_path.iterdir():
        one.unlink()
    fresh = run_passes(whole, passes(whole), **options)  # type: ignore[arg-type]
    assert resumed is not None and fresh is not None
    assert float(resumed["distance"]) == float(fresh["distance"])
    assert int(resumed["count"]) == 7


def test_states_of_inner_metrics_travel() -> None:
    class Outer(Metric):
        full_state_update = False

        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.ModuleList([MeanDistance(), MeanDistance("b_")])

        def update(self) -> None:
            """Nothing."""

        def compute(self) -> None:
            """Nothing."""

    first, second = Outer(), Outer()
    first.inner[0].update(torch.ones(2, 3, 4, 4, dtype=torch.uint8), real=True)  # type: ignore[operator]
    set_states(second, metric_states(first))
    assert float(second.inner[0].real_count) == 2.0  # type: ignore[arg-type]


def test_a_damaged_checkpoint_is_no_checkpoint(tmp_path: Path) -> None:
    kept = Checkpoint(tmp_path, Processes())
    kept.save("k", {"a": torch.ones(2), "b": [], "c": [torch.zeros(1)]}, {"done": 3})
    states, facts = kept.load("k") or ({}, {})
    assert facts == {"done": 3} and states["b"] == [] and len(states["c"]) == 1
    file = next(tmp_path.iterdir())
    file.write_bytes(file.read_bytes()[:-3])
    assert kept.load("k") is None and kept.load("other") is None
