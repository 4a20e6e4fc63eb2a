"""One bar for long work: how many are done, how fast, how long it will take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(
    total: int, verb: str, *, unit: str = "files", done: int = 0
) -> Iterator[Callable[[int], None]]:
    """Show items done, rate and time left while the block runs (only on a terminal).

    Args:
        total: items of the whole work. verb: what happens to them. unit: what they are.
        done: items that an earlier run finished.

    Yields:
        a function that takes how many more are done.

    Example:
        >>> with progress_bar(100, "measured") as advance:  # doctest: +SKIP
        ...     advance(8)
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    hidden = not console.is_terminal or total < 2
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        task = progress.add_task(verb, total=total, completed=done, rate="")

        def advance(items: int) -> None:
            progress.advance(task, items)
            speed = progress.tasks[0].speed
            progress.update(task, rate=f"{speed:.1f} {unit}/s" if speed else "")

        yield advance
