"""Perturbed scores over the settings: how fast quality falls as more codes are wrong.

    pfid/alpha=0.5,delta=200 ──▶ x: the setting with most values, panels: the others
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from eval.plot_labels import Curve, label_curves
from eval.plot_style import head_line, label_axes, line_style, new_figure
from eval.score import ScoreFile
from eval.shown_number import plain_number
from tok_core.errors import ConfigError

CLEAN = "clean"
_MOST_PANELS = 12


class SettingValue(NamedTuple):
    """One value of a metric at one setting; an empty setting is the unperturbed one."""

    contestant: str
    metric: str
    setting: tuple[tuple[str, float], ...]
    value: float


def setting_values(files: Sequence[ScoreFile]) -> list[SettingValue]:
    """Collect values by setting, from extras and from scores named ``metric/name=number,...``.

    Raises:
        ConfigError: extras that are not as `eval.score` says.
    """
    found = [one for file in files for one in (*_from_scores(file), *_from_extras(file))]
    return list(dict.fromkeys(one for one in found if math.isfinite(one.value)))


def setting_curves(
    files: Sequence[ScoreFile], metric: str | None = None, *, over: str | None = None,
    title: str = "",
) -> Any:  # fmt: skip
    """Draw a perturbed score over one setting; each value of the other settings has its panel.

    Args:
        files: with perturbed scores. metric: such as ``pfid``; None takes the first.
        over: the setting along x; None takes the one with most values. With ``alpha``, the share
            of perturbed codes, the unperturbed value stands at 0.

    Returns:
        The matplotlib figure.

    Raises:
        ConfigError: no such scores, an unknown metric or setting, no matplotlib.
    """
    values = setting_values(files)
    metrics = list(dict.fromkeys(one.metric for one in values if one.setting))
    if not metrics:
        raise ConfigError("these files hold no scores by setting; run eval pfid first.")
    metric = metric or metrics[0]
    values = [one for one in values if one.metric == metric]
    levels: dict[str, set[float]] = {}
    for one in values:
        for name, number in one.setting:
            levels.setdefault(name, set()).add(number)
    if not levels or (over is not None and over not in levels):
        raise ConfigError(
            f"there are no values of {metric} over {over or 'settings'}; there are metrics "
            f"{', '.join(metrics)} over {', '.join(levels) or 'nothing'}"
        )
    over = over or max(levels, key=lambda name: len(levels[name]))
    panels = list(dict.fromkeys(_others(one, over) for one in values if one.setting))
    panels = panels[:_MOST_PANELS]
    across = min(3, len(panels))
    size = (6.4, 4.2) if len(panels) == 1 else (4.2, 3.4)
    figure, axes = new_figure(math.ceil(len(panels) / across), across, size=size)
    head_line(figure, title)
    limits = _limits([one.value for one in values])
    for axis, others in zip(axes.flat, panels, strict=False):
        _panel(axis, values, over, others)
        label_axes(axis, x=over, y=metric, title=_said(others))
        axis.set_ylim(*limits)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, others in zip(axes.flat, panels, strict=False):
        label_curves(axis, _curves(values, over, others))
    return figure


def _panel(axis: Any, values: Sequence[SettingValue], over: str, others: Any) -> None:
    for curve in _curves(values, over, others):
        style = line_style(_place(values, curve.label))
        axis.plot(curve.x, curve.y, **style)
    axis.margins(x=0.12)


def _curves(values: Sequence[SettingValue], over: str, others: Any) -> list[Curve]:
    curves = []
    for contestant in dict.fromkeys(one.contestant for one in values):
        points = {}
        for one in values:
            if one.contestant != contestant:
                continue
            if not one.setting and over == "alpha":
                points[0.0] = one.value
            elif one.setting and _others(one, over) == others and over in dict(one.setting):
                points[dict(one.setting)[over]] = one.value
        if points:
            xs, ys = zip(*sorted(points.items()), strict=True)
            colour = line_style(_place(values, contestant))["color"]
            curves.append(Curve(contestant, xs, ys, colour))
    return curves


def _place(values: Sequence[SettingValue], contestant: str) -> int:
    return list(dict.fromkeys(one.contestant for one in values)).index(contestant)


def _others(one: SettingValue, over: str) -> tuple[tuple[str, float], ...]:
    return tuple(pair for pair in one.setting if pair[0] != over)


def _said(others: Sequence[tuple[str, float]]) -> str:
    return ", ".join(f"{name} = {plain_number(number)}" for name, number in others)


def _limits(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = 0.12 * (high - low) or 0.1 * abs(high) or 1.0
    return low - room, high + room


def _from_scores(file: ScoreFile) -> Iterator[SettingValue]:
    for score in file.scores:
        metric, _, label = score.metric.rpartition("/")
        if score.value is None or not metric:
            continue
        setting = () if label == CLEAN else _parsed(label)
        if setting is not None:
            budget = "" if score.budget is None else f" {plain_number(score.budget)}"
            yield SettingValue(score.contestant + budget, metric, setting, score.value)


def _parsed(label: str) -> tuple[tuple[str, float], ...] | None:
    found = []
    for part in label.split(","):
        name, equals, number = part.partition("=")
        try:
            found.append((name.strip(), float(number)))
        except ValueError:
            return None
        if not equals or not math.isfinite(found[-1][1]):
            return None
    return tuple(found)


def _from_extras(file: ScoreFile) -> Iterator[SettingValue]:
    listed = file.extras.get("settings", ())
    for one in listed if isinstance(listed, list | tuple) else (listed,):
        try:
            if not isinstance(one, Mapping) or not isinstance(one["setting"], Mapping):
                raise TypeError
            setting = tuple((str(key), float(number)) for key, number in one["setting"].items())
            if not all(math.isfinite(number) for _, number in setting):
                raise ValueError
            yield SettingValue(
                str(one["contestant"]), str(one["metric"]), setting, float(one["value"])
            )
        except (KeyError, TypeError, ValueError, OverflowError):
            raise ConfigError(
                f"{file.path or 'a score file'} holds settings that cannot be read; each needs "
                "contestant, metric, setting (numbers by name) and value."
            ) from None
