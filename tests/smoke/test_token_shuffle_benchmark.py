"""The comparison of window sizes, as small as it goes: it stops, goes on, and refuses a mixture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from benchmark_script import benchmark_script

pytestmark = pytest.mark.smoke


@pytest.fixture
def scale(monkeypatch: pytest.MonkeyPatch) -> Any:
    return benchmark_script("token_shuffle_scale", monkeypatch)


def test_goes_on_where_it_was_stopped(
    scale: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out, work = tmp_path / "result.json", tmp_path / "work"

    class TwoRows(scale.Clock):  # type: ignore[name-defined, misc]
        """Time for two trainings."""

        def check(self, ahead: float = 0.0) -> None:
            if out.is_file() and len(json.loads(out.read_text())["rows"]) == 2:
                raise scale.OutOfTime

    first = scale.experiment(scale.SMALL, [0], out, work, clock=TwoRows())
    assert [row["variant"] for row in first["rows"]] == list(scale.VARIANTS)[:2]
    tokens = list(work.iterdir())
    assert len(tokens) == 1 and json.loads(out.read_text()) == first
    monkeypatch.setattr("_labelled_tokens._tokenized", lambda *_: pytest.fail("tokenized again"))
    result = scale.experiment(scale.SMALL, [0], out, work)
    assert result["rows"][:2] == first["rows"] and result["speed"] == first["speed"]
    assert [row["variant"] for row in result["rows"]] == list(scale.VARIANTS)
    for row in result["rows"]:
        assert [point["step"] for point in row["curve"]] == scale.looks(4, 2)
        assert row["quality"].keys() == {"frechet", "accuracy"}
        window = scale.VARIANTS[row["variant"]]["window"]
        assert len(row["slots"]) == (0 if window == 1 else window**2)
    monkeypatch.setattr(scale, "trained", lambda *_: pytest.fail("trained once more"))
    assert scale.experiment(scale.SMALL, [0], out, work) == result
    scale.show(result)
    scale.draw(result, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000
    with pytest.raises(SystemExit, match="another setting .sizes"):
        scale.experiment(scale.SMALL | {"steps": 5}, [0], out, work)


def test_what_is_finished_is_shown_on_any_device(
    scale: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(scale.SIZES, "cpu", scale.SMALL)
    out = tmp_path / "result.json"
    words = ["--out", str(out), "--seeds", "0", "--work", str(tmp_path)]
    with pytest.raises(SystemExit, match="is not there yet"):
        scale.main([*words, "--show"])
    scale.main([*words, "--device", "cpu"])
    out.write_text(out.read_text().replace('"device": "cpu"', '"device": "cuda"'))
    monkeypatch.setattr(scale, "trained", lambda *_: pytest.fail("trained once more"))
    capsys.readouterr()
    scale.main(words)
    assert "s=2, causal head" in capsys.readouterr().out
    assert out.with_suffix(".png").is_file()
    with pytest.raises(SystemExit, match="another setting .device"):
        scale.main([*words, "--device", "cpu"])


def test_command_line(scale: Any, capsys: pytest.CaptureFixture[str]) -> None:
    scale.main(["--small", "--device", "cpu", "--seeds", "3", "--steps", "2"])
    table = capsys.readouterr().out
    assert "2 steps of 4 in float32" in table and "causal head" in table
    scale.main(["--small", "--device", "cpu", "--seconds", "0"])
    assert "0 trainings are kept" in capsys.readouterr().out
