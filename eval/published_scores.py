"""Published tables as score files, so that they stand beside what was measured here.

Nothing of them was measured here: contestants carry the word "published", scores no hash of items,
and `eval.compare` names the fields in which they differ from ours.
"""

from __future__ import annotations

from collections.abc import Sequence

from eval.dates_table import COLUMNS, Column, PublishedRow, known_problems, published_rows
from eval.protocol import protocol_named
from eval.score import GROUND_TRUTH, Score, ScoreFile
from tok_core.errors import ConfigError, nearest

PUBLISHED = ("dates-speech",)
_RATES = ("kbps/nominal", "token_rate")
_ROW = ("tokenizer", "codebooks")  # what a row is, not how it scores


def published_scores(name: str, *, where: Sequence[str] = ()) -> ScoreFile:
    """Return a published table as scores under the protocol of that name.

    Args:
        name: ``dates-speech``, the reconstruction of speech by DATES (arXiv 2506.10274).
        where: of which kinds of tokenizer, each ``axis=word`` of `eval.taxonomy`.

    Raises:
        ConfigError: no such table, or none of its tokenizers is of these kinds.

    Example:
        >>> len(published_scores("dates-speech").scores) > 100
        True
    """
    if name not in PUBLISHED:
        raise ConfigError(
            f"published table '{name}' is unknown; legal are {', '.join(PUBLISHED)}"
            f"{nearest(name, PUBLISHED)}"
        )
    rows = published_rows("speech", where=where)
    columns = [one for one in COLUMNS["speech"] if one.metric and one.key not in _ROW]
    scores = [
        _score(row, column) for row in rows for column in columns if column.key in row.values
    ]
    return ScoreFile(command="published", title=rows[0].source, scores=tuple(scores))


def _score(row: PublishedRow, column: Column) -> Score:
    truth = row.is_ground_truth
    direction = {True: "higher", False: "lower", None: "none"}[column.higher_is_better]
    return Score(
        contestant=GROUND_TRUTH if truth else f"{row.tokenizer} (published)",
        budget=row.values.get("codebooks"), budget_name="" if truth else "codebooks",
        metric=column.metric, title=column.title, direction=direction,
        kind="rate" if column.metric in _RATES else "paired",
        value=row.values[column.key], protocol=protocol_named(row.protocol),
        warnings=known_problems("speech") if "WT-S" in row.tokenizer else (),
    )  # fmt: skip
