"""The plots of claims: lines with error bars over seeds, or points, one panel per measure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# Values over seeds by place on the x axis.
Line = Mapping[float, Sequence[float]]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One panel.

    Args:
        title, x: of the panel and its x axis.
        lines: by label; each holds the values of all seeds by place.
        points: by label, single pairs that no line joins.
        flat: by label, a value that is drawn as a dashed line.
        log: whether the x axis is logarithmic. ticks: names of the places, by place.
    """

    title: str
    x: str
    lines: Mapping[str, Line] | None = None
    points: Mapping[str, Sequence[tuple[float, float]]] | None = None
    flat: Mapping[str, float] | None = None
    log: bool = False
    ticks: Mapping[float, str] | None = None


def gathered(values: Iterable[tuple[str, float, float]]) -> dict[str, dict[float, list[float]]]:
    """Return the lines of (label, place, value), values of one label and place together."""
    lines: dict[str, dict[float, list[float]]] = {}
    for label, place, value in values:
        lines.setdefault(label, {}).setdefault(float(place), []).append(float(value))
    return lines


def by_name(title: str, values: Iterable[tuple[str, float]], x: str = "") -> Panel:
    """Return a panel with a place per name, in the order in which they come."""
    known = list(values)
    places = {name: float(i) for i, name in enumerate(dict.fromkeys(name for name, _ in known))}
    lines = gathered((name, places[name], value) for name, value in known)
    return Panel(title=title, x=x, lines=lines, ticks={i: name for name, i in places.items()})


def draw(panels: Sequence[Panel], path: Path) -> None:
    """Draw the panels side by side into a PNG file; matplotlib is set to draw without a screen."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(panels), figsize=(4.6 * len(panels), 3.8), squeeze=False)
    for axis, panel in zip(axes[0], panels, strict=True):
        for label, line in (panel.lines or {}).items():
            places = sorted(place for place, values in line.items() if values)
            means = [statistics.fmean(line[place]) for place in places]
            spreads = [
                statistics.stdev(line[place]) if len(line[place]) > 1 else 0.0 for place in places
            ]
            axis.errorbar(places, means, spreads, marker="o", capsize=3, label=label)
        for label, pairs in (panel.points or {}).items():
            axis.plot([a for a, _ in pairs], [b for _, b in pairs], "o", label=label)
        for label, value in (panel.flat or {}).items():
            axis.axhline(value, color="grey", linestyle="--", label=label)
        if panel.log:
            axis.set_xscale("log", base=2)
        if panel.ticks:
            axis.set_xticks(list(panel.ticks), list(panel.ticks.values()), rotation=25, ha="right")
        axis.set_xlabel(panel.x)
        axis.set_title(panel.title, fontsize=9)
        labels = axis.get_legend_handles_labels()[1]
        if set(labels) - set((panel.ticks or {}).values()):  # else the places say it already
            axis.legend(fontsize=7, framealpha=0.3)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
