"""Entry point of the ``tessera`` command: whatever happens becomes a sentence and an exit code.

Nothing is imported up here that takes time, so that Ctrl-C is answered from the first moment on.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code: 0 done, 1 mistake, 2 usage, 130 Ctrl-C.

    Args:
        arguments: words after ``tessera``; None takes those of this process.
    """
    from tok_core.errors import TesseraError

    try:
        from tessera.app import app

        result = app(args=arguments, prog_name="tessera", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except TesseraError as error:
        return _say(str(error), 1)
    except KeyboardInterrupt:
        return _say("stopped; what was finished is kept", 130)
    except BrokenPipeError:
        return _reader_left()
    except OSError as error:
        return _say(f"{error.filename or 'the system'}: {error.strerror or error}", 1)
    except Exception as error:
        return _usage(error)


def _usage(error: Exception) -> int:
    """Let typer show a wrong command line; its classes moved between releases, their shape not."""
    if type(error).__name__ == "Abort":
        return _say("stopped; what was finished is kept", 130)
    if not (hasattr(error, "show") and hasattr(error, "exit_code")):
        raise error
    error.show()
    return int(error.exit_code)


def _reader_left() -> int:
    """End quietly when the reader of our output (head, less) went away."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def _say(sentence: str, code: int) -> int:
    print(f"tessera: {' '.join(sentence.split())}", file=sys.stderr, flush=True)
    return code


def main() -> NoReturn:
    """Run the ``tessera`` script."""
    try:
        from tok_core.warm_memory import keep_memory_warm

        keep_memory_warm()  # this process is ours, and it decodes batch after batch
        code = run()
    except KeyboardInterrupt:  # in the moment before or after the work
        code = _say("stopped; what was finished is kept", 130)
    sys.exit(code)


if __name__ == "__main__":
    main()
