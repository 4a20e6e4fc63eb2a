"""Scores by column and row: one column per metric, more where its scores may differ.

    scores ──metric──▶ ──allowed differences──▶ columns, each with a score by (contestant, budget)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from eval.comparable import field_value, is_allowed, unlike
from eval.score import Score, ScoreFile, is_ground_truth
from eval.shown_number import one_line, plain_number
from eval.table_columns import Wanted, in_order
from tok_core.errors import ConfigError


class RowKey(NamedTuple):
    """What makes a row: one contestant at one budget."""

    contestant: str
    budget: float | None
    budget_name: str


@dataclass
class ScoreColumn:
    """The scores of one column: metric, title, unit, what sets it apart, decimals (None leaves
    them to the numbers), score by row."""

    metric: str
    title: str
    unit: str
    direction: str
    kind: str = ""
    label: str = ""
    digits: int | None = None
    scores: dict[Any, Score] = field(default_factory=dict)


def score_columns(
    files: Sequence[ScoreFile], wanted: Wanted | None, *, allow: Sequence[str] = ()
) -> list[ScoreColumn]:
    """Return the scores by column; a metric with allowed differences has several.

    Raises:
        ConfigError: two scores for one contestant and budget in one column.
    """
    by_metric: dict[str, list[tuple[Score, str]]] = {}
    for place, file in enumerate(files):
        where = str(file.path or f"file {place + 1}")
        for score in file.scores:
            by_metric.setdefault(score.metric, []).append((score, where))
    if wanted is None:
        wanted = in_order(by_metric)
    groups = []
    for title, metrics, digits in wanted.columns:
        metric = next((one for one in metrics if one in by_metric), None)
        if metric is None:
            groups.append(ScoreColumn(title, title, "", "none"))
            continue
        for group in _split(by_metric[metric], allow):
            group.digits = digits
            if wanted.retitled:
                group.metric, group.title, group.unit = title, title, ""
            groups.append(group)
    _tell_apart(groups)
    return groups


def _tell_apart(groups: Sequence[ScoreColumn]) -> None:
    """Add the metric's name where two metrics have one title, such as two kinds of SSIM."""
    metrics: dict[str, set[str]] = {}
    for group in groups:
        metrics.setdefault(group.title, set()).add(group.metric)
    for group in groups:
        if len(metrics[group.title]) > 1:
            group.title = f"{group.title} {one_line(group.metric)}"


def _split(found: Sequence[tuple[Score, str]], allow: Sequence[str]) -> list[ScoreColumn]:
    told = [score for score, _ in found if score.value is not None]
    fields = dict.fromkeys(
        one.field for other in told[1:] for one in unlike(told[0], other)
        if is_allowed(one.field, allow)
    )  # fmt: skip
    groups: dict[str, ScoreColumn] = {}
    places: dict[tuple[str, RowKey], str] = {}
    # Scores with a number make the columns; those without one join them.
    for score, where in sorted(found, key=lambda pair: pair[0].value is None):
        label = ", ".join(f"{name} {_label(field_value(score, name))}" for name in fields)
        if score.value is None and label not in groups and groups:
            label = next(iter(groups))
        key = row_key(score)
        if label not in groups:
            title, unit = one_line(score.title or score.metric), one_line(score.unit)
            groups[label] = ScoreColumn(
                score.metric, title, unit, score.direction, score.kind, label
            )
        if key in groups[label].scores:
            if score.value is None and fields:
                continue  # its column holds the number measured in another way
            raise _twice(score, places[label, key], where)
        groups[label].scores[key] = score
        places[label, key] = where
    return list(groups.values())


def _twice(score: Score, first: str, second: str) -> ConfigError:
    budget = f" at {budget_text(row_key(score), named=False)}" if score.budget is not None else ""
    both = first if first == second else f"{first} and {second}"
    return ConfigError(
        f"'{one_line(score.contestant)}'{budget} has two scores for {score.metric} ({both}); leave "
        "one file out, or give the contestants different names."
    )


def row_keys(scores: Sequence[Score], groups: Sequence[ScoreColumn]) -> list[RowKey]:
    """Return the rows in order of appearance, the ground truth first."""
    kept = {key for group in groups for key in group.scores}
    keys = [key for key in dict.fromkeys(row_key(score) for score in scores) if key in kept]
    return sorted(keys, key=lambda key: not is_ground_truth(key.contestant))


def row_key(score: Score) -> RowKey:
    """Return the row that a score stands in."""
    return RowKey(score.contestant, score.budget, score.budget_name)


def budget_text(key: RowKey, *, named: bool) -> str:
    """Return a budget for reading; named: whether the head of its column says what it counts."""
    if key.budget is None:
        return ""
    number = plain_number(key.budget)
    return number if named else one_line(f"{key.budget_name} {number}")


def column_title(group: ScoreColumn) -> str:
    """Return the head of a column: title, unit, and what sets it apart."""
    unit = f" ({group.unit})" if group.unit else ""
    return group.title + unit + (f" [{group.label}]" if group.label else "")


def _label(value: Any) -> str:
    text = one_line("not set" if value in (None, "") else str(value))
    long_hash = len(text) >= 32 and all(letter in "0123456789abcdef" for letter in text)
    return text[:8] if long_hash else text
