"""Plots of scores: rate-distortion, metrics over budgets, perturbed scores over settings.

    score files ──▶ curves (contestant: points) ──▶ figure ──▶ PNG | SVG | PDF

Only comparable scores share an axis; what `eval.compare` refuses is not drawn either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eval.compare import refuse_unlike
from eval.plot_labels import Curve, label_curves
from eval.plot_style import (
    GREY,
    check_ending,
    head_line,
    label_axes,
    line_style,
    new_figure,
    save_figure,
)
from eval.position_plot import position_curves
from eval.score import Score, ScoreFile, is_ground_truth
from eval.setting_plot import setting_curves
from eval.shown_number import one_line
from eval.usage_plot import usage_histograms
from tok_core.errors import ConfigError, nearest

ARROWS = {"higher": " ↑", "lower": " ↓", "none": ""}
RATES = ("bpp", "kbps")  # what rate-distortion is drawn over, where nothing else is named
_WIDE_RANGE = 20.0  # of the rates, from where on a logarithmic axis is easier to read
_PANELS_PER_ROW = 3


def rate_distortion(
    files: Sequence[ScoreFile], y: str | None = None, *, x: str | None = None, title: str = ""
) -> Any:
    """Draw one metric over the rate, one curve per contestant through its budgets.

    Args:
        files: comparable ones.
        y: metric; None takes the first that has a direction.
        x: a rate by its metric's name (``bpp``, ``kbps``), or what budgets count (``tokens``);
            None takes the first rate, else the budget.

    Returns:
        The matplotlib figure, for `eval.plot_style.save_figure`.

    Raises:
        ConfigError: an unknown metric, nothing that has both, unlike scores, no matplotlib.

    Example:
        >>> save_figure(rate_distortion([run], "lpips/alex"), "rd.png")  # doctest: +SKIP
    """
    scores = [score for file in files for score in file.scores]
    y = _known(y or _first(scores, has_better), scores, "metric")
    x = x or _first(scores, lambda s: s.kind == "rate" and s.metric in RATES)
    x = x or _first(scores, lambda s: s.kind == "rate") or _budget_name(scores)
    by_budget = x not in {score.metric for score in scores}
    if by_budget and x not in {score.budget_name for score in scores if score.budget is not None}:
        x = _known(x, scores, "rate")
    refuse_unlike(files, columns=[y] if by_budget else [x, y])
    figure, axes = new_figure()
    head_line(figure, title)
    label_curves(axes[0][0], _panel(axes[0][0], scores, x, y))
    return figure


def budget_curves(
    files: Sequence[ScoreFile], metrics: Sequence[str] | None = None, *, title: str = ""
) -> Any:
    """Draw metrics over the budget, one panel each.

    Args:
        files: comparable ones. metrics: None takes all that have a direction and a number.

    Raises:
        ConfigError: no budgets, budgets that count different things, an unknown metric.
    """
    scores = [score for file in files for score in file.scores]
    told = [s for s in scores if has_better(s) and s.budget is not None and _finite(s)]
    names = list(metrics or dict.fromkeys(score.metric for score in told))
    for metric in names:
        _known(metric, scores, "metric")
    counts = dict.fromkeys(s.budget_name for s in scores if s.budget is not None)
    if len(counts) != 1 or not names:
        what = ", ".join(counts) or "nothing"
        raise ConfigError(
            f"curves over the budget need scores whose budgets count one thing, these count {what};"
            " draw the rate instead (rd)."
        )
    refuse_unlike(files, columns=names)
    across = min(len(names), _PANELS_PER_ROW)
    down = math.ceil(len(names) / across)
    figure, axes = new_figure(down, across, size=(6.4, 4.2) if len(names) == 1 else (4.2, 3.2))
    head_line(figure, title)
    for axis in axes.flat[len(names) :]:
        axis.axis("off")
    drawn = [(axis, _panel(axis, scores, next(iter(counts)), metric))
             for axis, metric in zip(axes.flat, names, strict=False)]  # fmt: skip
    for axis, curves in drawn:
        label_curves(axis, curves)
    return figure


def has_better(score: Score) -> bool:
    """Return whether this is a quality with a better side, such as PSNR; a rate is none."""
    return score.direction != "none" and score.kind != "rate"


def _panel(axis: Any, scores: Sequence[Score], x: str, y: str) -> list[Curve]:
    places: dict[str, int] = {}
    for score in scores:  # a contestant looks the same in every panel
        if not is_ground_truth(score.contestant):
            places.setdefault(score.contestant, len(places))
    found = _points(scores, x, y)
    curves = []
    for contestant, points in found.items():
        if is_ground_truth(contestant):
            continue
        style = line_style(places[contestant])
        xs, ys = zip(*sorted(points), strict=True)
        axis.plot(xs, ys, **style)
        curves.append(Curve(contestant, xs, ys, style["color"]))
    if not curves:
        raise ConfigError(f"no contestant has numbers for both {x} and {y}; name other metrics.")
    _scale(axis, [value for curve in curves for value in curve.x])
    one = next(score for score in scores if score.metric == y)
    label_axes(axis, x=_axis_title(scores, x), y=_axis_title(scores, y) + ARROWS[one.direction])
    truth = next((s for s in scores if s.metric == y and is_ground_truth(s.contestant)), None)
    axis.margins(x=0.12, y=0.12)
    if truth is not None and truth.value is not None and _finite(truth):
        axis.axhline(truth.value, color=GREY, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
        line = (truth.value, truth.value)
        curves.append(Curve(truth.contestant, axis.get_xlim(), line, "#555555"))
    return curves


def _points(scores: Sequence[Score], x: str, y: str) -> dict[str, list[tuple[float, float]]]:
    """Return (x, y) by contestant, where both are finite."""
    rates = {(s.contestant, s.budget, s.budget_name): s.value for s in scores
             if s.metric == x and _finite(s)}  # fmt: skip
    by_budget = x not in {score.metric for score in scores}
    found: dict[str, list[tuple[float, float]]] = {}
    for score in scores:
        if score.metric != y or not _finite(score):
            continue
        if by_budget:
            at = score.budget if score.budget_name == x else None
        else:
            at = rates.get((score.contestant, score.budget, score.budget_name))
        if at is not None and score.value is not None:
            found.setdefault(score.contestant, []).append((at, score.value))
    return found


def _scale(axis: Any, values: Sequence[float]) -> None:
    if min(values) > 0 and max(values) / min(values) > _WIDE_RANGE:
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())


def _axis_title(scores: Sequence[Score], metric: str) -> str:
    one = next((score for score in scores if score.metric == metric), None)
    if one is None:
        return metric
    return one_line(f"{one.title or one.metric}{f' ({one.unit})' if one.unit else ''}")


def _finite(score: Score) -> bool:
    return score.value is not None and math.isfinite(score.value)


def _first(scores: Sequence[Score], wanted: Callable[[Score], bool]) -> str:
    return next((score.metric for score in scores if wanted(score) and _finite(score)), "")


def _budget_name(scores: Sequence[Score]) -> str:
    return next((score.budget_name for score in scores if score.budget is not None), "")


def _known(metric: str, scores: Sequence[Score], what: str) -> str:
    there = list(dict.fromkeys(score.metric for score in scores))
    if metric not in there:
        raise ConfigError(
            f"there is no {what} '{metric}' to draw{nearest(metric, there)}; there are "
            f"{', '.join(there) or 'no scores at all'}"
        )
    return metric


class Kind(NamedTuple):
    """A kind of plot. x, y: what its function calls them, empty for what it does not take."""

    draw: Callable[..., Any]
    x: str = ""
    y: str = ""


KINDS: Mapping[str, Kind] = {
    "rd": Kind(rate_distortion, "x", "y"), "budget": Kind(budget_curves, "", "metrics"),
    "usage": Kind(usage_histograms), "settings": Kind(setting_curves, "over", "metric"),
    "positions": Kind(position_curves),
}  # fmt: skip


def plot(
    files: Sequence[ScoreFile], path: str | Path, *, kind: str = "rd", x: str | None = None,
    y: str | None = None, title: str = "", force: bool = False,
) -> Path:  # fmt: skip
    """Draw one plot into a file.

    Args:
        files: score files. path: its ending decides: .png, .svg, .pdf.
        kind: ``rd``, ``budget``, ``usage``, ``settings`` or ``positions``.
        x: the rate of ``rd``, the setting of ``settings``. y: the metric of these and of
            ``budget``. None leaves both to the kind. title: above the plot.

    Raises:
        ConfigError: an unknown kind or ending, x or y where there is no choice, or what the
            kind's own function refuses.

    Example:
        >>> plot([run], "rd.svg", y="lpips/vgg")  # doctest: +SKIP
    """
    if kind not in KINDS:
        raise ConfigError(
            f"plot '{kind}' is unknown{nearest(kind, KINDS)}; legal are {', '.join(KINDS)}"
        )
    one = KINDS[kind]
    check_ending(path)
    options: dict[str, Any] = {"title": title}
    for axis, name, value in (("x", one.x, x), ("y", one.y, y)):
        if value is not None and not name:
            raise ConfigError(f"a plot of {kind} has no choice of {axis}, so '{value}' means "
                              f"nothing there; leave {axis} out.")  # fmt: skip
        if value is not None:
            options[name] = [value] if name == "metrics" else value
    return save_figure(one.draw(files, **options), path, force=force)
