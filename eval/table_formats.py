"""A table as CSV, Markdown and LaTeX, all from one layout.

CSV has the numbers in full and nothing else; the others show marks, footnotes and protocols.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable

from eval.table_layout import Cell, Row, TableLayout

LEGEND = "Best in bold, second underlined; the ground truth is not ranked."


def to_csv(layout: TableLayout) -> str:
    """Return comma-separated values: names of metrics, full precision, nothing for no value.

    A spread adds columns: ``metric std``, or ``metric low`` and ``metric high``.
    """
    ends = {"std": ("std",), "interval": ("low", "high")}.get(layout.spread, ())
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    heads = [layout.contestant_head, *([layout.budget_head] if layout.budget_head else [])]
    for column in layout.columns:
        heads += [column.name, *(f"{column.name} {end}" for end in ends)]
    writer.writerow(heads)
    for row in layout.rows:
        fields = [row.contestant, *([row.budget] if layout.budget_head else [])]
        for cell in row.cells:
            fields.append(_full(cell.value))
            fields += [_full(cell.low if end != "high" else cell.high) for end in ends]
        writer.writerow(fields)
    return stream.getvalue()


def to_markdown(layout: TableLayout) -> str:
    """Return a GitHub table: best ``**bold**``, second ``<ins>``, footnotes as a list below."""
    lines = [f"**{_markdown(layout.title)}**", ""] if layout.title else []
    first = _heads(layout, _markdown)
    heads = [
        _markdown(column.head) + _superscripts(column.notes, "<sup>{}</sup>")
        for column in layout.columns
    ]
    lines.append(_piped([*first, *heads]))
    lines.append(_piped([":--"] * len(first) + ["--:"] * len(heads)))
    for row in layout.rows:
        cells = [_cell(cell, _markdown, "**{}**", "<ins>{}</ins>", "<sup>{}</sup>")
                 for cell in row.cells]  # fmt: skip
        lines.append(_piped([*_names(layout, row, _markdown), *cells]))
    below = [f"{place}. {_markdown(note)}" for place, note in enumerate(layout.footnotes, start=1)]
    for part in (below, [f"- {_markdown(line)}" for line in layout.protocols]):
        lines += ["", *part] if part else []
    if has_marks(layout):
        lines += ["", LEGEND]
    return "\n".join(lines) + "\n"


def to_latex(layout: TableLayout) -> str:
    """Return a booktabs table; everything in it is escaped."""
    note = r"\textsuperscript{{{}}}"
    first = _heads(layout, latex)
    heads = [latex(column.head) + _superscripts(column.notes, note) for column in layout.columns]
    lines = [
        r"% needs \usepackage{booktabs}", r"\begin{table}", r"\centering",
        *([rf"\caption{{{latex(layout.title)}}}"] if layout.title else []),
        rf"\begin{{tabular}}{{{'l' * len(first)}{'r' * len(heads)}}}", r"\toprule",
        _ampersands([*first, *heads]), r"\midrule",
    ]  # fmt: skip
    for place, row in enumerate(layout.rows):
        cells = [_cell(cell, latex, r"\textbf{{{}}}", r"\underline{{{}}}", note)
                 for cell in row.cells]  # fmt: skip
        lines.append(_ampersands([*_names(layout, row, latex), *cells]))
        more = place + 1 < len(layout.rows)
        if row.ground_truth and more and not layout.rows[place + 1].ground_truth:
            lines.append(r"\midrule")
    lines += [r"\bottomrule", r"\end{tabular}"]
    below = [rf"\textsuperscript{{{place}}}~{latex(text)}"
             for place, text in enumerate(layout.footnotes, start=1)]  # fmt: skip
    below += [latex(line) for line in layout.protocols]
    if has_marks(layout):
        below.append(latex(LEGEND))
    if below:
        lines += ["", r"\smallskip", r"\begin{minipage}{\linewidth}\footnotesize"]
        lines += [*(line + r"\par" for line in below), r"\end{minipage}"]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "%": r"\%", "_": r"\_", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", "±": r"$\pm$",
    # A bracket after the end of a row would be read as its option.
    "[": "{[}", "]": "{]}", "`": r"\textasciigrave{}", "'": r"\textquotesingle{}",
    "-": "-", "×": r"$\times$", "²": r"\textsuperscript{2}",
}  # fmt: skip


def latex(text: str) -> str:
    """Escape text for LaTeX.

    Example:
        >>> latex("50 % of a_b")
        '50 \\\\% of a\\\\_b'
    """
    escaped = "".join(_LATEX.get(letter, letter) for letter in text)
    if re.fullmatch(r"-[\d.]+", escaped):
        return "$-$" + escaped[1:]
    return escaped.replace("--", "-{}-")  # two hyphens would become a dash


def _markdown(text: str) -> str:
    """Escape what Markdown or HTML would read as its own; digits and hyphens inside stay."""
    escaped = re.sub(r"([\\`*_\[\]|~$])", r"\\\1", text)
    escaped = escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"^([#+=-])(?=.)", r"\\\1", escaped)


def has_marks(layout: TableLayout) -> bool:
    """Return whether any value is best."""
    return any(cell.mark for row in layout.rows for cell in row.cells)


def _heads(layout: TableLayout, escape: Callable[[str], str]) -> list[str]:
    heads = [layout.contestant_head, *([layout.budget_head] if layout.budget_head else [])]
    return [escape(head) for head in heads]


def _names(layout: TableLayout, row: Row, escape: Callable[[str], str]) -> list[str]:
    return [escape(row.contestant), *([escape(row.budget)] if layout.budget_head else [])]


def _cell(cell: Cell, escape: Callable[[str], str], best: str, second: str, note: str) -> str:
    text = escape(cell.text)
    if cell.mark:
        text = (best if cell.mark == "best" else second).format(text)
    spread = f" {escape(cell.spread)}" if cell.spread else ""
    return text + spread + _superscripts(cell.notes, note)


def _superscripts(notes: Iterable[int], form: str) -> str:
    listed = ",".join(str(number) for number in notes)
    return form.format(listed) if listed else ""


def _piped(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _ampersands(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _full(value: float | None) -> str:
    return "" if value is None else repr(float(value))
