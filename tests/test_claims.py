"""The claims' harness: rows are kept and found again, verdicts are right, nothing is invented."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from claims import report, verdicts
from claims.__main__ import main
from claims.catalogue import CLAIMS
from claims.claim import Claim, Finding, Measured, Numbers, Place, Row, config_hash
from claims.harness import OutOfTime, Results, Session, measure, take_over
from claims.picture_bytes import header_bytes
from claims.plots import Panel, draw
from claims.training import once
from eval.picture_codecs import encode
from tok_core.errors import ConfigError


class Counter:
    """A claim of numbers that are counted: what was measured, in order."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.steps = 3
        self.given: dict[str, Numbers] = {}
        self.failing: set[int] = set()

    def rows(self, seeds: Sequence[int], small: bool) -> list[Row]:
        return [
            Row(seed=seed, config={"kind": kind, "steps": self.steps})
            for seed in seeds for kind in ("with", "without")
        ]  # fmt: skip

    def measure(self, row: Row, place: Place) -> Numbers:
        assert list(place.scratch.iterdir()) == []
        (place.scratch / "mine").touch()
        if row.seed in self.failing:
            raise ValueError("no sound")
        self.calls.append(row.key)
        return {"score": row.seed + 2.0 * (row.config["kind"] == "with")}

    def findings(self, found: Sequence[Measured]) -> list[Finding]:
        sides = [
            verdicts.by_seed(found, lambda row: row.config["kind"] == kind,  # noqa: B023
                             lambda row: row.numbers["score"]) for kind in ("with", "without")
        ]  # fmt: skip
        return [verdicts.compared("more | with it", *sides)]

    def draw(self, found: Sequence[Measured], path: Path) -> None:
        points = {"all": [(float(row.seed), row.numbers["score"]) for row in found]}
        draw([Panel(title="score", x="seed", points=points)], path)

    def committed(self, row: Row) -> tuple[Numbers, str] | None:
        return (self.given[row.key], "a benchmark") if row.key in self.given else None

    def claim(self) -> Claim:
        return Claim(
            name="counted", paper="Nobody 2025", claim="It counts.", theirs="7 (table 1)",
            setting="None.", minutes=1, rows=self.rows, measure=self.measure,
            findings=self.findings, draw=self.draw, committed=self.committed,
        )  # fmt: skip


@pytest.fixture
def counter() -> Counter:
    return Counter()


def session(folder: Path, **changes: Any) -> Session:
    return Session(results=folder / "results", work=folder / "work", **changes)


# -- rows ----------------------------------------------------------------------------------------


def test_a_hash_is_that_of_the_content() -> None:
    assert config_hash({"a": 1, "b": [1, 2]}) == config_hash({"b": [1, 2], "a": 1})
    assert config_hash({"a": 1}) != config_hash({"a": 2})
    assert Row(config={"steps": 3}, seed=0).key == "0-545356d813e3"
    assert Row(config={"steps": 3}, seed=1).key == "1-545356d813e3"
    with pytest.raises(ValueError):
        config_hash({"a": float("nan")})


def test_goes_on_where_it_was_stopped(counter: Counter, tmp_path: Path) -> None:
    claim, once = counter.claim(), session(tmp_path, seeds=(0,))
    assert measure(claim, once) == []
    assert len(counter.calls) == 2
    more = session(tmp_path, seeds=(0, 1))
    measure(claim, more)
    assert len(counter.calls) == len(set(counter.calls)) == 4
    measure(claim, more)
    assert len(counter.calls) == 4
    stored = json.loads((tmp_path / "results" / "counted.json").read_text())
    assert stored["claim"] == "counted" and sorted(stored["rows"]) == sorted(counter.calls)
    row = stored["rows"][counter.calls[0]]
    assert row["config"] == {"kind": "with", "steps": 3} and row["numbers"] == {"score": 2.0}
    assert row["seconds"] >= 0 and row["machine"].startswith("CPU")


def test_an_interruption_keeps_finished_rows(
    counter: Counter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopping(row: Row, place: Place) -> Numbers:
        if len(counter.calls) == 2:
            raise KeyboardInterrupt
        return Counter.measure(counter, row, place)

    monkeypatch.setattr(counter, "measure", stopping)
    claim, now = counter.claim(), session(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        measure(claim, now)
    assert sorted(Results(now.results, "counted").kept) == sorted(counter.calls)
    monkeypatch.undo()
    measure(counter.claim(), now)
    assert len(counter.calls) == len(set(counter.calls)) == 6


def test_another_config_measures_anew_and_old_rows_do_not_count(
    counter: Counter, tmp_path: Path
) -> None:
    claim, now = counter.claim(), session(tmp_path)
    measure(claim, now)
    counter.steps = 4
    results = Results(now.results, "counted")
    assert results.measured(counter.rows(now.seeds, False)) == []
    measure(claim, now)
    assert len(counter.calls) == 12 and len(Results(now.results, "counted").kept) == 12
    found = Results(now.results, "counted").measured(counter.rows(now.seeds, False))
    assert [row.config["steps"] for row in found] == [4] * 6


def test_processes_of_one_command_share_the_rows(counter: Counter, tmp_path: Path) -> None:
    claim, now = counter.claim(), session(tmp_path, seeds=(0,))
    first, second = counter.rows((0,), False)
    # What another process is measuring is left to it; what it has kept meanwhile stays.
    other = Results(now.results, "counted")
    with other.taken(first) as ours:
        assert ours
        with Results(now.results, "counted").taken(first) as again:
            assert not again
        assert measure(claim, now) == [] and counter.calls == [second.key]
        other.add(first, {"score": 9.0})
    assert set(Results(now.results, "counted").kept) == {first.key, second.key}
    with Results(now.results, "counted").taken(first) as ours:
        assert not ours, "it is measured"
    measure(claim, now)
    assert counter.calls == [second.key]


def test_what_rows_share_is_made_once(tmp_path: Path) -> None:
    made: list[int] = []

    def make(folder: Path) -> None:
        folder.mkdir()
        made.append(1)
        time.sleep(0.2)
        (folder / "whole").touch()

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: once(tmp_path / "data", make), range(4)))
    assert made == [1] and all((folder / "whole").is_file() for folder in found)


def test_a_failed_row_costs_no_other(counter: Counter, tmp_path: Path) -> None:
    counter.failing = {1}
    now = session(tmp_path)
    failed = measure(counter.claim(), now)
    assert len(failed) == 2 and all("ValueError: no sound" in line for line in failed)
    assert len(Results(now.results, "counted").kept) == 4


def test_stops_before_the_end(
    counter: Counter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = counter.claim()
    with pytest.raises(OutOfTime):
        measure(claim, session(tmp_path, end=time.monotonic() - 1))
    assert counter.calls == []
    monkeypatch.setattr(counter, "measure", lambda row, place: time.sleep(60))
    began = time.monotonic()
    with pytest.raises(OutOfTime):  # in the middle of a row
        measure(counter.claim(), session(tmp_path, end=began + 0.3))
    assert time.monotonic() - began < 30
    assert Results(tmp_path / "results", "counted").kept == {}


def test_a_row_that_will_not_fit_is_not_begun(counter: Counter, tmp_path: Path) -> None:
    now = session(tmp_path, end=time.monotonic() + 50)
    first, *_ = counter.rows(now.seeds, False)
    Results(now.results, "counted").add(first, {"score": 1.0}, seconds=600.0)
    with pytest.raises(OutOfTime):
        measure(counter.claim(), now)
    assert counter.calls == []


def test_benchmarks_are_taken_over_and_never_at_small_sizes(
    counter: Counter, tmp_path: Path
) -> None:
    claim, now = counter.claim(), session(tmp_path)
    first, *others = counter.rows(now.seeds, False)
    counter.given[first.key] = {"score": 40.0}
    assert take_over(claim, session(tmp_path, small=True)).kept == {}
    results = take_over(claim, now)
    assert results.machines([first, *others]) == ["a benchmark"]
    measure(claim, now)
    assert first.key not in counter.calls and len(counter.calls) == 5
    [kept] = Results(now.results, "counted").measured([first])
    assert kept.numbers == {"score": 40.0}


@pytest.mark.parametrize("text", ["{", '{"rows": {}}', '{"claim": "other", "rows": {}}', "[]"])
def test_a_foreign_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "counted.json").write_text(text)
    with pytest.raises(ConfigError, match="move it away"):
        Results(tmp_path, "counted")


# -- verdicts ------------------------------------------------------------------------------------


def test_verdicts() -> None:
    better, worse = {0: 3.0, 1: 4.0, 2: 5.0}, {0: 1.0, 1: 1.5, 2: 2.0}
    assert verdicts.compared("s", better, worse).holds is True
    assert verdicts.compared("s", better, worse, lower_is_better=True).holds is False
    assert verdicts.compared("s", better, worse | {2: 5.5}).holds is False  # one seed disagrees
    few = verdicts.compared("s", {0: 3.0, 1: 4.0}, worse)
    assert few.holds is None and few.verdict == "not measured yet"
    assert verdicts.compared("s", {}, {}).numbers == "-"
    # All agree, but one seed alone makes the difference.
    assert verdicts.exceeds([0.01, 0.01, 5.0]) is False
    assert verdicts.exceeds([1.0, 1.2, 1.1], 1.05) is False
    assert verdicts.within([0.05, 0.1, 0.12], 0.1) is True
    assert verdicts.within([0.05, 0.2, 0.12], 0.1) is False
    assert verdicts.within([0.05], 0.1) is None
    assert verdicts.both(True, None) is None
    assert verdicts.both(False, None) is False
    assert verdicts.both(True, True) is True


def test_rank_correlation() -> None:
    assert verdicts.rank_correlation([1, 2, 3, 4], [1, 4, 9, 16]) == pytest.approx(1.0)
    assert verdicts.rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1.0)
    assert verdicts.ranks([5.0, 1.0, 5.0]) == [2.5, 1.0, 2.5]
    # By hand: ranks 1 2.5 2.5 4 and 1 2 3 4.
    assert verdicts.rank_correlation([1, 2, 2, 4], [1, 2, 3, 4]) == pytest.approx(4.5 / 22.5**0.5)
    assert str(verdicts.rank_correlation([1, 1], [1, 2])) == "nan"


# -- the document --------------------------------------------------------------------------------


def written(counter: Counter, folder: Path) -> str:
    claim, document = counter.claim(), folder / "claims.md"
    report.write([claim], session(folder), document, drawn=[claim])
    return document.read_text()


def test_what_is_missing_is_said_to_be(counter: Counter, tmp_path: Path) -> None:
    text = written(counter, tmp_path)
    line = "| Nobody 2025 | It counts. | 7 (table 1) | more \\| with it: - | not measured yet | "
    assert line + "`make claims ONLY=counted` |" in text
    assert "0 of 6 rows are measured" in text and "![" not in text


def test_document_shows_what_is_kept(counter: Counter, tmp_path: Path) -> None:
    measure(counter.claim(), session(tmp_path))
    text = written(counter, tmp_path)
    assert "with 3.00 ± 1.00, without 1.00 ± 1.00, 3 seeds | holds |" in text
    assert "6 of 6 rows are measured" in text and "![counted](results/counted.png)" in text
    assert (tmp_path / "results" / "counted.png").stat().st_size > 1000
    (tmp_path / "results" / "counted.json").unlink()
    text = written(counter, tmp_path)
    assert "not measured yet" in text and not (tmp_path / "results" / "counted.png").exists()


# -- all claims ----------------------------------------------------------------------------------


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_every_claim_states_itself(claim: Claim) -> None:
    rows = claim.rows((0, 1, 2), False)
    assert len({row.key for row in rows}) == len(rows)
    small = claim.rows((0,), True)
    assert small and not {row.key for row in small} & {row.key for row in rows}
    findings = claim.findings([])
    assert findings and len({one.sentence for one in findings}) == len(findings)
    assert {one.verdict for one in findings} == {"not measured yet"}
    assert [row.key for row in claim.rows((0, 1, 2), False)] == [row.key for row in rows]


def test_the_estimates_stay_within_a_night() -> None:
    assert sum(claim.minutes for claim in CLAIMS) <= 8 * 60
    assert len({claim.name for claim in CLAIMS}) == len(CLAIMS) == 8


def test_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = ["--results", str(tmp_path / "r"), "--document", str(tmp_path / "claims.md")]
    assert main(["--list", *folder]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [claim.name for claim in CLAIMS]
    assert main(["--only", "tail_dorp"]) == 2
    assert "did you mean" in capsys.readouterr().err.lower()
    assert main(["--small", "--only", "tail_drop", "--seconds", "0", *folder]) == 0
    assert "the time is over" in capsys.readouterr().out
    assert "not measured yet" in (tmp_path / "claims.md").read_text()


@pytest.mark.parametrize("kind", ["JPEG", "WebP", "JPEG 2000"])
def test_fixed_headers_of_picture_codecs(kind: str) -> None:
    from PIL import Image

    noise = Image.effect_noise((64, 64), 80).convert("RGB")
    sizes = [len(encode(noise, kind, quality)) for quality in (20, 40)]
    headers = [header_bytes(encode(noise, kind, quality), kind) for quality in (20, 40)]
    assert all(20 <= header < size for header, size in zip(headers, sizes, strict=True))
    # The header hardly grows with the picture's bytes.
    assert abs(headers[1] - headers[0]) < 0.2 * (sizes[1] - sizes[0])
