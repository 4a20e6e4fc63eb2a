"""Two processes give the numbers of one, and only the first writes."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
import torch
from torchmetrics import Metric

from eval.launched import Processes
from eval.metric_states import States, merged_states, metric_states, set_states
from tests import warm_python
from tests.eval.judged_files import Files, Judge

ROOT = Path(__file__).resolve().parents[2]


def arguments(files: Files, out: str) -> list[str]:
    return [
        "recon", "--tokenizer", str(files.titok), "judged_contestants:broken", "--data",
        str(files.pictures), "--size", "16", "--budgets", "2,8", "--metrics", "psnr,ssim,codes",
        "--batch-size", "2", "--out", out,
    ]  # fmt: skip


def test_two_processes_equal_one(files: Files, judge: Judge, tmp_path: Path) -> None:
    path = os.pathsep.join([str(ROOT), str(files.root)])
    done = warm_python.launch(
        "-m", "eval", *arguments(files, "two.json"), processes=2, cwd=tmp_path,
        env={"HF_HUB_OFFLINE": "1", "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("wrote two.json") == 1 and done.stdout.count("PSNR") == 1
    one = judge(*arguments(files, "one.json"))
    assert one.code == 0, one.err
    first, second = (
        json.loads((tmp_path / name).read_text()) for name in ("one.json", "two.json")
    )
    assert len(first["scores"]) == len(second["scores"])
    for a, b in zip(first["scores"], second["scores"], strict=True):
        for key in a:
            if key == "value" and isinstance(a[key], float):
                assert math.isclose(a[key], b[key], rel_tol=1e-6), (a["metric"], a[key], b[key])
            elif key not in ("spread", "value"):
                assert a[key] == b[key], (a["metric"], key)
    assert first["extras"]["histograms"] == second["extras"]["histograms"]
    assert not (tmp_path / "two.json.parts").exists()


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("items", [0, 1, 4, 9])
def test_blocks_cover_all_items_in_order(world: int, items: int) -> None:
    blocks = [Processes(rank, world).block(items) for rank in range(world)]
    assert [i for block in blocks for i in block] == list(range(items))


class Several(Metric):
    """A state for every rule."""

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        zero = torch.zeros(2, dtype=torch.float64)
        for rule in ("sum", "max", "min", "mean"):
            self.add_state(rule, zero.clone(), dist_reduce_fx=rule, persistent=True)
        self.add_state("rows", [], dist_reduce_fx="cat", persistent=True)
        self.add_state(
            "own", zero.clone(), dist_reduce_fx=lambda x: x[0] - x[1], persistent=True
        )

    def update(self) -> None:
        """Nothing: the test fills the states."""

    def compute(self) -> torch.Tensor:
        """Return one of them."""
        return self.sum  # type: ignore[return-value]


def states(value: float, rows: int) -> States:
    metric = Several()
    for name in ("sum", "max", "min", "mean", "own"):
        setattr(metric, name, torch.full((2,), value, dtype=torch.float64))
    for row in range(rows):
        metric.rows.append(torch.full((1,), value + row / 10))  # type: ignore[operator, union-attr]
    return metric_states(metric)


def test_every_rule_merges_as_it_says() -> None:
    metric = Several()
    set_states(metric, merged_states(metric, [states(1.0, 2), states(4.0, 0), states(2.0, 1)][:2]))
    found = [float(getattr(metric, name)[0]) for name in ("sum", "max", "min", "mean", "own")]
    assert found == [5.0, 4.0, 1.0, 2.5, -3.0]
    # A process that saw nothing brings no rows, in whatever place.
    rows = merged_states(metric, [states(1.0, 0), states(2.0, 2), states(3.0, 1)][:3])["rows"]
    assert torch.cat(list(rows)).tolist() == pytest.approx([2.0, 2.1, 3.0])
