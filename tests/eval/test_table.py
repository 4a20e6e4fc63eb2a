"""Tables: marks, footnotes, formats, the order of columns, hostile names, the score file itself."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from eval.score import Failure, Score, ScoreFile, Spread, is_ground_truth
from eval.shown_number import decimals, one_line, shown
from eval.table import print_table, render
from eval.table_formats import latex
from eval.table_layout import Cell, lay_out, ranked
from tests.eval.score_files import HOSTILE, PICTURES, SPEECH, full_run, run, score
from tok_core.errors import ConfigError


def column(files: list[ScoreFile], name: str, **options: Any) -> dict[str, Cell]:
    layout = lay_out(files, **options)
    place = [one.name for one in layout.columns].index(name)
    return {f"{row.contestant} {row.budget}".strip(): row.cells[place] for row in layout.rows}


def marks(direction: str, **values: float | None) -> dict[str, str]:
    found = [score(name.replace("_", " "), value=value, direction=direction)
             for name, value in values.items()]  # fmt: skip
    return {name: cell.mark for name, cell in column([run(*found)], "psnr").items() if cell.mark}


@pytest.mark.parametrize(
    ("direction", "expected"),
    [("higher", {"c": "best", "b": "second"}), ("lower", {"a": "best", "b": "second"}),
     ("none", {})],
)  # fmt: skip
def test_best_and_second_follow_the_direction(direction: str, expected: dict[str, str]) -> None:
    assert marks(direction, a=1.0, b=2.0, c=3.0) == expected


def test_the_ground_truth_is_first_and_not_ranked() -> None:
    files = [run(score("a", value=20.0), score("b", value=25.0), score("Ground_Truth", value=99.0))]
    layout = lay_out(files)
    assert [row.contestant for row in layout.rows] == ["Ground_Truth", "a", "b"]
    assert layout.rows[0].ground_truth and not layout.rows[0].cells[0].mark
    assert marks("higher", ground_truth=99.0, a=1.0, b=2.0) == {"b": "best", "a": "second"}


def test_no_mark_where_there_is_nothing_to_compare() -> None:
    assert marks("higher", a=1.0) == {}
    assert marks("higher", a=1.0, b=None) == {}
    assert marks("higher", a=1.0, b=float("nan")) == {}


def test_numbers_that_look_equal_share_a_mark() -> None:
    assert marks("higher", a=30.0001, b=30.0002, c=20.0) == {
        "a": "best", "b": "best", "c": "second",
    }  # fmt: skip


def test_an_infinite_value_is_shown_and_ranked() -> None:
    cells = column([run(score("a", value=math.inf), score("b", value=30.0))], "psnr")
    assert (cells["a"].text, cells["a"].mark, cells["b"].mark) == ("inf", "best", "second")


def test_unlike_scores_are_not_ranked_and_a_footnote_says_why() -> None:
    other = score("b", protocol=PICTURES.changed(crop="none"))
    layout = lay_out([run(score("a")), run(other)])
    assert not any(cell.mark for row in layout.rows for cell in row.cells)
    note = layout.footnotes[layout.columns[0].notes[0] - 1]
    assert "crop is adm in one and none in the other" in note


def test_missing_values_are_dashes_with_the_missing_file_named_once() -> None:
    layout = lay_out([full_run()])
    assert {row.cells[4].text for row in layout.rows} == {"-"}
    told = [note for note in layout.footnotes if "pt_inception-2015-12-05-6726825d.pth" in note]
    assert len(told) == 1 and "~/.cache/torch/hub/checkpoints" in told[0]
    assert layout.footnotes.index(told[0]) + 1 in layout.columns[4].notes


def test_failures_and_warnings_are_footnotes_of_their_cell() -> None:
    bad = score("a", n=117, failures=(Failure(reason="no speech", count=3, items=("x.wav",)),),
                warnings=("the sounds are short",))  # fmt: skip
    layout = lay_out([run(bad, score("b"))])
    notes = [layout.footnotes[number - 1] for number in layout.rows[0].cells[0].notes]
    assert notes == ["3 of 120 failed: no speech (x.wav)", "the sounds are short"]
    assert layout.rows[1].cells[0].notes == ()


def test_spread_only_when_asked() -> None:
    spread = Spread(low=29.5, high=30.5, std=2.0, resamples=10, seed=0)
    files = [run(score(spread=spread))]
    assert column(files, "psnr")["ours"].spread == ""
    assert column(files, "psnr", spread="std")["ours"].spread == "± 2.00"
    assert column(files, "psnr", spread="interval")["ours"].spread == "[29.50, 30.50]"
    with pytest.raises(ConfigError, match="spread 'sd' is unknown"):
        lay_out(files, spread="sd")


def test_protocols_stand_below_and_name_their_columns_when_there_are_two() -> None:
    one = lay_out([run(score())])
    assert len(one.protocols) == 1 and "crop adm" in one.protocols[0]
    assert "sample_rate" not in one.protocols[0] and "items 0123456789ab" in one.protocols[0]
    sound = score(metric="stoi", title="STOI", protocol=SPEECH)
    two = lay_out([run(score(), sound)])
    assert any(line.startswith("Protocol of STOI: dates-speech") for line in two.protocols)
    assert any("sample_rate 16000" in line and "crop" not in line for line in two.protocols)


def test_columns_by_name_in_their_order_and_the_nearest_for_a_wrong_one() -> None:
    layout = lay_out([full_run()], columns=["ssim", "psnr"])
    assert [one.name for one in layout.columns] == ["ssim", "psnr"]
    with pytest.raises(ConfigError, match="did you mean 'psnr'"):
        lay_out([full_run()], columns=["psrn"])
    with pytest.raises(ConfigError, match="order of columns 'date' is unknown.*'dates'"):
        lay_out([full_run()], columns="date")
    with pytest.raises(ConfigError, match="no scores to show"):
        lay_out([run()])


def test_dates_columns_are_exactly_those_of_the_site() -> None:
    at: dict[str, Any] = {"budget": 8, "budget_name": "codebooks", "protocol": SPEECH}
    files = [run(
        score("ground truth", "stoi", 1.0, protocol=SPEECH, direction="higher"),
        score("codec", "kbps/nominal", 6.0, kind="rate", **at),
        score("codec", "pesq/wb", 2.77, **at),
        score("codec", "si_sdr", 4.83, title="SI-SDR", unit="dB", **at),
    )]  # fmt: skip
    rows = list(csv.reader(io.StringIO(render(files, format="csv", columns="dates"))))
    assert rows[0] == (
        "tokenizer,#Q,kbps,token rate,SDR,SI-SNR,PESQ,UTMOS,DNSMOS-P808,DNSMOS-P835,PLCMOS,STOI,"
        "WER,SpkSim"
    ).split(",")
    assert rows[1][0] == "ground truth" and rows[2][:3] == ["codec", "8", "6.0"]
    assert (rows[2][5], rows[2][6]) == ("4.83", "2.77")
    markdown = render(files, format="markdown", columns="dates")
    assert "| codec | 8 | 6.00 | - | - | 4.83 | 2.77 | - |" in markdown


def test_one_contestant_twice_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match="'ours' at tokens 64 has two scores for psnr"):
        lay_out([run(score(budget=64, budget_name="tokens"),
                     score(budget=64.0, budget_name="tokens"))])  # fmt: skip


def test_two_metrics_with_one_title_are_told_apart() -> None:
    two = lay_out([run(score(metric="ssim"), score(metric="ssim/llamagen", title="SSIM"))])
    assert [one.title for one in two.columns] == ["SSIM ssim", "SSIM ssim/llamagen"]


def test_csv_has_full_precision_and_markdown_the_marks() -> None:
    files = [run(score("a", value=1 / 3, spread=Spread(low=0.1, high=0.5, std=1 / 7, resamples=9,
                                                      seed=0)),
                 score("b", value=None, unavailable="gone"), score("c", value=0.5))]  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(render(files, format="csv", spread="interval"))))
    assert float(rows[0]["psnr"]) == 1 / 3 and float(rows[0]["psnr high"]) == 0.5
    assert rows[1]["psnr"] == ""
    markdown = render(files, format="markdown")
    assert "| c | **0.5000** |" in markdown and "| a | <ins>0.3333</ins> |" in markdown
    assert "| b | -<sup>1</sup> |" in markdown and "1. gone" in markdown


def test_latex_is_booktabs_and_escaped() -> None:
    text = render([run(score(HOSTILE, value=2.0), score("[b]", value=-1.0, metric="psnr"))],
                  format="latex")  # fmt: skip
    assert all(rule in text for rule in (r"\toprule", r"\midrule", r"\bottomrule"))
    assert r"\input" not in text and r"\textbackslash{}input\{/etc/passwd\}" in text
    assert r"50 \% \#1 a\_b\textbar{}c" in text and r"x \& y" in text
    assert "\n{[}b{]} &" in text  # a bracket behind a line's end would be its option
    assert r"PSNR (dB) $\uparrow$" in text and r"\textbf{2.000}" in text and "$-$1.000" in text


def test_markdown_keeps_a_hostile_name_in_its_cell() -> None:
    text = render([run(score(HOSTILE + "\n| x |", value=1.0))], format="markdown")
    row = next(line for line in text.splitlines() if "alert" in line)
    assert "<script>" not in text and row.replace(r"\|", "").count("|") == 3


def test_the_screen_gets_styles_and_a_pipe_gets_signs() -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=120, force_terminal=True, color_system="truecolor")
    print_table([full_run()], console)
    assert "\x1b[1m" in stream.getvalue() and "\x1b[4m" in stream.getvalue()
    plain = render([full_run()], format="rich")
    assert "\x1b" not in plain and "33.70*" in plain and "33.20+" in plain
    assert "3 of 120 failed" in plain and "Protocol photographs" in plain


def test_a_wide_table_continues_below_with_all_numbers_whole() -> None:
    stream = io.StringIO()
    print_table([full_run()], Console(file=stream, width=50, color_system=None))
    lines = stream.getvalue().splitlines()
    assert all(len(line) <= 50 for line in lines)
    assert sum("contestant" in line for line in lines) >= 2
    assert all(text in stream.getvalue() for text in ("33.70*", "0.9300*", "0.0500*", "1.2100"))


def test_terminal_codes_in_a_name_do_not_reach_the_terminal() -> None:
    text = render([run(score("a\x1b[2J\u202eb\ud800"))], format="rich")
    assert "\x1b" not in text and "\u202e" not in text
    text.encode()


def test_an_unknown_format_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'latex'"):
        render([run(score())], format="latx")


names = st.text(min_size=1, max_size=12)
numbers = st.floats(allow_nan=True, allow_infinity=True)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(names, numbers, min_size=1, max_size=5),
       st.sampled_from(["higher", "lower"]))  # fmt: skip
def test_any_names_and_values_give_every_format(values: dict[str, float], direction: str) -> None:
    found = [score(name, value=value, direction=direction) for name, value in values.items()]
    files = [run(*found)]
    for form in ("rich", "markdown", "latex"):
        render(files, format=form).encode()
    rows = list(csv.reader(io.StringIO(render(files, format="csv"))))
    assert len(rows) == len(values) + 1
    found = {(row[0], row[1]) for row in rows[1:]}
    assert found == {
        (one_line(name), "" if math.isnan(value) else repr(value)) for name, value in values.items()
    }


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=8))
def test_the_best_is_never_worse_than_another(values: list[float]) -> None:
    places = decimals(values)
    cells = ranked([Cell(shown(v, places), v) for v in values], [False] * len(values), "higher")
    best = [float(cell.text) for cell in cells if cell.mark == "best"]
    assert best and max(best) == max(float(cell.text) for cell in cells)


def test_numbers_have_the_decimals_that_papers_give() -> None:
    assert [decimals([v]) for v in (0.004, 0.81, 3.4, 24.9, 1500.0, 0.0)] == [5, 4, 3, 2, 1, 2]
    assert decimals([12.0, 300.0], rates=True) == 0 and decimals([0.0061, 1.2], rates=True) == 4
    assert shown(1e-9, 2) == "1.0e-09" and shown(-1e-12, 2) == "-1.0e-12"
    assert shown(-0.0, 2) == "0.00"
    assert latex("--x") == "-{}-x"


def test_what_the_ground_truth_is_called() -> None:
    assert is_ground_truth("ground truth") and is_ground_truth("Ground-Truth")
    assert not is_ground_truth("truth")


# -- the score file --------------------------------------------------------------------------------


def test_a_score_file_round_trips_with_words_for_odd_numbers(tmp_path: Path) -> None:
    spread = Spread(low=float("-inf"), high=float("inf"), std=float("nan"), resamples=1, seed=0)
    file = run(score(value=math.inf), score("b", value=math.nan), score("c", spread=spread),
               *full_run().scores, extras={"histograms": {"a": [1, 2]}})  # fmt: skip
    file.write(tmp_path / "a.json")
    assert '"inf"' in (tmp_path / "a.json").read_text()
    read = ScoreFile.read(tmp_path / "a.json")
    assert read.path == tmp_path / "a.json" and read.extras == file.extras
    assert read.scores[0] == file.scores[0] and read.scores[3:] == file.scores[3:]
    assert math.isnan(read.scores[1].value or 0) and read.scores[2].spread is not None
    assert read.scores[2].spread.high == math.inf


def hostile(tmp_path: Path, **changes: Any) -> Path:
    plain = score().to_dict() | changes
    whole = {"format": "tessera-scores", "version": 1, "command": "x", "scores": [plain]}
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(whole))
    return path


@pytest.mark.parametrize("changes", [
    {"value": "high"}, {"value": [1]}, {"value": {}}, {"value": 10**400}, {"contestant": 3},
    {"contestant": None}, {"metric": []}, {"n": "many"}, {"n": 1.5}, {"failures": 7},
    {"failures": [3]}, {"failures": [{"reason": "r"}]}, {"failures": [{"reason": "r", "x": 1}]},
    {"spread": 3}, {"spread": {"low": 1}}, {"spread": []}, {"warnings": 5}, {"warnings": [5]},
    {"protocol": 3}, {"protocol": {"name": "x"}}, {"options": []}, {"weights": {"a": 1}},
    {"direction": "up"}, {"direction": []}, {"budget": "nan"}, {"budget": "inf"}, {"seed": None},
    {"unavailable": 3}, {"kind": {}}, {"novel": 1}, {"items": 5}, {"protocol": []},
    {"protocol": {"name": "x", "sense": []}}, {"protocol": {"name": "x", "sense": "image", "q": 1}},
])  # fmt: skip
def test_hostile_scores_are_one_sentence(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        ScoreFile.read(hostile(tmp_path, **changes))
    text = str(error.value)
    assert "bad.json" in text and "\n" not in text and len(text) < 600


@pytest.mark.parametrize("text", [
    "", "[]", "{}", "null", "{", "[" * 100_000, '{"format": "tessera-scores"}', "\x00", "1e999",
    '{"format": "tessera-scores", "version": 2}',
    '{"format": "tessera-scores", "version": 1, "scores": {"a": 1}}',
    '{"format": "tessera-scores", "version": 1, "scores": [1]}',
    '{"format": "tessera-scores", "version": 1, "scores": "abc"}',
    '{"format": "tessera-scores", "version": 1, "scores": null}',
    '{"format": "tessera-scores", "version": 1, "extras": []}',
])  # fmt: skip
def test_hostile_files_are_one_sentence(text: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="bad.json"):
        ScoreFile.read(path)


def test_missing_files_folders_and_bytes_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "raw.json").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "no.json", tmp_path, tmp_path / "raw.json"):
        with pytest.raises(ConfigError, match=path.name):
            ScoreFile.read(path)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(),
    lambda inner: st.lists(inner, max_size=2)
    | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(score().to_dict())), anything)
def test_any_json_under_any_key_is_read_or_refused(key: str, value: Any) -> None:
    try:
        read = Score.from_dict(score().to_dict() | {key: value})
    except ConfigError:
        return
    assert isinstance(read, Score)
    render([run(read)], format="markdown")
