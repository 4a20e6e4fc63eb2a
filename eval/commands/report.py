"""``eval report``: one self-contained HTML page of score files."""

from __future__ import annotations

from typing import Annotated

import typer

from eval import options as o
from eval.commands.compare import Allow, Files, Spread

Target = Annotated[str, typer.Option("--out", "-o", metavar="FILE.html", help="The page.")]


def report(
    files: Files,
    out: Target = "report.html",
    title: Annotated[str, typer.Option("--title", help="Of the page.")] = "",
    columns: o.Columns = None,
    allow: Allow = None,
    spread: Spread = "",
    force: o.Force = False,
) -> int:
    """Write a page with tables, plots, pictures and sound players that needs no other file.

    Pictures and sounds come from runs with --samples N.

    [bold]eval report results/recon.json -o report.html[/bold]
    """
    from eval.html_report import write_report
    from eval.score import ScoreFile
    from eval.session import check_target, column_order
    from tok_core.command_line import say

    check_target(out, force=force, endings=(".html", ".htm"))
    read = [ScoreFile.read(path) for path in o.globbed(files)]
    path = write_report(
        read, out, force=force, title=title, columns=column_order(o.listed(columns)),
        allow=o.listed(allow) or (), spread=spread,
    )  # fmt: skip
    say(f"wrote {path}")
    return 0
