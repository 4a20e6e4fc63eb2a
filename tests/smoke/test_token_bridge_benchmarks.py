"""The benchmarks of TokenBridge's levels (pictures, sound) and heads, as small as they go."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.smoke
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("dimension_wise_levels", "6 bits, range 5"), ("token_bridge_heads", "autoregressive"),
        ("dimension_wise_sound", "8 bits"),
    ],
)
def test_runs_and_writes_nothing(name: str, words: str, tmp_path: Path) -> None:
    results = ROOT / "benchmarks" / "results"
    before = {path: path.stat().st_mtime_ns for path in results.iterdir()}
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), "--small"], cwd=tmp_path,
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert words in done.stdout
    assert before == {path: path.stat().st_mtime_ns for path in results.iterdir()}
