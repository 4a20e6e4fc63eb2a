"""Make parts of token shards: threads read files while the network works.

    sources --read (threads, ahead over all parts)--> signals --network (batches)--> tokens --> part

Runs in the command's own process, or as ``python -m tessera.tokenize_worker`` in several: the job
comes as one line of JSON on stdin, what happens goes out as lines of JSON on stdout, and the end of
stdin (the command was killed) ends the process at once.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple

import torch

from tessera.tokenize_captions import Captions, read_captions
from tessera.tokenize_signals import Signals, open_signals
from tessera.tokenize_sources import Source, read_sources
from tok_core.errors import TesseraError
from tok_core.fast_linear import forget_choices, hold_form
from tok_core.shard_members import Sample
from tok_core.shard_run import SOURCES, ShardRun

_KEPT_BATCHES = 8  # held in memory, to time the network alone on them
_ROUNDS = 3  # most passes over the kept batches

Event = dict[str, Any]  # {"files": n} finished, {"part": n} written, {"stopped": sentence}


class Speed(NamedTuple):
    """What one process can do with the network alone, and what it did in all.

    Amounts are pictures or seconds of sound.
    """

    amount_per_second: float
    files: int
    amount: float


class _Part:
    """A part under way: its sources with their signals, later their tokens; errors stay."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.entries: list[tuple[Source, Any]] = []


class _Batch(NamedTuple):
    """Signals of one call of the network.

    Attributes:
        part: that they belong to. places: of them among the part's entries, perhaps none.
        files: read since the batch before, broken ones included. last: of the part.
    """

    part: _Part
    places: list[int]
    files: int
    last: bool


class _Call(NamedTuple):
    """A batch under way and what `Signals.start` returned for it."""

    batch: _Batch
    signals: list[Any]
    started: Any


class PartMaker:
    """Makes parts of the run under way in this process.

    Args:
        run: the run under way.
        signals: reader and tokenizer.
        threads: that read files.
        captions: store the caption features that lie beside the files.
    """

    def __init__(
        self, run: ShardRun, signals: Signals, *, threads: int, captions: bool = False
    ) -> None:
        self.run, self.signals, self.threads = run, signals, threads
        self.captions = captions
        self._kept: list[list[Any]] = []
        self._files, self._amount = 0, 0.0
        self._writing: deque[tuple[int, Future[None]]] = deque()

    def make(self, parts: Sequence[int]) -> Iterator[Event]:
        """Make parts in order; yield what is done as it is done.

        Raises:
            TesseraError: the disk cannot be written, or the memory does not hold a batch.
        """
        assert self.run.plan is not None
        ranges = [self.run.plan.sources_of(part) for part in parts]
        readers = ThreadPoolExecutor(self.threads, thread_name_prefix="read")
        writer = ThreadPoolExecutor(1, thread_name_prefix="write")
        try:
            read = self._read_ahead(readers, read_sources(self.run.work / SOURCES, ranges))
            running: _Call | None = None
            for part, numbers in zip(parts, ranges, strict=True):
                for batch in self._batches(_Part(part), islice(read, len(numbers))):
                    # The next batch starts before the tokens of the last are fetched, across parts
                    # too: a GPU never waits.
                    call = self._start(batch)
                    yield from self._finish(running, writer)
                    running = call
            yield from self._finish(running, writer)
            yield from self._written(leave=0)
        finally:
            readers.shutdown(wait=False, cancel_futures=True)
            writer.shutdown(wait=False, cancel_futures=True)

    def _read_ahead(
        self, pool: ThreadPoolExecutor, sources: Iterator[Source]
    ) -> Iterator[tuple[Source, Any]]:
        """Yield signals (or errors) in order while later files, also of later parts, are read."""
        waiting: deque[tuple[Source, Future[Any]]] = deque()
        ahead = self.signals.batch_size + self.threads
        while True:
            while len(waiting) < ahead and (source := next(sources, None)) is not None:
                waiting.append((source, pool.submit(self.signals.read, source)))
            if not waiting:
                return
            source, future = waiting.popleft()
            try:
                yield source, future.result()
            except TesseraError as error:
                yield source, error

    def _batches(self, part: _Part, read: Iterator[tuple[Source, Any]]) -> Iterator[_Batch]:
        """Cut a part into batches; which signals share one depends on the files alone."""
        places: list[int] = []
        weight = before = 0
        for source, signal in read:
            if weight >= self.signals.batch_size:
                yield _Batch(part, places, len(part.entries) - before, False)
                places, weight, before = [], 0, len(part.entries)
            part.entries.append((source, signal))
            if not isinstance(signal, TesseraError):
                places.append(len(part.entries) - 1)
                weight += self.signals.weight(signal)
        yield _Batch(part, places, len(part.entries) - before, True)

    def _start(self, batch: _Batch) -> _Call:
        signals = [batch.part.entries[place][1] for place in batch.places]
        if not signals:
            return _Call(batch, [], None)
        self._files += len(signals)
        self._amount += sum(map(self.signals.amount, signals))
        if len(self._kept) < _KEPT_BATCHES:
            self._kept.append(signals)
        return _Call(batch, signals, self._run(signals))

    def _run(self, signals: list[Any]) -> Any:
        try:
            with torch.inference_mode():
                return self.signals.start(signals)
        except TesseraError as error:
            return error
        except (MemoryError, RuntimeError) as error:
            raise _as_sentence(error) from None

    def _finish(self, call: _Call | None, writer: ThreadPoolExecutor) -> Iterator[Event]:
        if call is None:
            return
        part, places, files, last = call.batch
        results: Sequence[Any] = ()
        if isinstance(call.started, TesseraError):
            results = [call.started] * len(places)
        elif places:
            results = self.signals.finish(call.signals, call.started)
        for place, result in zip(places, results, strict=True):
            part.entries[place] = (part.entries[place][0], result)
        if last:
            self._writing.append((part.number, writer.submit(self._write, part)))
        yield {"files": files}
        yield from self._written(leave=2)

    def _written(self, leave: int) -> Iterator[Event]:
        """Yield the parts that are on the disk, waiting until at most ``leave`` are not."""
        while self._writing and (len(self._writing) > leave or self._writing[0][1].done()):
            number, future = self._writing.popleft()
            future.result()
            yield {"part": number}

    def _write(self, part: _Part) -> None:
        samples, skipped = [], []
        for source, result in part.entries:
            try:
                if isinstance(result, TesseraError):
                    raise result
                found = read_captions(source) if self.captions else Captions()
            except TesseraError as error:
                skipped.append({"source": str(source), "error": str(error)})
                continue
            if found.broken is not None:
                skipped.append(found.broken)
            samples.append(Sample(source.key, result, source.label, found.full, found.short))
        self.run.write_part(part.number, samples, skipped)

    def speed(self, seconds: float) -> Speed:
        """Time the network alone on batches of this run that are still in memory.

        Args:
            seconds: begin no further batch after this long; every kept batch runs at least once.
        """
        amount, start = 0.0, time.perf_counter()
        last: tuple[list[Any], Any] | None = None
        for number, signals in enumerate(self._kept * _ROUNDS):
            if number >= len(self._kept) and time.perf_counter() - start > seconds:
                break
            last = signals, self._run(signals)
            amount += sum(map(self.signals.amount, signals))
        if last is not None and not isinstance(last[1], TesseraError):
            self.signals.finish(*last)  # a GPU is done when its codes are here
        passed = time.perf_counter() - start
        return Speed(amount / passed if amount else 0.0, self._files, self._amount)


def _as_sentence(error: Exception) -> Exception:
    if "memory" in str(error).lower() or isinstance(error, MemoryError):
        return TesseraError("the memory does not hold this batch; use a smaller --batch-size")
    return error


@contextmanager
def steady_numbers(device: str) -> Iterator[None]:
    """Compute the same bits in every process and every run while the block runs.

    On a CPU that means one thread (sums are split by the number of threads) and no choice between
    equal forms by their speed.  More processes make up for the threads.
    """
    threads = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
    hold_form()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        forget_choices()


def main() -> None:
    """Run one process of several: job in on stdin, events out on stdout."""
    # Whatever a library prints must not mix with the events.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(lines,), daemon=True).start()

    def say(event: Event) -> None:
        print(json.dumps(event), file=out, flush=True)

    try:
        job = json.loads(lines.get())
        for event in _work(job, lines):
            say(event)
    except TesseraError as error:
        say({"stopped": str(error)})


def _listen(lines: queue.Queue[str]) -> None:
    for line in sys.stdin:
        lines.put(line)
    # The command is gone, killed perhaps: what this process would still write nobody waits for.
    os._exit(1)


def _work(job: dict[str, Any], lines: queue.Queue[str]) -> Iterator[Event]:
    from tessera.models import load_tokenizer
    from tok_core.warm_memory import keep_memory_warm

    keep_memory_warm()
    run = ShardRun.helper(job["folder"])
    assert run.plan is not None
    with steady_numbers(job["device"].partition(":")[0]):
        tokenizer = load_tokenizer(job["model"], device=job["device"])
        if tokenizer.code_hash() != run.plan.head["code_hash"]:
            raise TesseraError(f"the model '{job['model']}' has changed since the run began; start "
                               "anew with --force")
        signals = open_signals(
            tokenizer, views=job["views"], batch_size=job["batch_size"], size=job["size"]
        )
        maker = PartMaker(run, signals, threads=job["threads"], captions=job["captions"])
        yield {"ready": True}
        lines.get()
        yield from maker.make(job["parts"])
        yield {"made": True}
        seconds = float(lines.get())
        yield {"speed": maker.speed(seconds)}


if __name__ == "__main__":
    main()
