"""A laid-out table, and the record behind it, as HTML; everything is escaped."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from eval.protocol import Protocol
from eval.score import Score, ScoreFile
from eval.shown_number import one_line
from eval.table_formats import LEGEND, has_marks
from eval.table_layout import Cell, TableLayout


def table_html(layout: TableLayout) -> str:
    """Return the table with footnotes and protocols below it."""
    heads = [layout.contestant_head, *([layout.budget_head] if layout.budget_head else [])]
    first = "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
    others = "".join(
        f'<th scope="col" class="n">{escape(column.head)}{_notes(column.notes)}</th>'
        for column in layout.columns
    )
    lines = [f'<div class="wide"><table>\n<thead><tr>{first}{others}</tr></thead>\n<tbody>']
    for row in layout.rows:
        kind = ' class="truth"' if row.ground_truth else ""
        names = f'<th scope="row">{escape(row.contestant)}</th>'
        if layout.budget_head:
            names += f'<td class="n">{escape(row.budget)}</td>'
        lines.append(f"<tr{kind}>{names}{''.join(_cell(cell) for cell in row.cells)}</tr>")
    lines.append("</tbody></table></div>")
    if layout.footnotes:
        notes = "".join(f"<li>{escape(note)}</li>" for note in layout.footnotes)
        lines.append(f'<ol class="notes">{notes}</ol>')
    lines += [f'<p class="notes">{escape(line)}</p>' for line in layout.protocols]
    if has_marks(layout):
        lines.append(f'<p class="notes">{escape(LEGEND)}</p>')
    return "\n".join(lines) + "\n"


def protocols_html(scores: Sequence[Score]) -> str:
    """Return one collapsed record per protocol: its fields, and what else the scores carry."""
    parts = []
    for protocol in dict.fromkeys(score.protocol for score in scores):
        of_it = [score for score in scores if score.protocol == protocol]
        rows = [(f.name, getattr(protocol, f.name)) for f in dataclasses.fields(Protocol)]
        rows += [("items", value) for value in dict.fromkeys(one.items for one in of_it) if value]
        rows += [("seed", value) for value in dict.fromkeys(one.seed for one in of_it)]
        rows += _merged("weights", of_it) + _merged("options", of_it) + _merged("versions", of_it)
        ran = dict.fromkeys((score.device, score.dtype) for score in of_it)
        rows += [("ran on", f"{device}, {dtype}") for device, dtype in ran]
        metrics = ", ".join(dict.fromkeys(one.title or one.metric for one in of_it))
        parts.append(_record(f"{protocol.name}: {metrics}", rows))
    return "".join(parts)


def contestants_html(files: Sequence[ScoreFile]) -> str:
    """Return one collapsed record per contestant that the files describe in their extras."""
    parts = []
    for file in files:
        described = file.extras.get("contestants")
        for contestant, facts in described.items() if isinstance(described, Mapping) else ():
            if isinstance(facts, Mapping) and facts:
                parts.append(_record(f"Contestant {contestant}", list(facts.items())))
    return "".join(parts)


def _record(title: str, rows: Sequence[tuple[Any, Any]]) -> str:
    body = "".join(
        f'<tr><th scope="row">{escape(one_line(str(name)))}</th>'
        f"<td>{escape(one_line('-' if value is None else str(value)))}</td></tr>"
        for name, value in rows
    )
    return (
        f"<details><summary>{escape(one_line(title))}</summary>"
        f'<div class="wide"><table class="record"><tbody>{body}</tbody></table></div></details>\n'
    )


def _merged(name: str, scores: Iterable[Score]) -> list[tuple[str, Any]]:
    """Return every different value under every key, with whose it is."""
    found: dict[tuple[str, str], None] = {}
    for score in scores:
        # Options belong to a metric, the contestant's own weights to a contestant.
        for key, value in getattr(score, name).items():
            whose = score.metric if name == "options" else ""
            if key == "contestant":
                whose = score.contestant
            label = f"{name}: {f'{whose}, ' if whose else ''}{key}"
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            found.setdefault((label, text))
    return list(found)


def _cell(cell: Cell) -> str:
    text = escape(cell.text)
    if cell.mark:
        tag = "strong" if cell.mark == "best" else "u"
        text = f"<{tag}>{text}</{tag}>"
    spread = f' <span class="spread">{escape(cell.spread)}</span>' if cell.spread else ""
    return f'<td class="n">{text}{spread}{_notes(cell.notes)}</td>'


def _notes(notes: Sequence[int]) -> str:
    listed = ",".join(str(number) for number in notes)
    return f"<sup>{listed}</sup>" if listed else ""
