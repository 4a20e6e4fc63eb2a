"""Plots: files by ending, what each holds, hostile names, labels apart, refusals by sentence."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image

from eval.plot_style import COLOURS, MARKERS, figure_bytes, line_style
from eval.plots import KINDS, budget_curves, plot, rate_distortion
from eval.position_plot import position_curves
from eval.score import ScoreFile
from eval.setting_plot import setting_curves, setting_values
from eval.usage_plot import usage_histograms, usages
from tests.eval.score_files import HOSTILE, PICTURES, full_run, run, score
from tok_core.errors import ConfigError, TesseraError


def texts(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.findobj(lambda a: hasattr(a, "get_text"))]


def perturbed(**extras: Any) -> ScoreFile:
    found = [score("ours", f"pfid/alpha={a},delta={d}", 10 * a + d / 100, kind="distribution")
             for a in (0.5, 0.7, 0.9) for d in (200, 360)]  # fmt: skip
    return run(*found, score("ours", "pfid/clean", 4.0), score("ours", "pfid", 9.0), extras=extras)


def test_rate_distortion_draws_every_contestant_with_its_name_beside_it() -> None:
    figure = rate_distortion([full_run()], "psnr")
    axis = figure.axes[0]
    assert [len(line.get_xdata()) for line in axis.lines] == [4, 3, 3]
    assert {"One-D-Piece-S", "jpeg", "webp"} <= set(texts(figure))
    assert axis.get_xlabel() == "rate (bit/pixel)" and axis.get_ylabel() == "PSNR (dB) ↑"
    assert axis.get_xscale() == "log"
    # A finite ground truth is a line across; an infinite one (the PSNR) is left out.
    assert "ground truth" not in texts(figure)
    assert "ground truth" in texts(rate_distortion([full_run()], "ssim"))


def test_labels_do_not_cover_each_other() -> None:
    many = run(*(
        score(f"codec {place}", metric, value, budget=step, budget_name="q")
        for place in range(9) for step in range(3)
        for metric, value in (("psnr", 20 + place + 3 * step),
                              ("bpp", (1 + step) * (1 + place / 20)))
    ))  # fmt: skip
    figure = rate_distortion([many])
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(boxes) == 9
    assert not any(a.overlaps(b) for place, a in enumerate(boxes) for b in boxes[:place])
    frame = figure.axes[0].get_window_extent()
    assert all(box.x1 <= figure.bbox.x1 and box.y1 <= frame.y1 + 20 for box in boxes)


def test_a_budget_can_be_the_rate_and_points_need_both_numbers() -> None:
    figure = rate_distortion([full_run()], "psnr", x="tokens")
    assert [list(line.get_xdata()) for line in figure.axes[0].lines] == [[32, 64, 128, 256]]
    with pytest.raises(ConfigError, match="no rate 'bbp' to draw; did you mean 'bpp'"):
        rate_distortion([full_run()], "psnr", x="bbp")
    with pytest.raises(ConfigError, match="no metric 'psrn' to draw; did you mean 'psnr'"):
        rate_distortion([full_run()], "psrn")
    with pytest.raises(ConfigError, match="no contestant has numbers for both bpp and rfid"):
        rate_distortion([full_run()], "rfid")


def test_unlike_scores_share_no_axis() -> None:
    other = run(score("x", protocol=PICTURES.changed(crop="none"), budget=5, budget_name="quality"))
    with pytest.raises(ConfigError, match="psnr cannot stand in one column: crop"):
        rate_distortion([full_run(), other], "psnr")


def test_budget_curves_have_a_panel_per_metric() -> None:
    tokens = run(*(one for one in full_run().scores if one.budget_name != "quality"))
    figure = budget_curves([tokens])
    assert [axis.get_ylabel() for axis in figure.axes] == ["PSNR (dB) ↑", "SSIM ↑", "LPIPS ↓"]
    with pytest.raises(ConfigError, match="these count tokens, quality"):
        budget_curves([full_run()])


def test_usage_shows_used_codes_and_perplexity() -> None:
    extras = {"histograms": {"even": [5, 5, 5, 5], "two": {"0": [1, 0], "1": list(range(1000))}}}
    file = run(score(), extras=extras)
    assert [one.name for one in usages([file])] == ["even", "two, 0", "two, 1"]
    found = texts(usage_histograms([file]))
    assert "4 of 4 used\nperplexity 4.0" in found and "1 of 2 used\nperplexity 1.0" in found
    usage_histograms([run(extras={"histograms": {"unused": [0, 0, 0]}})])


def test_settings_come_from_scores_or_extras_with_clean_at_zero() -> None:
    figure = setting_curves([perturbed()])
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["delta = 200", "delta = 360"]
    assert list(figure.axes[0].lines[0].get_xdata()) == [0.0, 0.5, 0.7, 0.9]
    listed = [{"contestant": "x", "metric": "pfid", "setting": {"alpha": 0.5}, "value": 3}]
    assert len(setting_values([perturbed(settings=listed)])) == 8
    over_delta = setting_curves([perturbed()], "pfid", over="delta")
    assert list(over_delta.axes[0].lines[0].get_xdata()) == [200, 360]
    with pytest.raises(ConfigError, match="no values of pfid over beta"):
        setting_curves([perturbed()], over="beta")


def test_curves_by_position() -> None:
    extras = {"curves": {"a": {"used per position": [1.0, 2.0], "codes": [[1], [2]]},
                         "b": {"used per position": [2.0, 3.0, 4.0]}}}  # fmt: skip
    figure = position_curves([run(extras=extras)])
    assert len(figure.axes) == 1 and len(figure.axes[0].lines) == 2


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_files_without_what_a_plot_draws_are_one_sentence(kind: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        plot([run(score(value=None))], tmp_path / "a.png", kind=kind)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("extras", [
    {"histograms": 3}, {"histograms": {"a": "abc"}}, {"histograms": {"a": [-1]}},
    {"histograms": {"a": []}}, {"histograms": {"a": [[1]]}}, {"histograms": {"a": ["nan"]}},
    {"histograms": {"a": {"b": None}}}, {"settings": 3}, {"settings": [3]}, {"settings": [{}]},
    {"settings": [{"contestant": 1, "metric": 2, "setting": {"a": "x"}, "value": 1}]},
    {"settings": [{"contestant": 1, "metric": 2, "setting": {"a": "inf"}, "value": 1}]},
    {"curves": 3}, {"curves": {"a": 3}}, {"curves": {"a": {"b": 3}}}, {"curves": {"a": {"b": "x"}}},
])  # fmt: skip
def test_hostile_extras_are_one_sentence(extras: dict[str, Any]) -> None:
    draw = {"histograms": usage_histograms, "settings": setting_curves,
            "curves": position_curves}[next(iter(extras))]  # fmt: skip
    with pytest.raises(ConfigError, match="cannot be read|hold no"):
        draw([run(extras=extras)])


def test_files_by_ending_and_never_over_another(tmp_path: Path) -> None:
    png = plot([full_run()], tmp_path / "a.png", y="ssim")
    with Image.open(png) as image:
        assert image.format == "PNG" and image.width > 600
    svg = plot([full_run()], tmp_path / "a.svg", y="ssim")
    assert ElementTree.parse(svg).getroot().tag.endswith("svg")
    with pytest.raises(TesseraError, match="exists already"):
        plot([full_run()], png)
    with pytest.raises(ConfigError, match=r"legal endings are \.png \.svg \.pdf"):
        plot([full_run()], tmp_path / "a.jpg")
    with pytest.raises(ConfigError, match="plot 'rate' is unknown"):
        plot([full_run()], tmp_path / "b.png", kind="rate")
    with pytest.raises(ConfigError, match="a plot of usage has no choice of y"):
        plot([full_run()], tmp_path / "b.png", kind="usage", y="psnr")


def test_x_and_y_are_what_each_kind_calls_so(tmp_path: Path) -> None:
    plot([perturbed()], tmp_path / "a.svg", kind="settings", x="delta", y="pfid")
    tokens = run(*(one for one in full_run().scores if one.budget_name != "quality"))
    plot([tokens], tmp_path / "b.svg", kind="budget", y="ssim", title="SSIM")
    assert (tmp_path / "b.svg").stat().st_size > 1000


def test_hostile_names_are_drawn_as_they_are() -> None:
    found = [score(name, metric, value, budget_name="$q$", budget=1.0)
             for name, base in ((HOSTILE, 1.0), ("$\\frac{", 2.0), ("名前", 3.0))
             for metric, value in (("psnr", base), ("bpp", base))]  # fmt: skip
    figure = rate_distortion([run(*found)], title="$\\bad")
    assert "$\\frac{" in texts(figure)
    data = figure_bytes(figure, "svg")
    assert b"<script" not in data
    ElementTree.parse(io.BytesIO(data))
    assert data == figure_bytes(figure, "svg")


def test_contestants_look_different() -> None:
    styles = [line_style(place) for place in range(21)]
    looks = {(style["color"], style["marker"], str(style["linestyle"])) for style in styles}
    assert len(looks) == 21 and len(set(COLOURS)) == len(set(MARKERS)) == 7


def test_importing_plots_loads_no_matplotlib() -> None:
    heavy = "{'matplotlib', 'torch', 'pydantic', 'rich'}"
    code = ("import sys, eval.plots, eval.html_report, eval.table\n"
            f"assert not {heavy} & set(sys.modules)")  # fmt: skip
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
