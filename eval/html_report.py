"""One HTML file with everything: table, plots, pictures and sounds, how it was measured.

It needs nothing beside itself: no network, no scripts, and works opened from a folder.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

from eval.html_samples import has_samples, samples_html
from eval.html_table import contestants_html, protocols_html, table_html
from eval.plot_style import figure_bytes
from eval.plots import budget_curves, has_better, rate_distortion
from eval.position_plot import position_curves, position_values
from eval.score import Score, ScoreFile, is_ground_truth
from eval.setting_plot import setting_curves, setting_values
from eval.shown_number import one_line
from eval.table_layout import lay_out
from eval.usage_plot import usage_histograms, usages
from tok_core.atomic_write import write_bytes
from tok_core.errors import ConfigError

_MOST_CURVES = 8  # metrics that get a rate-distortion plot
_MOST_PANELS = 9
_STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1e; --page: #ffffff; --soft: #6b6b70;
  --line: #d9d9de; --card: #f5f5f7; --warn: #8a4b00; --warnpage: #fff4e0; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececf0; --page: #17171a; --soft: #a2a2aa;
  --line: #3a3a40; --card: #232328; --warn: #ffcf87; --warnpage: #3a2c12; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem; color: var(--ink);
  background: var(--page); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; } h2 { font-size: 1.25rem; margin: 2.2rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; overflow-wrap: anywhere; }
.wide { overflow-x: auto; } table { border-collapse: collapse; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid var(--line); text-align: left;
  font-weight: normal; } thead th { border-bottom: 2px solid var(--ink); font-weight: 600; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.truth { color: var(--soft); font-style: italic; } .spread { color: var(--soft); }
.notes, figcaption, .soft { color: var(--soft); font-size: .86rem; overflow-wrap: anywhere; }
.warning { color: var(--warn); background: var(--warnpage); border-radius: .4rem;
  padding: .4rem .8rem; overflow-wrap: anywhere; }
.plots, .pairs { display: flex; flex-wrap: wrap; gap: 1rem; } figure { margin: 0; }
.plots img { background: #fff; border: 1px solid var(--line); border-radius: .5rem; padding: .5rem;
  width: 100%; max-width: 36rem; } .plots img.row { max-width: 73rem; }
.pairs figure { max-width: 20rem; } .pairs img { display: block; max-width: 100%; height: auto; }
audio { width: 20rem; max-width: 100%; } details { margin: .5rem 0; background: var(--card);
  border-radius: .5rem; padding: .4rem .8rem; } summary { cursor: pointer; }
.record td { overflow-wrap: anywhere; font-family: ui-monospace, monospace; font-size: .84rem; }
"""
# The browser itself holds the page to it: nothing is fetched and no script runs.
_POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"


def html_report(
    files: Sequence[ScoreFile],
    *,
    title: str = "",
    columns: str | Sequence[str] | None = None,
    allow: Sequence[str] = (),
    spread: str = "",
    most_samples: int = 8,
) -> str:
    """Return the report as one HTML text.

    Args:
        files: score files; samples in their extras lie relative to them.
        title: None takes the files' own.
        columns, allow, spread: of the table, see `eval.table_layout.lay_out`.
        most_samples: items whose pictures or sounds are put in; 0 for none.

    Raises:
        ConfigError: what `lay_out` refuses; plots that cannot be drawn only leave a sentence.

    Example:
        >>> write_report([ScoreFile.read("run.json")], "report.html")  # doctest: +SKIP
    """
    layout = lay_out(files, columns=columns, allow=allow, spread=spread)
    scores = [score for file in files for score in file.scores]
    heading = one_line(title) or layout.title or "Scores"
    commands = dict.fromkeys(one_line(f"eval {file.command}") for file in files if file.command)
    sections = [f"<h1>{escape(heading)}</h1>"]
    if commands:
        sections.append(f'<p class="soft">Measured by {escape(", ".join(commands))}.</p>')
    sections += [f'<p class="warning">{escape(line)}</p>' for line in warning_lines(scores)]
    sections += ["<h2>Table</h2>", table_html(layout)]
    plots = "".join(_plots(files, scores))
    if plots:
        sections.append(f'<h2>Plots</h2>\n<div class="plots">\n{plots}</div>')
    if has_samples(files) and most_samples > 0:
        sections += ["<h2>Samples</h2>", samples_html(files, most=most_samples)]
    sections += ["<h2>How it was measured</h2>", protocols_html(scores), contestants_html(files)]
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(heading)}</title>\n<style>{_STYLE}</style></head>\n<body>\n"
    )
    return page + "\n".join(sections) + "\n</body></html>\n"


def write_report(
    files: Sequence[ScoreFile], path: str | Path, *, force: bool = False, **options: Any
) -> Path:
    """Write `html_report` to a file, whole or not at all; options are its arguments."""
    write_bytes(path, html_report(files, **options).encode("utf-8", "replace"), force=force)
    return Path(path)


def warning_lines(scores: Sequence[Score]) -> list[str]:
    """Return each warning once, with the metrics that it is about, and what failed."""
    metrics: dict[str, list[str]] = {}
    for score in scores:
        for warning in score.warnings:
            titles = metrics.setdefault(one_line(warning), [])
            titles.append(one_line(score.title or score.metric))
    lines = [f"{', '.join(dict.fromkeys(titles))}: {text}" for text, titles in metrics.items()]
    failed = [score for score in scores if score.failed]
    if failed:
        worst = max(failed, key=lambda score: score.failed)
        lines.append(one_line(
            f"{len(failed)} of {len(scores)} scores leave out items that failed, at most "
            f"{worst.failed} of {worst.n + worst.failed} items ({worst.contestant}, "
            f"{worst.title or worst.metric})."
        ))  # fmt: skip
    return lines


def _plots(files: Sequence[ScoreFile], scores: Sequence[Score]) -> Iterator[str]:
    rated = {(s.contestant, s.budget) for s in scores if s.kind == "rate" and s.value is not None}
    sweeps = {s.contestant for s in scores if s.budget is not None}
    has_curves = any(
        len({budget for one, budget in rated if one == contestant}) > 1 for contestant in sweeps
    )
    told = {
        s.metric: s.title or s.metric for s in scores
        if has_better(s) and s.value is not None and not is_ground_truth(s.contestant)
        and "=" not in s.metric
    }  # fmt: skip
    for metric in list(told)[:_MOST_CURVES] if has_curves else ():
        yield _plot(f"{told[metric]} over the rate", partial(rate_distortion, files, metric))
    if not has_curves and len({s.budget for s in scores if s.budget is not None}) > 1:
        some = list(told)[:_MOST_PANELS]
        yield _plot("Metrics over the budget", partial(budget_curves, files, some), row=True)
    yield from _extra_plot("Perturbed scores", files, setting_values, setting_curves)
    yield from _extra_plot("Code usage", files, usages, usage_histograms)
    yield from _extra_plot("By position", files, position_values, position_curves)


def _extra_plot(
    name: str, files: Sequence[ScoreFile], read: Callable[..., Any], draw: Callable[..., Any]
) -> Iterator[str]:
    try:
        there = read(files)
    except ConfigError as error:
        yield _undrawn(name, error)
        return
    if there and (draw is not setting_curves or any(one.setting for one in there)):
        yield _plot(name, partial(draw, files), row=True)


def _plot(name: str, draw: Callable[[], Any], *, row: bool = False) -> str:
    try:
        data = figure_bytes(draw(), "svg")
    except ConfigError as error:
        return _undrawn(name, error)
    uri = f"data:image/svg+xml;base64,{base64.b64encode(data).decode()}"
    kind = ' class="row"' if row else ""
    text = escape(one_line(name), quote=True)
    return f'<figure><img{kind} alt="{text}" src="{uri}"><figcaption>{text}</figcaption></figure>\n'


def _undrawn(name: str, error: Exception) -> str:
    sentence = escape(one_line(f"{name} is not drawn: {error}"))
    return f'<p class="warning">{sentence}</p>\n'
