"""The GPU benchmark of the generator, as small as it goes, wherever it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmark_script import benchmark_script

pytestmark = pytest.mark.smoke


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    return benchmark_script("llamagen_gpu", monkeypatch)


def test_writes_what_it_measured(benchmark: Any, tmp_path: Path) -> None:
    pytest.importorskip("transformers")  # the peer
    out = tmp_path / "speed.json"
    benchmark.main(["--small", "--tokens", "16", "--out", str(out)])
    result = json.loads(out.read_text())
    measured = [row for row in result["rows"] if "tokens_per_second" in row]
    expected = sum(len(case.batches) for case in benchmark.SMALL_CASES)
    assert len(measured) == expected and not any("error" in row for row in result["rows"])
    benchmark.main(["--small", "--tokens", "16", "--seconds", "0", "--out", str(out)])
    assert json.loads(out.read_text())["rows"] == result["rows"], "nothing is measured again"
    for row in measured:
        seconds = row["batch"] * 16 / row["tokens_per_second"]
        assert row["ms_per_step"] == pytest.approx(seconds / 16 * 1e3)


def test_errors_and_lack_of_time_are_rows(
    benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "speed.json"
    benchmark.main(["--small", "--tokens", "16", "--seconds", "0", "--out", str(out)])
    rows = json.loads(out.read_text())["rows"]
    assert len(rows) == len(benchmark.SMALL_CASES) and all("skipped" in row for row in rows)
    case = benchmark.SMALL_CASES[0]._replace(shape="none of these")
    monkeypatch.setattr(benchmark, "SMALL_CASES", [case, benchmark.SMALL_CASES[0]])
    benchmark.main(["--small", "--tokens", "16", "--force", "--out", str(out)])
    rows = json.loads(out.read_text())["rows"]
    assert "KeyError" in rows[0]["error"] and "tokens_per_second" in rows[1]


def test_what_a_step_reads(benchmark: Any) -> None:
    sizes = benchmark.FULL
    with torch.device("meta"):
        model = benchmark.ours(sizes, 256, torch.bfloat16)
    width, layers, hidden = 768, 12, 2048
    block = 4 * width**2 + 3 * width * hidden + 2 * width
    weights = layers * block + width + width * sizes["codes"]
    cache = 2 * 2 * layers * width * 128.5
    assert benchmark.bytes_per_step(model, 1, 256) == 2 * (weights + cache)
