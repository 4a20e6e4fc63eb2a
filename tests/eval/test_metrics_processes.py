"""Two real processes (gloo) give what one gives: pictures, codes, rates and words in one run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torchmetrics import Metric

from eval.code_usage import CodeUsage
from eval.image_quality import PSNR, PooledPSNR
from eval.rates import RateMeter
from eval.word_errors import WordErrors
from tests.eval.test_image_quality import images, noisy
from tok_core.contract import Tokens
from tok_core.token_spec import Axis, TokenSpec

ROOT = Path(__file__).parents[2]
ITEMS = 7
AXES = (Axis(name="level", size=2), Axis(name="token", size=5))
SPEC = TokenSpec(modality="image", axes=AXES, vocabulary=(9, 4))
TEXTS = ["a b c", "a c", "", "b b b", "c", "a b c d", "d"]


def metrics() -> dict[str, Metric]:
    return {
        "psnr": PSNR(), "pooled": PooledPSNR(), "codes": CodeUsage(SPEC), "rates": RateMeter(),
        "words": WordErrors(), "per file": WordErrors(average="per-file"),
    }  # fmt: skip


def take(metric: Any, name: str, item: int) -> None:
    if name in ("psnr", "pooled"):
        x = images(ITEMS)
        metric.update(noisy(x)[item : item + 1], x[item : item + 1], indices=[item])
    elif name == "codes":
        generator = torch.Generator().manual_seed(item)
        codes = torch.randint(0, 4, (1, 2, 5), generator=generator)
        metric.update(Tokens(codes, torch.tensor([1 + item % 5])))
    elif name == "rates":
        metric.update(100 + item, pixels=50 * (1 + item), tokens=item)
    else:
        metric.update(TEXTS[item], TEXTS[-1 - item], indices=[item])


def found(rank: int = 0, world: int = 1) -> dict[str, list[float]]:
    """Every number that one process of so many finds; the last item is rank 0's alone."""
    numbers: dict[str, list[float]] = {}
    for name, metric in metrics().items():
        for item in range(rank, ITEMS, world):
            take(metric, name, item)
        result = metric.compute()
        parts = result if isinstance(result, dict) else {"": result}
        for key, value in parts.items():
            numbers[name + key] = value.flatten().tolist()
        if name == "psnr":
            with metric.sync_context(should_sync=world > 1):
                numbers["values"] = metric.collected()[0].tolist()  # type: ignore[operator]
    return numbers


PROCESS = """
import json, sys
import torch.distributed as dist
from tests.eval.test_metrics_processes import found
dist.init_process_group("gloo")
numbers = found(dist.get_rank(), dist.get_world_size())
if dist.get_rank() == 0:
    open(sys.argv[1], "w").write(json.dumps(numbers))
dist.destroy_process_group()
"""


def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text(PROCESS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", "2", str(tmp_path / "run.py"), str(tmp_path / "out.json")]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    two, one = json.loads((tmp_path / "out.json").read_text()), found()
    assert two.keys() == one.keys()
    for name, values in one.items():
        assert two[name] == pytest.approx(values, rel=1e-12, nan_ok=True), name
