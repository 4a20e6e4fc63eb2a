"""Which columns a table shows and in which order: all, some by name, or a named order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from eval.score import Score
from tok_core.errors import ConfigError, nearest

NAMED = ("dates",)


class WantedColumn(NamedTuple):
    """One column: its title, the metrics that may fill it (the first that has scores does), and
    its decimals; None leaves them to the numbers."""

    title: str
    metrics: tuple[str, ...]
    digits: int | None = None


@dataclass(frozen=True)
class Wanted:
    """Columns in their order.

    Args:
        columns: one by one.
        contestant_head, budget_head: heads of the first columns, where they are fixed.
        budget_names: what budgets may count to be shown; () for anything.
        retitled: whether the titles here replace those of the scores.
    """

    columns: tuple[WantedColumn, ...]
    contestant_head: str = "contestant"
    budget_head: str = ""
    budget_names: tuple[str, ...] = ()
    retitled: bool = False


def wanted_columns(columns: str | Sequence[str] | None, scores: Sequence[Score]) -> Wanted | None:
    """Return the columns asked for; None for all.

    Args:
        columns: metrics by name, or the name of an order. scores: that there are.

    Raises:
        ConfigError: a metric without a score, or an unknown order.
    """
    if columns is None:
        return None
    if isinstance(columns, str):
        if columns == "dates":
            return _dates(list(dict.fromkeys(score.metric for score in scores)))
        raise ConfigError(
            f"the order of columns '{columns}' is unknown{nearest(columns, NAMED)}; legal are "
            f"{', '.join(NAMED)}, or a list of metrics"
        )
    there = list(dict.fromkeys(score.metric for score in scores))
    for name in columns:
        if name not in there:
            raise ConfigError(
                f"a column '{name}' was asked for, of which there is no score"
                f"{nearest(str(name), there)}; there are {', '.join(there)}"
            )
    if not columns:
        raise ConfigError(f"no column was asked for; there are {', '.join(there)}.")
    return in_order(columns)


def in_order(metrics: Iterable[str]) -> Wanted:
    """Return a column for each metric, under its own title."""
    return Wanted(tuple(WantedColumn(name, (name,)) for name in dict.fromkeys(metrics)))


def _dates(there: Sequence[str]) -> Wanted:
    """Return the speech columns of DATES; #Q is the budget of a codec."""
    from eval.dates_table import SPEECH_COLUMNS

    first, budget, *others = SPEECH_COLUMNS
    columns = tuple(
        WantedColumn(one.title, (one.metric, *_variants(one.metric, there)), one.digits)
        for one in others
    )
    return Wanted(columns, contestant_head=first.title, budget_head=budget.title, retitled=True,
                  budget_names=("codebooks", "num_codebooks"))  # fmt: skip


def _variants(metric: str, there: Sequence[str]) -> tuple[str, ...]:
    """Return the same measure by another network; the mean of files is another measure of WER."""
    if metric == "wer":
        return ()
    return tuple(name for name in there if name.startswith(f"{metric}/"))
