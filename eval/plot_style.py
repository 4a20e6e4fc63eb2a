"""How every plot of the judge looks, and how it becomes a PNG or SVG file.

Figures are made without pyplot, so that no state of the process changes and no screen is needed.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eval.shown_number import one_line
from tok_core.atomic_write import write_bytes
from tok_core.errors import ConfigError, nearest

# Okabe and Ito 2008, told apart by colour-blind readers; its yellow is too light for lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)))
GREY = "#888888"
FORMATS = {".png": "png", ".svg": "svg", ".pdf": "pdf"}
LONGEST = 40  # letters of a name


def new_figure(rows: int = 1, columns: int = 1, *, size: tuple[float, float] = (6.4, 4.2)) -> Any:
    """Return a figure and its axes, (rows, columns).

    Args:
        size: of one panel, in inches.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError(
            "drawing needs matplotlib, which is not installed; run pip install matplotlib."
        ) from None
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    FigureCanvasAgg(figure)  # measures texts without a screen
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(GREY)
        axis.tick_params(color=GREY, labelsize=9)
        axis.grid(True, color="#e6e6e6", linewidth=0.6)
        axis.set_axisbelow(True)
    return figure, axes


def line_style(place: int) -> dict[str, Any]:
    """Return colour, marker and dashes of the n-th contestant; 21 differ."""
    turn = place // len(COLOURS)
    return {
        "color": COLOURS[place % len(COLOURS)], "linestyle": DASHES[turn % len(DASHES)],
        "marker": MARKERS[(place + turn) % len(MARKERS)], "markersize": 5, "linewidth": 1.8,
    }  # fmt: skip


def label_axes(axis: Any, *, x: str = "", y: str = "", title: str = "") -> None:
    """Set labels as they stand, so that a dollar sign in a name starts no formula."""
    for text in (
        axis.set_xlabel(name(x), fontsize=10),
        axis.set_ylabel(name(y), fontsize=10),
        axis.set_title(name(title), fontsize=10, loc="left"),
    ):
        text.set_parse_math(False)


def head_line(figure: Any, title: str) -> None:
    """Set the title of a whole figure."""
    if title:
        text = figure.suptitle(name(title, 90), fontsize=12, x=0.01, ha="left")
        text.set_parse_math(False)


def name(text: str, longest: int = LONGEST) -> str:
    """Return a name that fits a plot."""
    line = one_line(text)
    return line if len(line) <= longest else line[: longest - 1] + "…"


@contextmanager
def any_script() -> Iterator[None]:
    """Let names in a script that the font lacks show as boxes, without a warning each."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        yield


def figure_bytes(figure: Any, form: str) -> bytes:
    """Return the figure as ``png``, ``svg`` or ``pdf``; the same figure gives the same bytes."""
    import matplotlib

    stream = io.BytesIO()
    dates: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with matplotlib.rc_context({"svg.hashsalt": "tessera"}), any_script():
        figure.savefig(stream, format=form, dpi=144, facecolor="white", metadata=dates.get(form))
    return stream.getvalue()


def save_figure(figure: Any, path: str | Path, *, force: bool = False) -> Path:
    """Write a figure; the ending of the path decides the format.

    Raises:
        ConfigError: another ending than .png, .svg, .pdf. TesseraError: the file exists.
    """
    write_bytes(path, figure_bytes(figure, check_ending(path)), force=force)
    return Path(path)


def check_ending(path: str | Path) -> str:
    """Return the format of a path's ending; ConfigError for one that is not drawn."""
    ending = Path(path).suffix.lower()
    if ending not in FORMATS:
        raise ConfigError(
            f"a plot was to be written to '{path}'; legal endings are {' '.join(FORMATS)}"
            f"{nearest(ending, FORMATS)}"
        )
    return FORMATS[ending]
