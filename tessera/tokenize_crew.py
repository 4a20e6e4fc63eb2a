"""Who makes the parts of a run: this process, or several that this one starts and listens to.

    parts 0, 1, 2, 3, 4 --dealt out--> process 0: 0, 2, 4   process 1: 1, 3

Processes share nothing but the folder; what they say (files finished, parts written) comes back as
events.  They are programs of their own rather than forks, which a GPU does not survive.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import tessera
from tessera.tokenize_worker import Event, PartMaker, Speed
from tok_core.errors import TesseraError

_PATIENCE = 10.0  # seconds that an ended process has to go away by itself


class Crew(Protocol):
    """Makes parts and says how fast the network alone would be."""

    def prepare(self) -> None:
        """Load models; nothing of this counts as work."""
        ...

    def make(self) -> Iterator[Event]:
        """Make all parts, yielding events; TesseraError ends the work."""
        ...

    def speeds(self, seconds: float) -> list[Speed]:
        """Time the network alone in every process at once."""
        ...

    def close(self) -> None:
        """End what is still running."""
        ...


class OwnProcess:
    """All parts in this process."""

    def __init__(self, maker: PartMaker, parts: Sequence[int]) -> None:
        self.maker, self.parts = maker, parts

    def prepare(self) -> None:
        """Everything is there."""

    def make(self) -> Iterator[Event]:
        """Make the parts."""
        return self.maker.make(self.parts)

    def speeds(self, seconds: float) -> list[Speed]:
        """Time the network alone."""
        return [self.maker.speed(seconds)]

    def close(self) -> None:
        """Nothing runs on."""


class SeveralProcesses:
    """Parts dealt out over processes.

    Args:
        job: what `tessera.tokenize_worker` takes, without parts and device.
        parts: to be made.
        devices: one per process.
    """

    def __init__(self, job: dict[str, Any], parts: Sequence[int], devices: Sequence[str]) -> None:
        self.jobs = [
            job | {"device": device, "parts": list(parts[rank :: len(devices)])}
            for rank, device in enumerate(devices)
        ]
        self._heard: queue.Queue[tuple[int, Event]] = queue.Queue()
        self._processes: list[subprocess.Popen[str]] = []

    def prepare(self) -> None:
        """Start the processes and wait until all have loaded the model."""
        for rank, job in enumerate(self.jobs):
            process = subprocess.Popen(
                [sys.executable, "-m", "tessera.tokenize_worker"], text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_environment(job["device"]),
                # Ctrl-C is this process's to answer; it ends the others by closing their stdin.
                start_new_session=True,
            )  # fmt: skip
            self._processes.append(process)
            threading.Thread(target=self._listen, args=(rank, process), daemon=True).start()
            self._tell(rank, json.dumps(job))
        self._wait_for("ready")

    def make(self) -> Iterator[Event]:
        """Let all processes go and yield what they do."""
        for rank in range(len(self._processes)):
            self._tell(rank, "go")
        busy = set(range(len(self._processes)))
        while busy:
            rank, event = self._next()
            if "made" in event:
                busy.discard(rank)
            else:
                yield event

    def speeds(self, seconds: float) -> list[Speed]:
        """Time the network alone in all processes at once, as it ran in the work."""
        for rank in range(len(self._processes)):
            self._tell(rank, str(seconds))
        return [Speed(*event["speed"]) for event in self._wait_for("speed")]

    def close(self) -> None:
        """End the processes: their stdin closes, which they watch."""
        for process in self._processes:
            with suppress(OSError):
                process.stdin.close()  # type: ignore[union-attr]
        deadline = time.monotonic() + _PATIENCE
        for process in self._processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    # -- parts ---------------------------------------------------------------------------------

    def _listen(self, rank: int, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._heard.put((rank, json.loads(line)))
        self._heard.put((rank, {"ended": process.wait()}))

    def _tell(self, rank: int, line: str) -> None:
        stream = self._processes[rank].stdin
        assert stream is not None
        with suppress(BrokenPipeError):  # its end is heard all the same
            stream.write(line + "\n")
            stream.flush()

    def _next(self) -> tuple[int, Event]:
        rank, event = self._heard.get()
        if "stopped" in event:
            raise TesseraError(event["stopped"])
        if "ended" in event:
            code = event["ended"]
            how = f"ended with code {code}"
            if code < 0:
                how = f"was ended by signal {-code}, for want of memory perhaps"
            raise TesseraError(f"process {rank} of {len(self.jobs)} {how}; go on with --resume, "
                               "fewer --processes or a smaller --batch-size if need be")
        return rank, event

    def _wait_for(self, word: str) -> list[Event]:
        events: dict[int, Event] = {}
        while len(events) < len(self._processes):
            rank, event = self._next()
            if word in event:
                events[rank] = event
        return [events[rank] for rank in sorted(events)]


def _environment(device: str) -> dict[str, str]:
    root = str(Path(tessera.__file__).resolve().parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    if device == "cpu":
        environment["OMP_NUM_THREADS"] = "1"
    return environment
