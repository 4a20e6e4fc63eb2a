"""Names beside their curves instead of a legend, put where they cover the least.

Letters: P points of all curves in pixels.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from eval.plot_style import any_script, name

# Where a label may stand around a point: shift in points, horizontal and vertical alignment.
_PLACES = (
    (8, 0, "left", "center"), (0, 8, "center", "bottom"), (0, -8, "center", "top"),
    (-8, 0, "right", "center"), (6, 6, "left", "bottom"), (6, -6, "left", "top"),
    (-6, 6, "right", "bottom"), (-6, -6, "right", "top"),
)  # fmt: skip
_COVERED_LABEL, _OUTSIDE = 1000.0, 300.0


class Curve(NamedTuple):
    """A drawn curve. x, y: its points in data units. colour: of its label."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str


def label_curves(axis: Any, curves: Sequence[Curve]) -> None:
    """Write each curve's name at one of its points, where it covers little.

    Call it when nothing of the figure changes any more; layout and limits are fixed here.
    """
    with any_script():
        _label(axis, curves)


def _label(axis: Any, curves: Sequence[Curve]) -> None:
    figure = axis.figure
    if _unsettled(figure):
        figure.draw_without_rendering()  # settles where the axes stand
        figure.set_layout_engine("none")
    axis.set_xlim(axis.get_xlim())
    axis.set_ylim(axis.get_ylim())
    renderer = figure.canvas.get_renderer()
    frame = axis.get_window_extent(renderer)
    ink = np.concatenate([_sampled(axis, curve) for curve in curves] or [np.zeros((0, 2))])
    taken: list[Any] = []
    for curve in curves:
        best = None
        # The right end first: of equal places the first wins.
        for point in dict.fromkeys((len(curve.x) - 1, 0, len(curve.x) // 2)):
            for shift, rise, left, middle in _PLACES:
                text = axis.annotate(
                    name(curve.label, 28), (curve.x[point], curve.y[point]), (shift, rise),
                    textcoords="offset points", ha=left, va=middle, fontsize=9, color=curve.colour,
                    annotation_clip=False, parse_math=False,
                )  # fmt: skip
                text.set_in_layout(False)
                box = text.get_window_extent(renderer)
                cost = _cost(box, frame, taken, ink)
                if best is None or cost < best[0]:
                    if best is not None:
                        best[1].remove()
                    best = (cost, text, box)
                else:
                    text.remove()
        if best is not None:
            taken.append(best[2])


def _unsettled(figure: Any) -> bool:
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine)


def _cost(box: Any, frame: Any, taken: Sequence[Any], ink: np.ndarray) -> float:
    cost = sum(_COVERED_LABEL for other in taken if box.overlaps(other))
    out = max(0.0, frame.x0 - box.x0, box.x1 - frame.x1, frame.y0 - box.y0, box.y1 - frame.y1)
    cost += _OUTSIDE + out if out else 0.0
    inside = (
        (ink[:, 0] > box.x0 - 2) & (ink[:, 0] < box.x1 + 2)
        & (ink[:, 1] > box.y0 - 2) & (ink[:, 1] < box.y1 + 2)
    )  # fmt: skip
    return cost + float(inside.sum())


def _sampled(axis: Any, curve: Curve) -> np.ndarray:
    """Return pixels (P, 2) along a curve, about three apart."""
    points = axis.transData.transform(np.column_stack([curve.x, curve.y]).astype(np.float64))
    parts = [points]
    for start, end in itertools.pairwise(points):
        count = min(2000, max(2, int(np.hypot(*(end - start)) / 3)))
        parts.append(start + np.linspace(0, 1, count)[:, None] * (end - start))
    return np.concatenate(parts)
