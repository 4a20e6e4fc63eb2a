"""The verbs of the command line put together; heavy imports stay inside the commands."""

from __future__ import annotations

from typing import Annotated

import typer

import tessera
from tessera.commands import (
    bench,
    calibrate,
    decode,
    demo,
    encode,
    eval,
    generate,
    import_,
    info,
    reconstruct,
    tokenize,
    train,
)

app = typer.Typer(
    name="tessera",
    help="Turn images and sound into tokens and back; train and measure the tokenizers that do it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("encode")(encode.encode)
app.command("decode")(decode.decode)
app.command("reconstruct")(reconstruct.reconstruct)
app.command("info")(info.info)
app.command("tokenize")(tokenize.tokenize)
app.command("train", context_settings=train.PASS_ON)(train.train)
app.command("generate")(generate.generate)
app.command("eval", context_settings=eval.PASS_ON)(eval.evaluate)
app.command("import")(import_.import_checkpoint)
app.command("calibrate")(calibrate.calibrate)
app.command("demo")(demo.demo)
app.command("bench", context_settings=bench.PASS_ON)(bench.bench)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tessera {tessera.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it and stop.")
    ] = False,
) -> None:
    pass
