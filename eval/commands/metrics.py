"""``eval metrics``: which metrics there are, and what those that cannot run here lack."""

from __future__ import annotations

from typing import Annotated

import typer


def metrics(
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> int:
    """List every metric: ready, or the package or weight file that is missing and where it goes.

    Metrics that need nothing from outside are ready by themselves.
    """
    import json as json_module

    from eval.readiness import readiness

    rows = readiness()
    if json:
        print(json_module.dumps([row._asdict() for row in rows], indent=2))
        return 0
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for head in ("metric", "of", "kind", "better", "state"):
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(row.name, row.sense, row.kind, row.better, row.state)
    Console(width=None if _terminal() else 160, markup=False, highlight=False).print(table)
    reasons = dict.fromkeys(row.reason for row in rows if row.reason)
    for reason in reasons:
        names = ", ".join(row.name for row in rows if row.reason == reason)
        print(f"{names}: {reason}\n")
    return 0


def _terminal() -> bool:
    import sys

    return sys.stdout.isatty()
