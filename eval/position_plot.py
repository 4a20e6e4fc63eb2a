"""Figures with one number per token position, such as the codes used at each.

    extras["curves"] ──name──▶ panels, one line per contestant
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from eval.plot_labels import Curve, label_curves
from eval.plot_style import head_line, label_axes, line_style, new_figure
from eval.score import ScoreFile
from tok_core.errors import ConfigError

_MOST_PANELS = 9
_MARKED = 40  # positions up to which each has a marker


class PositionValues(NamedTuple):
    """Numbers of one contestant. name: of the figure."""

    contestant: str
    name: str
    numbers: tuple[float, ...]


def position_values(files: Sequence[ScoreFile]) -> list[PositionValues]:
    """Read the curves of score files.

    Raises:
        ConfigError: extras that are not as `eval.score` says.
    """
    return [one for file in files for one in _read(file)]


def position_curves(files: Sequence[ScoreFile], *, title: str = "") -> Any:
    """Draw every figure that has a number per position, one panel each.

    Returns:
        The matplotlib figure.

    Raises:
        ConfigError: no such figures, or such as cannot be read; no matplotlib.
    """
    found = position_values(files)
    names = list(dict.fromkeys(one.name for one in found))[:_MOST_PANELS]
    if not names:
        raise ConfigError("these files hold no figures by position; run eval recon on tokenizers.")
    places = {one: place for place, one in enumerate(dict.fromkeys(c.contestant for c in found))}
    across = min(3, len(names))
    size = (6.4, 4.2) if len(names) == 1 else (4.2, 3.2)
    figure, axes = new_figure(math.ceil(len(names) / across), across, size=size)
    head_line(figure, title)
    drawn = []
    for axis, name in zip(axes.flat, names, strict=False):
        curves = []
        for one in (one for one in found if one.name == name):
            style = line_style(places[one.contestant])
            if len(one.numbers) > _MARKED:
                style |= {"marker": None, "linewidth": 1.2}
            axis.plot(range(len(one.numbers)), one.numbers, **style)
            curves.append(Curve(one.contestant, range(len(one.numbers)), one.numbers,
                                style["color"]))  # fmt: skip
        label_axes(axis, x="position", title=name)
        axis.margins(x=0.08, y=0.15)
        drawn.append((axis, curves))
    for axis in axes.flat[len(names) :]:
        axis.axis("off")
    for axis, curves in drawn:
        label_curves(axis, curves)
    return figure


def _read(file: ScoreFile) -> Iterator[PositionValues]:
    try:
        for contestant, by_name in file.extras.get("curves", {}).items():
            for name, numbers in by_name.items():
                if numbers and isinstance(numbers[0], list | tuple):
                    continue  # a table per position is no curve
                read = tuple(float(number) for number in numbers)
                if read and all(math.isfinite(number) for number in read):
                    yield PositionValues(str(contestant), str(name), read)
    except (AttributeError, TypeError, ValueError, KeyError, OverflowError):
        raise ConfigError(
            f"{file.path or 'a score file'} holds curves that cannot be read; they are numbers by "
            "position, by name, by contestant."
        ) from None
