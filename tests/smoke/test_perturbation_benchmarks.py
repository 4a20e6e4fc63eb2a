"""The two benchmarks of latent perturbation, as small as they go."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmark_script import benchmark_script

pytestmark = pytest.mark.smoke


def test_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    speed = benchmark_script("perturbation_speed", monkeypatch)
    row = speed.measure("VQGAN", 10, 1, True)
    assert row["items"] == 1 and row["seconds"].keys() == {"plain", "latent", "code", "all items"}
    assert row["added"].keys() == {"latent", "code", "all items"}


def test_experiment_goes_on_where_it_was_stopped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = benchmark_script("perturbation_experiment", monkeypatch)
    line = {"alpha": 1.0, "beta": 0.5, "delta": 6}
    senses = {"image": {"sizes": made.SMALL["image"], "perturbation": line}}
    out = tmp_path / "result.json"
    result = made.experiment(senses, [0], out)
    assert [row["kind"] for row in result["rows"]] == ["plain", "perturbed"]
    plain, perturbed = (row["scores"]["clean"]["psnr"] for row in result["rows"])
    assert plain != perturbed and json.loads(out.read_text()) == result
    monkeypatch.setattr(made, "trained", lambda *arguments: pytest.fail("trained once more"))
    assert made.experiment(senses, [0], out) == result
    made.show(result)
    made.draw(result, tmp_path / "plot.png")
    senses["image"]["perturbation"] = line | {"beta": 0.4}
    with pytest.raises(SystemExit, match="other sizes or strengths"):
        made.experiment(senses, [0], out)


def test_scan_goes_on_where_it_was_stopped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = benchmark_script("perturbation_scan", monkeypatch)
    sizes, out = dict(made.SMALL["image"]), tmp_path / "scan.json"
    assert [row["number"] for row in made.scan(sizes, [8], out)["rows"]] == [8]
    result = made.scan(sizes, [0, 8], out)
    assert [row["number"] for row in result["rows"]] == [0, 8]
    assert result["rows"][0]["perturbation"] is None
    assert result["rows"][1]["perturbation"]["annealing"]["end_ratio"] == 0.5
    made.show(result)
    assert "to 0.5" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="another setting .sizes"):
        made.scan(sizes | {"steps": 5}, [0], out)
