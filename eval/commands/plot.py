"""``eval plot``: score files as a picture."""

from __future__ import annotations

from typing import Annotated

import typer

from eval import options as o
from eval.commands.compare import Files

Kind = Annotated[
    str,
    typer.Option("--kind", metavar="rd|budget|usage|settings",
                 help="Metric over rate, over budget, histograms of codes, perturbed settings."),
]  # fmt: skip
X = Annotated[
    str | None, typer.Option("--x", metavar="RATE", help="Over this.", show_default="the first")
]
Y = Annotated[
    str | None, typer.Option("--y", metavar="METRIC", help="Draw this.", show_default="the first")
]
Target = Annotated[
    str, typer.Option("--out", "-o", metavar="FILE", help="The picture: .png, .svg or .pdf.")
]


def plot(
    files: Files,
    out: Target = "plot.png",
    kind: Kind = "rd",
    x: X = None,
    y: Y = None,
    title: Annotated[str, typer.Option("--title", help="Above the plot.")] = "",
    force: o.Force = False,
) -> int:
    """Draw scores: rate-distortion, per-budget curves, usage histograms, perturbed settings.

    [bold]eval plot results/rd.json --y lpips/vgg -o rd.svg[/bold]
    """
    from eval.plots import plot as draw
    from eval.score import ScoreFile
    from eval.session import check_target
    from tok_core.command_line import say

    check_target(out, force=force, endings=(".png", ".svg", ".pdf"))
    read = [ScoreFile.read(path) for path in o.globbed(files)]
    given = {"x": x, "y": y, "title": title}
    options = {key: value for key, value in given.items() if value}
    say(f"wrote {draw(read, out, kind=kind, force=force, **options)}")
    return 0
