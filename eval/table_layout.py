"""One table of scores before it has a format: rows, columns, marks and footnotes.

    score files ──▶ rows (contestant, budget) x columns (metric) ──▶ marks ──▶ TableLayout
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from eval.comparable import check_fields, first_unlike
from eval.score import ScoreFile, is_ground_truth
from eval.score_columns import (
    RowKey,
    ScoreColumn,
    budget_text,
    column_title,
    row_keys,
    score_columns,
)
from eval.shown_number import decimals, one_line, shown
from eval.table_columns import Wanted, wanted_columns
from eval.table_footnotes import Footnotes, notes_on, protocol_lines
from tok_core.errors import ConfigError

ARROWS = {"higher": "↑", "lower": "↓", "none": ""}
SPREADS = ("std", "interval")


@dataclass(frozen=True)
class Cell:
    """One value as it is shown.

    Args:
        text: the number, or ``-``. value: the number; None for none.
        mark: ``best``, ``second`` or nothing. notes: numbers of footnotes.
        spread: shown behind the number. low, high: the numbers behind it, half width for std.
    """

    text: str = "-"
    value: float | None = None
    mark: str = ""
    notes: tuple[int, ...] = ()
    spread: str = ""
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Column:
    """One metric measured in one way.

    Args:
        name: for machines: the metric, and what tells the column from its neighbours.
        title: for people, with unit. direction: of the metric. notes: numbers of footnotes.
    """

    name: str
    title: str
    direction: str = "none"
    notes: tuple[int, ...] = ()

    @property
    def head(self) -> str:
        """Title with its arrow."""
        return f"{self.title} {ARROWS[self.direction]}".strip()


@dataclass(frozen=True)
class Row:
    """One contestant at one budget. ground_truth: whether it is out of the ranking."""

    contestant: str
    budget: str
    cells: tuple[Cell, ...]
    ground_truth: bool = False


@dataclass(frozen=True)
class TableLayout:
    """A table that every format draws alike.

    Args:
        title: may be empty. columns, rows: rows hold one cell per column.
        budget_head: head of the budget column, empty where the table has none.
        contestant_head: head of the first column.
        footnotes: sentences, numbered from 1. protocols: lines on how was measured.
        spread: ``std``, ``interval`` or nothing.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    budget_head: str = ""
    contestant_head: str = "contestant"
    footnotes: tuple[str, ...] = ()
    protocols: tuple[str, ...] = ()
    spread: str = ""


def lay_out(
    files: Sequence[ScoreFile],
    *,
    columns: str | Sequence[str] | None = None,
    allow: Sequence[str] = (),
    spread: str = "",
) -> TableLayout:
    """Put the scores of one or more files into one table.

    Args:
        files: read or made score files.
        columns: names of metrics in their order, or the name of an order (``dates``); None takes
            all as they come.
        allow: fields in which scores may differ, as `eval.comparable.unlike` names them; such
            scores stand in columns of their own.
        spread: ``std`` shows the deviation of the items, ``interval`` the 95 % one of the mean.

    Raises:
        ConfigError: nothing to show, two scores for one place, an unknown column or field.
    """
    if spread and spread not in SPREADS:
        raise ConfigError(f"spread '{spread}' is unknown; legal are {', '.join(SPREADS)}, or none.")
    scores = [score for file in files for score in file.scores]
    if not scores:
        raise ConfigError("there are no scores to show; give at least one file with some.")
    wanted = wanted_columns(columns, scores)
    groups = score_columns(files, wanted, allow=check_fields(allow))
    keys = row_keys(scores, groups)
    table = _marked(keys, groups, spread)
    named = {column_title(group): list(group.scores.values()) for group in groups if group.scores}
    titles = dict.fromkeys(one_line(file.title) for file in files if file.title)
    head, budgets = _budgets(keys, wanted)
    rows = tuple(
        Row(one_line(key.contestant), budget, cells, is_ground_truth(key.contestant))
        for key, budget, cells in zip(keys, budgets, table.cells, strict=True)
    )
    return TableLayout(
        title=", ".join(titles), columns=table.columns, rows=rows, budget_head=head,
        contestant_head=wanted.contestant_head if wanted else "contestant",
        footnotes=table.footnotes, protocols=protocol_lines(named), spread=spread,
    )  # fmt: skip


def _budgets(keys: Sequence[RowKey], wanted: Wanted | None) -> tuple[str, list[str]]:
    """Return the head of the budget column, empty for no such column, and its texts."""
    if wanted is not None and wanted.budget_head:
        fits = [not wanted.budget_names or key.budget_name in wanted.budget_names for key in keys]
        texts = [budget_text(key, named=True) if fit else "" for key, fit in zip(keys, fits,
                 strict=True)]  # fmt: skip
        return wanted.budget_head, [text or "-" for text in texts]
    names = {key.budget_name for key in keys if key.budget is not None}
    head = one_line(names.pop()) if len(names) == 1 else ""
    texts = [budget_text(key, named=bool(head)) for key in keys]
    return (head or "budget") if any(texts) else "", texts


class _Marked(NamedTuple):
    columns: tuple[Column, ...]
    cells: list[tuple[Cell, ...]]
    footnotes: tuple[str, ...]


def _marked(keys: Sequence[RowKey], groups: Sequence[ScoreColumn], spread: str) -> _Marked:
    notes = Footnotes()
    shared = [_shared_notes(group) for group in groups]
    columns = tuple(
        Column(
            f"{group.metric} [{group.label}]" if group.label else group.metric, column_title(group),
            group.direction, tuple(notes.number(sentence) for sentence in sentences),
        )
        for group, sentences in zip(groups, shared, strict=True)
    )  # fmt: skip
    drawn = [_cells(keys, group, spread) for group in groups]
    rows = []
    for place, key in enumerate(keys):
        row = []
        for group, cells, known in zip(groups, drawn, shared, strict=True):
            score = group.scores.get(key)
            sentences = () if score is None else notes_on(score)
            numbers = tuple(notes.number(one) for one in sentences if one not in known)
            row.append(replace(cells[place], notes=numbers))
        rows.append(tuple(row))
    return _Marked(columns, rows, notes.sentences)


def _shared_notes(group: ScoreColumn) -> tuple[str, ...]:
    """Return what is true of the whole column: unlike scores, and notes that all share."""
    scores = list(group.scores.values())
    found = []
    clash = first_unlike(scores)
    if clash is not None:
        one, other, fields = clash
        found.append(
            f"not comparable, so none is marked: between '{one_line(one.contestant)}' and "
            f"'{one_line(other.contestant)}' {one_line(str(fields[0]))}"
        )
    if len(scores) > 1:
        others = [set(notes_on(score)) for score in scores[1:]]
        found += [one for one in notes_on(scores[0]) if all(one in each for each in others)]
    return tuple(found)


def _cells(keys: Sequence[RowKey], group: ScoreColumn, spread: str) -> list[Cell]:
    values = {key: s.value for key, s in group.scores.items() if s.value is not None}
    # The originals' own rate would decide for all.
    ours = [value for key, value in values.items() if not is_ground_truth(key.contestant)]
    places = decimals(ours or list(values.values()), rates=group.kind == "rate")
    places = places if group.digits is None else group.digits
    cells = []
    for key in keys:
        score = group.scores.get(key)
        if score is None or score.value is None or math.isnan(score.value):
            cells.append(Cell())
            continue
        cell = Cell(shown(score.value, places), score.value)
        if score.spread is not None and spread == "std":
            std = score.spread.std
            cell = replace(cell, spread=f"± {shown(std, places)}", low=std, high=std)
        elif score.spread is not None and spread == "interval":
            low, high = score.spread.low, score.spread.high
            text = f"[{shown(low, places)}, {shown(high, places)}]"
            cell = replace(cell, spread=text, low=low, high=high)
        cells.append(cell)
    if group.direction == "none" or first_unlike(list(group.scores.values())):
        return cells
    left_out = [is_ground_truth(key.contestant) for key in keys]
    return ranked(cells, left_out, group.direction)


def ranked(cells: Sequence[Cell], left_out: Sequence[bool], direction: str) -> list[Cell]:
    """Mark the best and the second of a column; equal as shown is equal.

    Args:
        cells: of the column. left_out: which are not ranked. direction: ``higher`` or ``lower``.
    """
    ranks = [
        cell
        for cell, out in zip(cells, left_out, strict=True)
        if not out and cell.value is not None
    ]
    if len(ranks) < 2:
        return list(cells)
    ordered = sorted(ranks, key=lambda cell: cell.value or 0.0, reverse=direction == "higher")
    texts = list(dict.fromkeys(cell.text for cell in ordered))
    marks = dict(zip(texts, ("best", "second"), strict=False))
    return [
        cell if out or cell.value is None else replace(cell, mark=marks.get(cell.text, ""))
        for cell, out in zip(cells, left_out, strict=True)
    ]
