"""What a run says while it works: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

# Beginnings of the names worth a place on one line; metrics.jsonl and the tracker hold them all.
SHOWN = ("loss", "discriminator/hinge", "codebook/perplexity")


class TrainingProgress:
    """Shows step, throughput, time left and the losses.

    Args:
        steps: optimizer steps of the whole run.
        done: steps done before (a resumed run).
        unit: what a sample is called ("images").
        quiet: say nothing (all processes but the main one).

    Example:
        >>> with TrainingProgress(steps=100, done=0, unit="images") as progress:
        ...     progress.advance(1, samples=32)  # doctest: +SKIP
    """

    def __init__(self, *, steps: int, done: int, unit: str, quiet: bool = False) -> None:
        from rich.console import Console

        self.console = Console(quiet=quiet)
        self.steps = steps
        self.unit = unit
        self.samples = 0
        self.busy = 0.0
        self.rate = 0.0
        self.seconds_left = 0.0
        self.step = self._counted = done
        self._bar: Any = None
        self._live: Any = None
        if self.console.is_terminal and not quiet:
            self._draw_bar()

    def _draw_bar(self) -> None:
        """A bar, and under it a line for the losses, which need the whole width."""
        from rich.console import Group
        from rich.live import Live
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.text import Text

        self._bar = Progress(
            TextColumn("step"), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn(),
            TextColumn("left  {task.fields[rate]}"), console=self.console,
        )
        self._task = self._bar.add_task("train", total=self.steps, completed=self.step, rate="")
        self._text = Text(no_wrap=True, overflow="ellipsis")
        self._live = Live(Group(self._bar, self._text), console=self.console, refresh_per_second=4)

    def __enter__(self) -> TrainingProgress:
        if self._live:
            self._live.start()
        self._since = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()

    def advance(self, step: int, samples: int) -> None:
        """One optimizer step more, over ``samples`` samples of all processes."""
        now = time.perf_counter()
        self.busy += now - self._since
        self._since = now
        self.samples += samples
        self.step = step
        if self._bar:
            self._bar.update(self._task, completed=step)

    def throughput(self) -> float:
        """Samples per second since the last call, pauses not counted."""
        if self.busy > 0 and self.step > self._counted:
            self.rate = self.samples / self.busy
            per_step = self.busy / (self.step - self._counted)
            self.seconds_left = (self.steps - self.step) * per_step
        self.samples, self.busy, self._counted = 0, 0.0, self.step
        return self.rate

    def resume_clock(self) -> None:
        """Do not count what happened since the last step (validation, saving) as training."""
        self._since = time.perf_counter()

    def losses(self, values: Mapping[str, float]) -> None:
        """Show the losses of this step, with throughput and time left."""
        terms = "  ".join(
            f"{name.removeprefix('loss/')} {value:.4g}"
            for name, value in sorted(values.items(), key=lambda item: item[0] != "loss")
            if name.startswith(SHOWN)
        )
        rate = f"{self.rate:.1f} {self.unit}/s"
        if self._live:
            self._bar.update(self._task, rate=rate)
            self._text.plain = terms
        else:
            left = _duration(self.seconds_left)
            self.say(f"step {self.step}/{self.steps}  {rate}  {terms}  {left} left")

    def say(self, sentence: str) -> None:
        """Print one line, above the bar when there is one."""
        self.console.print(sentence, highlight=False, soft_wrap=True, markup=False)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
