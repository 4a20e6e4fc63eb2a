"""Word and character errors: distance, pooling, normalisers, transcript files, state."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.text import CharErrorRate, WordErrorRate

from eval.word_errors import ENTRIES, WordErrors, edit_distance, read_transcripts
from tok_core.errors import ConfigError

WORDS = st.lists(st.sampled_from("abc"), max_size=9)
HEARD = ["the quick fox", "", "one two", "Hello, World"]
SAID = ["the quick brown fox", "yes", "two one two", "hello world"]


def by_definition(a: list[str], b: list[str]) -> int:
    if not a or not b:
        return len(a) + len(b)
    same = by_definition(a[:-1], b[:-1]) + (a[-1] != b[-1])
    return min(same, by_definition(a[:-1], b) + 1, by_definition(a, b[:-1]) + 1)


@settings(max_examples=40, deadline=None)
@given(WORDS.filter(lambda w: len(w) < 6), WORDS.filter(lambda w: len(w) < 6))
def test_distance_by_definition(a: list[str], b: list[str]) -> None:
    assert edit_distance(a, b) == by_definition(a, b)


@settings(max_examples=40, deadline=None)
@given(WORDS, WORDS, WORDS)
def test_it_is_a_distance(a: list[str], b: list[str], c: list[str]) -> None:
    assert edit_distance(a, a) == 0
    assert edit_distance(a, b) == edit_distance(b, a)
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.text("ab ", max_size=12), st.text("abc ", max_size=12)), min_size=1))
def test_pooled_rates_are_torchmetrics_own(pairs: list[tuple[str, str]]) -> None:
    heard, said = [a for a, _ in pairs], [b for _, b in pairs]
    for unit, theirs in (("word", WordErrorRate()), ("character", CharErrorRate())):
        ours = WordErrors(unit)
        ours.update(heard, said)
        if int(ours.units):
            wanted = float(theirs(heard, said))
            assert float(ours.compute()) == pytest.approx(wanted, rel=1e-6)
        else:
            assert math.isnan(ours.compute())


def test_pooled_and_per_file() -> None:
    pooled, each = WordErrors(), WordErrors(average="per-file")
    for metric in (pooled, each):
        metric.update(HEARD[:3], SAID[:3])
    assert float(pooled.compute()) == pytest.approx(3 / 8)
    assert float(each.compute()) == pytest.approx((1 / 4 + 1 + 1 / 3) / 3)
    assert each.collected()[0].tolist() == pytest.approx([1 / 4, 1, 1 / 3])


def test_normalisers_are_named() -> None:
    values = {}
    for name in ("none", "lower-no-punctuation"):
        metric = WordErrors(normaliser=name)
        metric.update("Hello,  World - it\u2019s ME!", "hello world it's me")
        values[name] = float(metric.compute())
    assert values == {"none": 1.25, "lower-no-punctuation": 0}


def test_an_empty_reference_is_a_failure_of_its_file_but_counts_in_the_pool() -> None:
    metric = WordErrors(average="per-file")
    metric.update(["noise", "a"], ["", "a"])
    assert float(metric.compute()) == 0
    assert metric.reason(int(metric.collected()[1][0])) == "the reference holds no words"
    pooled = WordErrors()
    pooled.update(["noise", "a"], ["", "a"])
    assert float(pooled.compute()) == 1
    nothing = WordErrors()
    nothing.update("noise", "")
    assert math.isnan(nothing.compute())


def test_state_comes_back_and_order_is_by_index() -> None:
    metric, resumed = WordErrors(), WordErrors()
    metric.update(HEARD[2:], SAID[2:], indices=[2, 3])
    resumed.load_state_dict(metric.state_dict())
    for one in (metric, resumed):
        one.update(HEARD[:2], SAID[:2], indices=torch.tensor([0, 1]))
    assert torch.equal(metric.compute(), resumed.compute())
    assert resumed.collected()[2].tolist() == [0, 1, 2, 3]


def _write(path: Path, rows: list[tuple[str, str]]) -> Path:
    lines = [json.dumps({"item": item, "text": text, "more": 1}) for item, text in rows]
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    return path


def test_files_of_transcripts(tmp_path: Path) -> None:
    items = [f"{i}.wav" for i in range(4)]
    file = _write(tmp_path / "said.jsonl", list(zip(items, SAID, strict=True)))
    assert list(read_transcripts(file).items()) == list(zip(items, SAID, strict=True))


@pytest.mark.parametrize("line", ["{", "[]", '{"item": "a"}', '{"item": 1, "text": "b"}', "1"])
def test_lines_that_are_none(line: str, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"item": "a", "text": ""}\n\n' + line + "\n")
    with pytest.raises(ConfigError, match="line 3"):
        read_transcripts(tmp_path / "bad.jsonl")


def test_wrong_use_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="again"):
        read_transcripts(_write(tmp_path / "twice.jsonl", [("a", "x"), ("a", "y")]))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_transcripts(tmp_path / "none.jsonl")
    with pytest.raises(ConfigError, match="2 hypotheses came with 1"):
        WordErrors().update(["a", "b"], ["a"])
    with pytest.raises(ConfigError, match="did you mean 'word'"):
        WordErrors("words")
    with pytest.raises(ConfigError, match="lower-no-punctuation"):
        WordErrors(normaliser="lower")


def test_entries() -> None:
    for entry in ENTRIES:
        metric = entry.build(**entry.options)
        metric.update(HEARD, SAID)
        assert 0 < float(metric.compute()) < 1
