"""The benchmark of the dimension-wise head, as small as it goes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmark_script import benchmark_script

from generators.causal_head import CausalHead

pytestmark = pytest.mark.smoke


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> Any:
    return benchmark_script("dimension_wise_head_speed", monkeypatch)


def test_writes_what_it_measured(
    speed: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "speed.json"
    speed.main(["--small", "--rows", "1", "3", "--repeats", "1", "--out", str(out)])
    result = json.loads(out.read_text())
    assert [row["rows"] for row in result["rows"]] == [1, 3]
    for row in result["rows"]:
        ratio = row["naive_ms_per_position"] / row["cached_ms_per_position"]
        assert row["naive_ratio"] == pytest.approx(ratio)
    assert "ms per position" in capsys.readouterr().out


def test_both_loops_draw_the_same(speed: Any) -> None:
    torch.manual_seed(0)
    head = CausalHead(16, 4, 8, heads=2, blocks="adaln", features=16, output=True,
                      first_input="stepped").eval()  # fmt: skip
    features = torch.randn(5, 16)
    with torch.inference_mode():
        for parameter in head.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        drawn = []
        for loop in (speed.with_cache, speed.without_cache):
            torch.manual_seed(1)
            drawn.append(loop(head, features))
    assert torch.equal(*drawn) and drawn[0].shape == (5, 4)
