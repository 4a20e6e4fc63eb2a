"""What every program of the suite does at its edge: a mistake becomes a sentence and an exit code.

Nothing is imported up here that takes time, so that Ctrl-C is answered from the first moment on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

STOPPED = "stopped; what was finished is kept"


def run_command(
    load_app: Callable[[], Any], program: str, arguments: Sequence[str] | None = None
) -> int:
    """Run a command line and return the exit code: 0 done, 1 mistake, 2 usage, 130 Ctrl-C.

    Args:
        load_app: imports and returns the typer app; runs inside, so that its errors count too.
        program: its name in usage lines; the first word of it stands before sentences.
        arguments: words after the program's name; None takes those of this process.

    Example:
        >>> run_command(lambda: app, "tessera", ["--help"])  # doctest: +SKIP
        0
    """
    from tok_core.errors import TesseraError

    try:
        result = load_app()(args=arguments, prog_name=program, standalone_mode=False)
        return result if isinstance(result, int) else 0
    except TesseraError as error:
        return say(str(error), 1)
    except KeyboardInterrupt:
        return say(STOPPED, 130)
    except BrokenPipeError:
        return _reader_left()
    except OSError as error:
        return say(f"{error.filename or 'the system'}: {error.strerror or error}", 1)
    except Exception as error:
        return _usage(error)


def say(sentence: str, code: int = 0) -> int:
    """Print one line for people, on stderr, and return the code."""
    print(f"tessera: {' '.join(sentence.split())}", file=sys.stderr, flush=True)
    return code


def _usage(error: Exception) -> int:
    """Let typer show a wrong command line; its classes moved between releases, their shape not."""
    if type(error).__name__ == "Abort":
        return say(STOPPED, 130)
    if not (hasattr(error, "show") and hasattr(error, "exit_code")):
        raise error
    error.show()
    return int(error.exit_code)


def _reader_left() -> int:
    """End quietly when the reader of our output (head, less) went away."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
