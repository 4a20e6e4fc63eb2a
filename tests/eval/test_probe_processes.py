"""``eval probe`` launched with two processes gives the numbers of one."""

from __future__ import annotations

import json
from pathlib import Path

from tests import warm_python
from tests.eval.judged_files import Files, Judge


def test_two_processes_equal_one(files: Files, judge: Judge, tmp_path: Path) -> None:
    words = ["probe", "--tokenizer", f"ours={files.titok}", "--data", "procedural", "--count", "72",
             "--budgets", "2,8", "--batch-size", "8", "--out"]  # fmt: skip
    done = warm_python.launch(
        "-m", "eval", *words, "two.json", processes=2, cwd=tmp_path, env={"HF_HUB_OFFLINE": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("wrote two.json") == 1 and done.stdout.count("accuracy, all") == 1
    one = judge(*words, "one.json")
    assert one.code == 0, one.err
    first, second = (
        json.loads((tmp_path / name).read_text()) for name in ("one.json", "two.json")
    )
    assert [s["budget"] for s in first["scores"]] == [2.0, 8.0]
    for a, b in zip(first["scores"], second["scores"], strict=True):
        same = ("metric", "budget", "value", "n", "spread", "options", "items")
        assert {key: a[key] for key in same} == {key: b[key] for key in same}
    assert first["extras"]["probe"] == second["extras"]["probe"]
    assert not (tmp_path / "two.json.parts").exists()
