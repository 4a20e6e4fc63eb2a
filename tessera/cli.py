"""The command line: ``tessera VERB``.  Heavy imports stay inside the commands."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

import tessera
from tessera.commands import bench, decode, demo, encode, import_, info, reconstruct, train

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
app.command("train", context_settings=train.PASS_ON)(train.train)
app.command("import")(import_.import_checkpoint)
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


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code: 0 done, 1 mistake, 2 usage, 130 Ctrl-C.

    Args:
        arguments: words after ``tessera``; None takes those of this process.
    """
    from tok_core.errors import TesseraError

    try:
        result = app(args=arguments, prog_name="tessera", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except TesseraError as error:
        return _say(str(error), 1)
    except (KeyboardInterrupt, typer.Abort):
        return _say("stopped; what was finished is kept", 130)
    except BrokenPipeError:
        # The reader (head, less) went away; the descriptor must not complain at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _say(f"{error.filename or 'the system'}: {error.strerror or error}", 1)
    except Exception as error:
        # Usage errors of typer: its class moved between releases, its two methods did not.
        if not (hasattr(error, "show") and hasattr(error, "exit_code")):
            raise
        error.show()
        return int(error.exit_code)


def _say(sentence: str, code: int) -> int:
    print(f"tessera: {' '.join(sentence.split())}", file=sys.stderr, flush=True)
    return code


def main() -> NoReturn:
    """Entry point of the ``tessera`` script."""
    sys.exit(run())


if __name__ == "__main__":
    main()
