"""Published tables as scores: every figure once, never taken for one of ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from eval.compare import compare
from eval.dates_table import published_rows
from eval.protocol import protocol_named
from eval.published_scores import published_scores
from eval.score import Score, ScoreFile, is_ground_truth
from tok_core.errors import ConfigError


def test_every_published_figure_is_a_score(tmp_path: Path) -> None:
    file = published_scores("dates-speech")
    figures = sum(
        len(row.values.keys() - {"codebooks"}) for row in published_rows("speech")
    )
    assert len(file.scores) == figures > 100
    file.write(tmp_path / "dates.json")
    assert ScoreFile.read(tmp_path / "dates.json").scores == file.scores
    assert all(is_ground_truth(s.contestant) or "published" in s.contestant for s in file.scores)


def test_it_does_not_stand_beside_ours_unsaid() -> None:
    ours = Score(contestant="mine", metric="stoi", protocol=protocol_named("dates-speech"),
                 direction="higher", value=0.9, n=3, items="ab" * 32)  # fmt: skip
    mine = ScoreFile(command="audio", scores=(ours,))
    with pytest.raises(ConfigError, match="items"):
        compare([mine, published_scores("dates-speech")], columns=["stoi"])
    table = compare([mine, published_scores("dates-speech")], columns=["stoi"], allow=["items"])
    assert len(table.columns) == 2


def test_an_unknown_table_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match="dates-speech"):
        published_scores("dates-speach")


def test_kinds_of_tokenizer_are_picked(capsys: pytest.CaptureFixture[str]) -> None:
    from eval.cli import run

    words = ["published", "dates-speech", "--format", "csv", "--where", "quantization=RVQ"]
    assert run([*words, "streamable=yes"]) == 0
    printed = capsys.readouterr().out
    assert "Enc-SMA-24" in printed and "Mimi-S-24" in printed and "DAC-SMA-24" not in printed
    assert run([*words, "quantisation=RVQ"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "did you mean 'quantization'" in line
