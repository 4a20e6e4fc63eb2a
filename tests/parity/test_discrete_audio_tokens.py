"""The published rows that travel with the package are those of the reference tables."""

from __future__ import annotations

import json
from typing import Any

import pytest

from eval.dates_table import COLUMNS, known_problems, published_rows
from tests.parity.vectors import PARITY

FOLDER = PARITY / "discrete-audio-tokens"
if not (FOLDER / "reference_tables.json").is_file():
    pytest.skip(f"no reference tables at {FOLDER}", allow_module_level=True)

REFERENCE: dict[str, Any] = json.loads((FOLDER / "reference_tables.json").read_text())
TABLES = [table for table in COLUMNS if f"reconstruction_{table}" in REFERENCE]
ROWS = [
    (table, place) for table in TABLES for place in range(len(REFERENCE[f"reconstruction_{table}"]))
]  # fmt: skip


def test_every_kind_is_there() -> None:
    assert TABLES and ROWS


@pytest.mark.parametrize("table", TABLES)
def test_columns_and_length(table: str) -> None:
    """Their columns are ours in our order, as far as the reference has them."""
    rows = REFERENCE[f"reconstruction_{table}"]
    keys = [column.key for column in COLUMNS[table]]
    for row in rows:
        assert list(row) == [key for key in keys if key in row]
    assert len(published_rows(table)) >= len(rows)


@pytest.mark.parametrize(("table", "place"), ROWS)
def test_figures(table: str, place: int) -> None:
    theirs = REFERENCE[f"reconstruction_{table}"][place]
    wanted = (theirs["tokenizer"], theirs.get("codebooks"))
    matching = [
        row
        for row in published_rows(table)
        if (row.tokenizer, row.values.get("codebooks")) == wanted
    ]
    assert len(matching) == 1
    figures = {k: v for k, v in theirs.items() if k != "tokenizer" and v is not None}
    assert {key: matching[0].values[key] for key in figures} == figures


@pytest.mark.parametrize("problem", REFERENCE.get("known_problems", []))
def test_problems_are_told(problem: str) -> None:
    assert problem in {one for table in TABLES for one in known_problems(table)}
