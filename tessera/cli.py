"""Entry point of the ``tessera`` command: whatever happens becomes a sentence and an exit code.

Nothing is imported up here that takes time, so that Ctrl-C is answered from the first moment on.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NoReturn


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code: 0 done, 1 mistake, 2 usage, 130 Ctrl-C.

    Args:
        arguments: words after ``tessera``; None takes those of this process.
    """
    from tok_core.command_line import run_command

    return run_command(_app, "tessera", arguments)


def _app() -> Any:
    from tessera.app import app

    return app


def main() -> NoReturn:
    """Run the ``tessera`` script."""
    try:
        from tok_core.warm_memory import keep_memory_warm

        keep_memory_warm()  # this process is ours, and it decodes batch after batch
        code = run()
    except KeyboardInterrupt:  # in the moment before or after the work
        from tok_core.command_line import STOPPED, say

        code = say(STOPPED, 130)
    sys.exit(code)


if __name__ == "__main__":
    main()
