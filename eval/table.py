"""Tables of scores: on the screen, or as CSV, Markdown or LaTeX.

    score files ──▶ TableLayout ──▶ rich | csv | markdown | latex
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from eval.score import ScoreFile
from eval.table_formats import LEGEND, has_marks, to_csv, to_latex, to_markdown
from eval.table_layout import Cell, Row, TableLayout, lay_out
from tok_core.errors import ConfigError, nearest

if TYPE_CHECKING:
    from rich.console import Console

_SUPERSCRIPTS = str.maketrans("0123456789,", "⁰¹²³⁴⁵⁶⁷⁸⁹ ")
_PIPED_WIDTH = 160  # of what is printed into a file or a pipe
_STYLES = {"best": "bold", "second": "underline", "": ""}
_SIGNS = {"best": "*", "second": "+", "": " "}  # where nothing can be bold
_PLAIN_LEGEND = "Best marked *, second marked +; the ground truth is not ranked."
_GAP = 2  # columns between two cells


def to_screen(layout: TableLayout) -> str:
    """Return what the screen shows, without colours."""
    from rich.console import Console

    stream = io.StringIO()
    print_layout(layout, Console(file=stream, width=_PIPED_WIDTH, color_system=None))
    return stream.getvalue()


FORMATS: Mapping[str, Callable[[TableLayout], str]] = {
    "rich": to_screen, "csv": to_csv, "markdown": to_markdown, "latex": to_latex,
}  # fmt: skip
ENDINGS = {".csv": "csv", ".md": "markdown", ".tex": "latex", ".txt": "rich"}


def render(
    files: Sequence[ScoreFile],
    *,
    format: str,
    columns: str | Sequence[str] | None = None,
    allow: Sequence[str] = (),
    spread: str = "",
) -> str:
    """Return a table as text.

    Args:
        files: score files; unlike scores in one column are not ranked and a footnote says so
            (`eval.compare.compare` refuses them).
        format: ``rich``, ``csv``, ``markdown`` or ``latex``.
        columns, allow, spread: see `eval.table_layout.lay_out`.

    Raises:
        ConfigError: an unknown format, or what `lay_out` refuses.

    Example:
        >>> print(render([ScoreFile.read("run.json")], format="markdown"))  # doctest: +SKIP
    """
    return format_named(format)(lay_out(files, columns=columns, allow=allow, spread=spread))


def format_named(name: str) -> Callable[[TableLayout], str]:
    """Return what turns a layout into text; ConfigError for an unknown format."""
    if name not in FORMATS:
        raise ConfigError(
            f"table format '{name}' is unknown{nearest(name, FORMATS)}; legal are "
            f"{', '.join(FORMATS)}"
        )
    return FORMATS[name]


def print_table(
    files: Sequence[ScoreFile],
    console: Console | None = None,
    *,
    columns: str | Sequence[str] | None = None,
    allow: Sequence[str] = (),
    spread: str = "",
) -> None:
    """Print a table on the screen; arguments as in `render`."""
    print_layout(lay_out(files, columns=columns, allow=allow, spread=spread), console)


def print_layout(layout: TableLayout, console: Console | None = None) -> None:
    """Print a laid-out table; one that is too wide continues below with the same rows."""
    from rich.console import Console

    if console is None:
        console = Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH)
    styled = console.color_system is not None
    for part in _parts(layout, console.width):
        console.print(_rich_table(part, styled), markup=False, highlight=False)
    for place, sentence in enumerate(layout.footnotes, start=1):
        console.print(f"{_raised((place,)).strip()} {sentence}", markup=False, highlight=False)
    for line in layout.protocols:
        console.print(line, style="dim", markup=False, highlight=False)
    if has_marks(layout):
        legend = LEGEND if styled else _PLAIN_LEGEND
        console.print(legend, style="dim", markup=False, highlight=False)


def _rich_table(layout: TableLayout, styled: bool) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, title=Text(layout.title) if layout.title else None,
                  title_justify="left", padding=(0, _GAP // 2))  # fmt: skip
    table.add_column(Text(layout.contestant_head), overflow="fold")
    if layout.budget_head:
        table.add_column(Text(layout.budget_head), justify="right", overflow="fold")
    for column in layout.columns:
        table.add_column(Text(column.head + _raised(column.notes)), justify="right",
                         overflow="fold")  # fmt: skip
    marked = [not styled and any(row.cells[place].mark for row in layout.rows)
              for place in range(len(layout.columns))]  # fmt: skip
    for place, row in enumerate(layout.rows):
        style = "dim" if row.ground_truth else ""
        cells = [Text(row.contestant, style=style)]
        if layout.budget_head:
            cells.append(Text(row.budget, style=style))
        for cell, signed in zip(row.cells, marked, strict=True):
            number = Text(cell.text, style=_STYLES[cell.mark] or style)
            cells.append(Text("").append(number).append(_SIGNS[cell.mark] if signed else "")
                         .append(_tail(cell)))  # fmt: skip
        following = layout.rows[place + 1] if place + 1 < len(layout.rows) else None
        table.add_row(*cells, end_section=bool(
            row.ground_truth and following and not following.ground_truth
        ))  # fmt: skip
    return table


def _parts(layout: TableLayout, width: int) -> Iterator[TableLayout]:
    """Cut a table that is wider than the screen between its columns."""
    names = max([_width(layout.contestant_head)] + [_width(row.contestant) for row in layout.rows])
    budget = max([_width(layout.budget_head)] + [_width(row.budget) for row in layout.rows])
    # The names may fold; numbers must not.
    fixed = min(names, width // 3) + _GAP + (budget + _GAP if layout.budget_head else 0) + _GAP
    start, used = 0, fixed
    for place, column in enumerate(layout.columns):
        cells = [row.cells[place] for row in layout.rows]
        wide = _GAP + 1 + max(
            [_width(column.head + _raised(column.notes))]
            + [_width(cell.text + _tail(cell)) for cell in cells]
        )
        if used + wide > width and place > start:
            yield _columns(layout, start, place)
            start, used = place, fixed
        used += wide
    yield _columns(layout, start, len(layout.columns))


def _columns(layout: TableLayout, start: int, end: int) -> TableLayout:
    rows = tuple(
        Row(row.contestant, row.budget, row.cells[start:end], row.ground_truth)
        for row in layout.rows
    )
    title = layout.title if start == 0 else ""
    return replace(layout, title=title, columns=layout.columns[start:end], rows=rows)


def _tail(cell: Cell) -> str:
    return (f" {cell.spread}" if cell.spread else "") + _raised(cell.notes)


def _raised(notes: Sequence[int]) -> str:
    listed = ",".join(str(number) for number in notes)
    return f" {listed.translate(_SUPERSCRIPTS)}" if listed else ""


def _width(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)
