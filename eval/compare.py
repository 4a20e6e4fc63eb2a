"""Compare: several score files in one table, unless their scores are unlike.

A table that puts numbers of two protocols into one column says something false; this one names
the field in which they differ, or, where that is allowed, gives each its own column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from eval.comparable import check_fields, is_allowed, unlike
from eval.score import Score, ScoreFile
from eval.shown_number import one_line
from eval.table_columns import wanted_columns
from eval.table_layout import TableLayout, lay_out
from tok_core.errors import ConfigError


def compare(
    files: Sequence[ScoreFile | str | Path],
    *,
    columns: str | Sequence[str] | None = None,
    allow: Sequence[str] = (),
    spread: str = "",
) -> TableLayout:
    """Put several score files into one table.

    Args:
        files: score files, or paths of them.
        columns, spread: see `eval.table_layout.lay_out`.
        allow: fields that may differ (``crop``, ``items``, ``seed``, ``options.NAME``); scores
            that do so stand in columns of their own, labelled with the field.

    Returns:
        The table; `eval.table.print_layout` and `eval.table.format_named` draw it.

    Raises:
        ConfigError: unlike scores of one metric (which field, in which files), one contestant
            twice at one budget, no scores, a file that cannot be read, an unknown field.

    Example:
        >>> print_layout(compare(["titok.json", "jpeg.json"]))  # doctest: +SKIP
    """
    read = [one if isinstance(one, ScoreFile) else ScoreFile.read(one) for one in files]
    refuse_unlike(read, columns=columns, allow=allow)
    return lay_out(read, columns=columns, allow=allow, spread=spread)


def by_sense(
    files: Sequence[ScoreFile | str | Path], columns: str | Sequence[str] | None = None
) -> list[tuple[list[ScoreFile], str | Sequence[str] | None]]:
    """Split files into those of pictures and those of sound: no column could hold both.

    Args:
        files: score files, or paths of them. columns: wanted of all of them, as `compare` takes.

    Returns:
        For each sense that has scores of the wanted columns, its files and its columns.

    Raises:
        ConfigError: a file that cannot be read, a column without a score.
    """
    read = [one if isinstance(one, ScoreFile) else ScoreFile.read(one) for one in files]
    scores = [score for file in read for score in file.scores]
    senses = list(dict.fromkeys(score.protocol.sense for score in scores))
    if len(senses) < 2:
        return [(read, columns)]
    wanted_columns(columns, scores)
    parts: list[tuple[list[ScoreFile], str | Sequence[str] | None]] = []
    for sense in senses:
        ours = [_of_sense(file, sense) for file in read]
        there = {score.metric for file in ours for score in file.scores}
        kept = columns
        if columns is not None and not isinstance(columns, str):
            kept = [name for name in columns if name in there]
            if not kept:
                continue
        if columns != "dates" or sense == "audio":
            parts.append(([file for file in ours if file.scores], kept))
    return parts


def _of_sense(file: ScoreFile, sense: str) -> ScoreFile:
    found = tuple(score for score in file.scores if score.protocol.sense == sense)
    return replace(file, scores=found)


def refuse_unlike(
    files: Sequence[ScoreFile],
    *,
    columns: str | Sequence[str] | None = None,
    allow: Sequence[str] = (),
) -> None:
    """Raise ConfigError where one column would hold scores that differ in a field.

    The sentence names the field, both values, both contestants and both files.
    """
    allowed = check_fields(allow)
    wanted = wanted_columns(columns, [score for file in files for score in file.scores])
    shown = None if wanted is None else {name for one in wanted.columns for name in one.metrics}
    by_metric: dict[str, list[tuple[Score, str]]] = {}
    for place, file in enumerate(files):
        where = str(file.path or f"file {place + 1}")
        for score in file.scores:
            if score.value is not None and (shown is None or score.metric in shown):
                by_metric.setdefault(score.metric, []).append((score, where))
    for metric, found in by_metric.items():
        one, first = found[0]
        for other, second in found[1:]:
            fields = [d for d in unlike(one, other) if not is_allowed(d.field, allowed)]
            if not fields:
                continue
            names = [difference.field for difference in fields]
            more = f" (so do {', '.join(names[1:])})" if len(fields) > 1 else ""
            raise ConfigError(
                f"{metric} cannot stand in one column: {one_line(str(fields[0]))}{more}, between "
                f"'{one_line(one.contestant)}' of {first} and '{one_line(other.contestant)}' of "
                f"{second}; measure both alike, or give each its own column with --allow "
                f"{','.join(names)}"
            )
