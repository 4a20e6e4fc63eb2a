"""The verbs of the judge put together; heavy imports stay inside the commands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import typer

from eval.commands import (
    audio,
    compare,
    contribution,
    downstream,
    gen,
    metrics,
    perturbed,
    pfid,
    plot,
    probe,
    published,
    rd,
    recon,
    report,
    statistics,
)
from eval.options import spread_words

app = typer.Typer(
    name="eval",
    help="Measure tokenizers and codecs: one table, every number with its protocol.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("recon")(recon.recon)
app.command("audio")(audio.audio)
app.command("gen")(gen.gen)
app.command("statistics")(statistics.statistics)
app.command("pfid")(pfid.pfid)
app.command("perturbed")(perturbed.perturbed)
app.command("rd")(rd.rd)
app.command("downstream")(downstream.downstream)
app.command("probe")(probe.probe)
app.command("contribution")(contribution.contribution)
app.command("compare")(compare.compare)
app.command("plot")(plot.plot)
app.command("report")(report.report)
app.command("published")(published.published)
app.command("metrics")(metrics.metrics)


@app.callback()
def _options() -> None:
    pass


def run(arguments: Sequence[str] | None = None, *, program: str = "eval") -> int:
    """Run the judge's command line and return the exit code: 0 done, 1 mistake, 2 usage, 3 a
    required metric could not be had, 130 Ctrl-C.

    Args:
        arguments: words after the program's name; None takes those of this process.
        program: as usage lines call it.
    """
    import os
    import sys

    from tok_core.command_line import run_command

    if os.getcwd() not in sys.path:
        # MODULE:FUNCTION is looked for here, as `python -m` does; an installed script does not.
        sys.path.append(os.getcwd())
    words = list(sys.argv[1:] if arguments is None else arguments)
    return run_command(_app, program, spread_words(words))


def _app() -> Any:
    return app


def main() -> NoReturn:
    """Run ``python -m eval``."""
    import sys

    from tok_core.warm_memory import keep_memory_warm

    try:
        keep_memory_warm()
        code = run(program="python -m eval")
    except KeyboardInterrupt:
        from tok_core.command_line import STOPPED, say

        code = say(STOPPED, 130)
    sys.exit(code)
