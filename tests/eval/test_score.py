"""Scores: round trip through JSON, infinite numbers, hostile files, the bootstrap."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.protocol import protocol_named
from eval.score import Failure, Score, ScoreFile, bootstrap, score_schema
from tok_core.errors import ConfigError, TesseraError

PROTOCOL = protocol_named("photographs")


def score(**changes: Any) -> Score:
    plain: dict[str, Any] = {
        "contestant": "a", "metric": "psnr", "protocol": PROTOCOL, "value": 20.5, "n": 4,
        "budget": 64.0, "budget_name": "tokens", "direction": "higher",
        "failures": (Failure(reason="silent", count=2, items=("x.wav",)),),
        "spread": bootstrap([20.0, 21.0]), "warnings": ("few",), "weights": {"contestant": "ab"},
    }  # fmt: skip
    return Score(**plain | changes)


@pytest.mark.parametrize("value", [20.5, None, math.inf, -math.inf, 0.0])
def test_round_trip(value: float | None, tmp_path: Path) -> None:
    file = ScoreFile(command="recon", scores=(score(value=value),), extras={"samples": []})
    file.write(tmp_path / "s.json")
    again = ScoreFile.read(tmp_path / "s.json")
    assert again == file
    assert again.scores[0].failed == 2
    json.loads((tmp_path / "s.json").read_text(), parse_constant=lambda word: pytest.fail(word))


def test_nothing_is_overwritten_without_force(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    ScoreFile(command="recon").write(path)
    with pytest.raises(TesseraError, match="--force"):
        ScoreFile(command="recon").write(path)
    ScoreFile(command="rd").write(path, force=True)
    assert ScoreFile.read(path).command == "rd"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "no JSON"),
        ("[]", "holds no scores"),
        ('{"format": "tessera-scores", "version": 99}', "version 99"),
        ('{"format": "tessera-scores", "version": 1, "scores": [{}]}', "needs contestant"),
        ('{"format": "tessera-scores", "version": 1, "scores": 3}', "list"),
    ],
)
def test_other_files_are_sentences(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(ConfigError, match=words):
        ScoreFile.read(tmp_path / "s.json")


def test_unknown_keys_get_the_nearest() -> None:
    plain = score().to_dict() | {"vallue": 1.0}
    with pytest.raises(ConfigError, match="did you mean 'value'"):
        Score.from_dict(plain)
    with pytest.raises(ConfigError, match="did you mean 'higher'"):
        score(direction="highest")


def test_schema_names_every_field() -> None:
    assert {"contestant", "metric", "value", "protocol"} <= set(score_schema()["properties"])


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30))
def test_bootstrap_interval_lies_within_the_values(values: list[float]) -> None:
    found = bootstrap(values, resamples=50)
    assert found is not None
    assert min(values) - 1e-6 <= found.low <= found.high <= max(values) + 1e-6
    assert found == bootstrap(values, resamples=50)


def test_one_item_has_no_interval() -> None:
    assert bootstrap([1.0]) is None
