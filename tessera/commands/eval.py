"""``tessera eval``: the judge, in this process."""

from __future__ import annotations

import typer

PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def evaluate(context: typer.Context) -> int:
    """Measure tokenizers and codecs in one table (see tessera eval --help for its verbs).

    [bold]tessera eval recon --tokenizer one-d-piece-tiny jpeg webp --data photos/[/bold]
    """
    from eval.cli import run

    return run(list(context.args) or ["--help"], program="tessera eval")
