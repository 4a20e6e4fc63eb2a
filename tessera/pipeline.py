"""Read, run and write files at once: threads read and write while the network works.

    files --read (threads)--> signals --work (this thread, batches)--> results --write (threads)-->

Results keep the order of the files.  A file that cannot be read is reported and left out; a disk
that cannot be written ends the run; Ctrl-C ends it too.  Whatever was finished stays.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from tessera.files import Job
from tok_core.errors import TesseraError

S = TypeVar("S")  # a signal as read
R = TypeVar("R")  # what the network made of it
Row = dict[str, Any]  # one line of the table and of the JSON output


@dataclass(frozen=True)
class Steps(Generic[S, R]):
    """What a command does with one file.

    Args:
        read: file to signal; runs in threads, raises TesseraError for a bad file.
        work: batch of signals to one result (or one TesseraError) each; runs in this thread.
        write: job, signal and result to a row of the table; runs in threads.
        weight: how many network inputs a signal is; batches are filled by weight.
        ahead: most signals read and not yet used; None means one batch beyond the current one.
    """

    read: Callable[[Path], S]
    work: Callable[[list[S]], Sequence[R | TesseraError]]
    write: Callable[[Job, S, R], Row]
    weight: Callable[[S], int]
    ahead: int | None = None


@dataclass
class Report:
    """What happened: rows in file order, failures, and where the time went (seconds)."""

    rows: list[Row] = field(default_factory=list)
    failures: list[tuple[Path, str]] = field(default_factory=list)
    seconds: float = 0.0
    model_seconds: float = 0.0
    inputs: int = 0
    model_files: int = 0
    interrupted: bool = False
    stopped: str | None = None

    @property
    def files_per_second(self) -> float:
        """Files finished per second of the whole run, reading and writing included."""
        return len(self.rows) / self.seconds if self.seconds else 0.0

    @property
    def model_files_per_second(self) -> float:
        """Files per second of network time alone: what no pipeline can exceed."""
        return self.model_files / self.model_seconds if self.model_seconds else 0.0

    @property
    def exit_code(self) -> int:
        """0 when every file is done, 130 after Ctrl-C, else 1."""
        return 130 if self.interrupted else int(bool(self.failures or self.stopped))

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return {
            "files": self.rows,
            "failures": [{"source": str(path), "error": text} for path, text in self.failures],
            "seconds": round(self.seconds, 4),
            "files_per_second": round(self.files_per_second, 3),
            "model_only_files_per_second": round(self.model_files_per_second, 3),
            "interrupted": self.interrupted,
            "stopped": self.stopped,
        }


def run(
    jobs: Sequence[Job],
    steps: Steps[S, R],
    *,
    batch_size: int,
    threads: int | None = None,
    advance: Callable[[int], None] = lambda files: None,
) -> Report:
    """Run every job and return the report; user errors and Ctrl-C end up in it, not as exceptions.

    Args:
        jobs: input and output files, in the order of the report.
        steps: read, work and write.
        batch_size: network inputs per call.
        threads: readers; None takes as many as there are cores, at most 8 and at least 2.
        advance: told the number of files finished, for a progress bar.

    Example:
        >>> report = run(jobs, steps, batch_size=16)  # doctest: +SKIP
        >>> report.exit_code                          # doctest: +SKIP
        0
    """
    return _Run(jobs, steps, batch_size, threads or min(8, max(2, os.cpu_count() or 2)), advance)()


class _Run(Generic[S, R]):
    def __init__(
        self,
        jobs: Sequence[Job],
        steps: Steps[S, R],
        batch_size: int,
        threads: int,
        advance: Callable[[int], None],
    ) -> None:
        self.jobs, self.steps, self.batch_size = jobs, steps, max(1, batch_size)
        self.advance = advance
        self.report = Report()
        self.readers = ThreadPoolExecutor(threads, thread_name_prefix="read")
        self.writers = ThreadPoolExecutor(2, thread_name_prefix="write")
        self.ahead = steps.ahead or self.batch_size + threads
        self.writing: deque[tuple[Job, Future[Row]]] = deque()

    def __call__(self) -> Report:
        start = time.perf_counter()
        try:
            batch: list[tuple[Job, S]] = []
            for job, signal in self._read_all():
                batch.append((job, signal))
                if sum(self.steps.weight(s) for _, s in batch) >= self.batch_size:
                    self._work(batch)
                    batch = []
            self._work(batch)
        except KeyboardInterrupt:
            self.report.interrupted = True
        except _Stop as stop:
            self.report.stopped = str(stop)
        finally:
            self._finish()
        self.report.seconds = time.perf_counter() - start
        return self.report

    def _read_all(self) -> Iterator[tuple[Job, S]]:
        """Yield signals in order while later files are being read; bad files become failures."""
        waiting: deque[tuple[Job, Future[S]]] = deque()
        todo = iter(self.jobs)
        while True:
            while len(waiting) < self.ahead and (job := next(todo, None)) is not None:
                waiting.append((job, self.readers.submit(self.steps.read, job.source)))
            if not waiting:
                return
            job, future = waiting.popleft()
            try:
                yield job, future.result()
            except TesseraError as error:
                self._fail(job, error)

    def _work(self, batch: list[tuple[Job, S]]) -> None:
        if not batch:
            return
        start = time.perf_counter()
        try:
            results = self.steps.work([signal for _, signal in batch])
        except TesseraError as error:
            results = [error] * len(batch)
        except (MemoryError, RuntimeError) as error:
            if "memory" not in str(error).lower() and not isinstance(error, MemoryError):
                raise
            raise _Stop(
                "the memory does not hold this batch; use a smaller --batch-size."
            ) from None
        self.report.model_seconds += time.perf_counter() - start
        self.report.model_files += len(batch)
        self.report.inputs += sum(self.steps.weight(signal) for _, signal in batch)
        for (job, signal), result in zip(batch, results, strict=True):
            if isinstance(result, TesseraError):
                self._fail(job, result)
            else:
                future = self.writers.submit(self.steps.write, job, signal, result)
                self.writing.append((job, future))
        # Two batches may wait for the disk; a slower disk holds the network back, not the memory.
        self._collect(leave=2 * len(batch))

    def _collect(self, leave: int) -> None:
        """Move finished writes into the report, waiting until at most ``leave`` are open."""
        while self.writing and (len(self.writing) > leave or self.writing[0][1].done()):
            job, future = self.writing[0]
            try:
                row = future.result()
            except TesseraError as error:
                self.writing.popleft()
                self._fail(job, error)
                raise _Stop(str(error)) from None
            self.writing.popleft()
            self.report.rows.append(row)
            self.advance(1)

    def _fail(self, job: Job, error: TesseraError) -> None:
        self.report.failures.append((job.source, str(error)))
        self.advance(1)

    def _finish(self) -> None:
        """End the readers, let open writes end whole, and count them."""
        self.readers.shutdown(wait=False, cancel_futures=True)
        if self.report.stopped:
            # The disk failed: what has not begun would fail the same way.
            self.writers.shutdown(wait=True, cancel_futures=True)
            self.writing = deque(item for item in self.writing if not item[1].cancelled())
        while self.writing:
            try:
                self._collect(leave=0)
            except _Stop as stop:
                self.report.stopped = self.report.stopped or str(stop)
            except KeyboardInterrupt:
                self.report.interrupted = True
        self.writers.shutdown(wait=True)


class _Stop(Exception):
    """The run cannot go on; the text is the sentence for the user."""
