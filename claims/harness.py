"""Measures the rows of claims that are missing and keeps each at once.

    rows wanted - rows kept --committed by a benchmark--> taken over
                            --else measured-------------> claims/results/CLAIM.json

A row is found again by its seed and the hash of its config, so that a changed size measures anew
and an interrupted command goes on.  Several processes of the same command share the rows: each row
is locked while it is measured, and the file while it is written.  Rows that nobody asks for any
more stay in the file and are shown nowhere.
"""

from __future__ import annotations

import json
import math
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from claims.claim import Claim, Measured, Place, Row
from tok_core.atomic_write import write_bytes
from tok_core.errors import ConfigError
from tok_core.file_lock import locked

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results"
WORK = ROOT / "runs" / "claims"


class OutOfTime(BaseException):
    """The time given with --seconds is over; no error, so that no row takes it for one."""


class Results:
    """The kept rows of one claim.

    Args:
        folder: of the result files. name: of the claim.

    Raises:
        ConfigError: the file is not one of ours.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f"{name}.json"
        self.name = name
        self.locks = folder / ".locks"
        self.kept: dict[str, dict[str, Any]] = {}
        self.read()

    def read(self) -> None:
        """Take in what the file holds now; another process may have added to it."""
        if self.path.is_file():
            try:
                found = json.loads(self.path.read_text())
                self.kept = dict(found["rows"])
                right = found["claim"] == self.name
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(
                    f"{self.path} holds no results of claims ({error!r}); move it away."
                ) from None
            if not right:
                raise ConfigError(f"{self.path} is of claim {found['claim']!r}; move it away.")

    def holds(self, row: Row) -> bool:
        """Whether the row is measured."""
        return row.key in self.kept

    def add(self, row: Row, numbers: dict[str, Any], **facts: Any) -> None:
        """Keep a row beside what is in the file by now, which is written whole or not at all."""
        with locked(self.locks / f"{self.name}.lock"):
            self.read()
            self.kept[row.key] = {
                "seed": row.seed, "config": dict(row.config), "numbers": numbers, **facts
            }  # fmt: skip
            found = {"claim": self.name, "rows": dict(sorted(self.kept.items()))}
            text = json.dumps(found, indent=1, allow_nan=False) + "\n"
            write_bytes(self.path, text.encode(), force=True)

    @contextmanager
    def taken(self, row: Row) -> Iterator[bool]:
        """Take a row for this process; False where another one measures it or has done so."""
        with locked(self.locks / f"{self.name}-{row.key}.lock", wait=False) as free:
            self.read()
            yield free and not self.holds(row)

    def measured(self, rows: Sequence[Row]) -> list[Measured]:
        """Return what is kept of the rows asked for, in their order."""
        return [
            Measured(seed=row.seed, config=row.config, numbers=self.kept[row.key]["numbers"])
            for row in rows
            if row.key in self.kept
        ]

    def longest(self) -> float:
        """Return the seconds of the longest row that was measured here, 0 for none."""
        return max((one.get("seconds", 0.0) for one in self.kept.values()), default=0.0)

    def machines(self, rows: Sequence[Row]) -> list[str]:
        """Return on what the rows were measured, or by which benchmark."""
        kept = [self.kept[row.key] for row in rows if row.key in self.kept]
        return sorted({one.get("source") or one.get("machine", "") for one in kept})


@dataclass(frozen=True, kw_only=True)
class Session:
    """One call of the command.

    Args:
        results, work: folders. seeds: of the trainings. small: tiny sizes.
        device: ``cpu`` or ``cuda``. end: `time.monotonic` at which to stop, infinite for never.
    """

    results: Path
    work: Path
    seeds: tuple[int, ...] = (0, 1, 2)
    small: bool = False
    device: str = "cpu"
    end: float = math.inf

    def left(self) -> float:
        """Seconds until the end."""
        return self.end - time.monotonic()


def take_over(claim: Claim, session: Session) -> Results:
    """Return the kept rows, those that a benchmark has measured among them."""
    results = Results(session.results, claim.name)
    if not session.small:
        for row in claim.rows(session.seeds, False):
            found = None if results.holds(row) else claim.committed(row)
            if found is not None:
                results.add(row, found[0], source=found[1])
    return results


def measure(claim: Claim, session: Session) -> list[str]:
    """Measure the rows of a claim that are missing; return a line for each one that failed.

    Raises:
        OutOfTime: the end came, or the next row would not be finished before it.
    """
    results, failed = take_over(claim, session), []
    rows = claim.rows(session.seeds, session.small)
    missing = [row for row in rows if not results.holds(row)]
    print(f"{claim.name}: {len(rows) - len(missing)} of {len(rows)} rows are there", flush=True)
    for row in missing:
        # A row of a claim that was never measured here is tried and cut off at the end.
        if session.left() <= results.longest():
            raise OutOfTime
        with results.taken(row) as ours:
            if not ours:
                continue
            try:
                _measure_one(claim, row, results, session)
            except Exception as error:  # a failed row must not cost the night's other rows
                failed.append(f"{claim.name} {row.key}: {type(error).__name__}: {error}")
                print(f"failed: {failed[-1]}", flush=True)
    return failed


def _measure_one(claim: Claim, row: Row, results: Results, session: Session) -> None:
    began = time.perf_counter()
    with _alarm(session.left()), tempfile.TemporaryDirectory() as scratch:
        place = Place(data=session.work, scratch=Path(scratch), device=session.device)
        session.work.mkdir(parents=True, exist_ok=True)
        numbers = claim.measure(row, place)
    seconds = round(time.perf_counter() - began, 1)
    results.add(row, numbers, seconds=seconds, machine=machine(session.device))
    print(f"{claim.name} {row.key}: {seconds:.0f} s, {_shown(numbers)}", flush=True)


def machine(device: str) -> str:
    """Return what rows are measured on."""
    import torch

    if device == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return f"CPU, {torch.get_num_threads()} threads, torch {torch.__version__}"


def _shown(numbers: dict[str, Any]) -> str:
    plain = [f"{k} {v:.4g}" for k, v in numbers.items() if isinstance(v, (int, float))]
    return ", ".join(plain[:6]) or "kept"


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raise `OutOfTime` in the block when so many seconds are over; endless without an end."""
    if math.isinf(seconds):
        yield
        return

    def ring(*_: Any) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
