"""The report: one file that needs nothing else, escapes everything and shows what it is given."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from eval.html_report import html_report, warning_lines, write_report
from eval.html_samples import samples_html
from eval.score import ScoreFile
from tests.eval.score_files import HOSTILE, full_run, run, score
from tok_core.errors import ConfigError, TesseraError

VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """Collects tags, checks that they close, and everything that could fetch something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "poster", "data", "action"):
                self.links.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def with_samples(folder: Path) -> ScoreFile:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    Image.fromarray(255 - pixels).resize((900, 600)).save(folder / "b.jpg")
    tone = 0.3 * np.sin(np.arange(8000 * 11) / 5)
    soundfile.write(folder / "a.wav", np.stack([tone] * 3, axis=1), 8000)
    (folder / "bad.png").write_bytes(b"no picture")
    listed = [
        {"contestant": "jpeg", "item": "cat", "original": "a.png", "reconstruction": "b.jpg",
         "budget": 5, "budget_name": "quality"},
        {"contestant": "opus", "item": "speech", "original": "a.wav", "reconstruction": "a.wav"},
        {"contestant": HOSTILE, "item": HOSTILE, "original": "gone.png",
         "reconstruction": "bad.png"},
    ]  # fmt: skip
    run(*full_run().scores, title="Photographs <b>", extras={
        "samples": listed, "histograms": {HOSTILE: [3, 2, 1]},
        "contestants": {"jpeg": {"library": HOSTILE}},
    }).write(folder / "run.json")  # fmt: skip
    return ScoreFile.read(folder / "run.json")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    return html_report([with_samples(tmp_path_factory.mktemp("report"))], spread="interval")


def test_nothing_is_fetched_and_nothing_runs(report: str) -> None:
    page = Page(report)
    assert page.links and all(link.startswith("data:") for link in page.links)
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert not page.handlers and "default-src 'none'" in report
    assert not re.search(r"url\(|@import|https?://", re.sub(r"base64,[\w+/=]+", "", report))


def test_hostile_names_are_text(report: str) -> None:
    page = Page(report)
    assert "<script" not in report and "<b>" not in report
    assert "<script>alert('x & y')</script>" in page.text and "Photographs <b>" in page.text


def test_table_marks_footnotes_warnings_and_protocol(report: str) -> None:
    assert "<strong>33.70</strong>" in report and "<u>33.20</u>" in report
    assert "[33.30, 34.10]" in report and '<tr class="truth"><th scope="row">ground truth' in report
    page = Page(report)
    assert "3 of 120 failed: the picture cannot be coded" in page.text
    assert "rFID: 120 samples are fewer than the 2048 features" in page.text
    assert "pt_inception-2015-12-05-6726825d.pth" in page.text
    assert page.tags.count("details") == 2 and "byte_rule" in page.text


def test_plots_are_there_for_every_metric_with_numbers(report: str) -> None:
    captions = re.findall(r"<figcaption>([^<]*)</figcaption>", report)
    assert captions[:3] == ["PSNR over the rate", "SSIM over the rate", "LPIPS over the rate"]
    assert "Code usage" in captions and report.count("data:image/svg+xml") == 4


def test_pictures_are_lossless_and_sounds_short(report: str) -> None:
    pictures = re.findall(r"data:image/webp;base64,([\w+/=]+)", report)
    with Image.open(io.BytesIO(base64.b64decode(pictures[0]))) as image:
        expected = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
        assert np.array_equal(np.asarray(image.convert("RGB")), expected)
    with Image.open(io.BytesIO(base64.b64decode(pictures[1]))) as image:
        assert max(image.size) == 512
    assert "shown smaller than its 900 x 600 pixels" in report
    sounds = re.findall(r"data:audio/flac;base64,([\w+/=]+)", report)
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(sounds[0])))
    assert rate == 8000 and samples.shape == (80_000,) and "first 10 s" in report
    assert report.count("not shown: ") == 2  # the missing original and the damaged picture


def test_the_number_of_samples_is_limited(tmp_path: Path) -> None:
    file = with_samples(tmp_path)
    text = samples_html([file], most=1)
    assert text.count("<h3>") == 1 and "The first 1 of 3 items" in text
    samples = {"samples": file.extras["samples"]}
    still = ScoreFile(command="", scores=(score(),), extras=samples, path=file.path)
    assert "Samples" not in html_report([still], most_samples=0)
    assert samples_html([run(score())]) == ""


@pytest.mark.parametrize("samples", [
    3, [3], [{}], [{"contestant": "a", "item": "b", "original": "c"}],
    [{"contestant": "a", "item": "b", "original": 5, "reconstruction": "d"}],
    [{"contestant": "a", "item": "b", "original": "c", "reconstruction": "d", "budget": "x"}],
])  # fmt: skip
def test_hostile_samples_are_one_sentence(samples: Any) -> None:
    with pytest.raises(ConfigError, match="samples that cannot be read"):
        html_report([run(score(), extras={"samples": samples})])


def test_odd_paths_leave_a_sentence(tmp_path: Path) -> None:
    for path in ("/dev/zero", "\x00", "a" * 5000 + ".png", ".", "x.wav"):
        listed = [{"contestant": "a", "item": "b", "original": None, "reconstruction": path}]
        file = ScoreFile(command="", extras={"samples": listed}, path=tmp_path / "run.json")
        assert samples_html([file]).count("not shown: ") == 1


def test_broken_plots_leave_a_sentence_and_no_plot_is_no_section() -> None:
    text = html_report([run(score(), extras={"histograms": 3})])
    assert "Code usage is not drawn: " in text
    assert "<h2>Plots</h2>" not in html_report([run(score())])


def test_warnings_once_with_their_metrics() -> None:
    scores = [score("a", warnings=("few",)), score("b", "ssim", 0.1, warnings=("few",))]
    assert warning_lines(scores) == ["PSNR, SSIM: few"]


def test_the_file_is_written_whole_and_not_over_another(tmp_path: Path) -> None:
    path = write_report([run(score("a\ud800"))], tmp_path / "r.html")
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    with pytest.raises(TesseraError, match="exists already"):
        write_report([run(score())], path)
