"""The scripts in benchmarks/, which are no package, as modules, and the JSON they committed."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


def benchmark(name: str) -> Any:
    """Import a benchmark script by name; the scripts import each other by bare names."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    return importlib.import_module(name)


def committed_result(name: str) -> dict[str, Any]:
    """Return what a benchmark has kept, empty where it has not run."""
    path = FOLDER / "results" / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return found


def row_of(found: Mapping[str, Any], **facts: Any) -> dict[str, Any] | None:
    """Return the row of a result with these facts, None where there is none."""
    rows: list[dict[str, Any]] = found.get("rows", [])
    fitting = (row for row in rows if all(row[name] == value for name, value in facts.items()))
    return next(fitting, None)


def holds_all(
    found: Mapping[str, Any], name: str, values: Iterable[Any], seeds: Iterable[int]
) -> bool:
    """Return whether a result has a row of every value and seed."""
    wanted = [{name: value, "seed": seed} for seed in seeds for value in values]
    return all(row_of(found, **facts) is not None for facts in wanted)


def source(name: str) -> str:
    """Return the name of that file as documents show it."""
    return f"benchmarks/results/{name}.json"
