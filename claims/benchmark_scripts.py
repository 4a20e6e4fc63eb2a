"""The scripts in benchmarks/, which are no package, as modules, and the JSON they committed."""

from __future__ import annotations

import importlib
import json
import sys
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


def source(name: str) -> str:
    """Return the name of that file as documents show it."""
    return f"benchmarks/results/{name}.json"
