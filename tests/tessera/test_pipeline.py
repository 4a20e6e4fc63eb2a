"""The pipeline alone, with plain text files: order, overlap, failures, stops."""

from __future__ import annotations

import _thread
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tessera.files import Job
from tessera.pipeline import Report, Row, Steps, run
from tok_core.errors import MediaError, TesseraError


def make_jobs(folder: Path, count: int) -> list[Job]:
    jobs = []
    for i in range(count):
        source = folder / f"{i:03d}.txt"
        source.write_text(str(i))
        jobs.append(Job(source, folder / f"{i:03d}.out"))
    return jobs


def read(path: Path) -> int:
    return int(path.read_text())


def write(job: Job, signal: int, result: int) -> Row:
    job.target.write_text(str(result))
    return {"source": job.source.name, "result": result}


def double(batch: list[int]) -> list[int]:
    return [2 * value for value in batch]


def go(
    jobs: list[Job], *, work: Callable[[list[int]], Any] = double, batch_size: int = 4,
    **changed: Any,
) -> Report:  # fmt: skip
    steps = Steps(**({"read": read, "work": work, "write": write,
                      "weight": lambda value: 1} | changed))  # fmt: skip
    return run(jobs, steps, batch_size=batch_size, threads=3)


def test_every_file_once_and_in_order(tmp_path: Path) -> None:
    def uneven(path: Path) -> int:
        time.sleep(0.01 if read(path) % 3 == 0 else 0)  # early files come late
        return read(path)

    report = go(make_jobs(tmp_path, 23), read=uneven)
    assert [row["result"] for row in report.rows] == [2 * i for i in range(23)]
    assert report.exit_code == 0
    assert all((tmp_path / f"{i:03d}.out").read_text() == str(2 * i) for i in range(23))


def test_batches_are_filled_by_weight(tmp_path: Path) -> None:
    sizes: list[list[int]] = []

    def work(batch: list[int]) -> list[int]:
        sizes.append(batch)
        return batch

    report = go(make_jobs(tmp_path, 7), work=work, weight=lambda value: 4 if value == 2 else 1)
    assert sizes == [[0, 1, 2], [3, 4, 5, 6]]
    assert report.inputs == 10


def test_bad_files_are_reported_and_the_rest_is_done(tmp_path: Path) -> None:
    jobs = make_jobs(tmp_path, 9)

    def picky(path: Path) -> int:
        if read(path) == 3:
            raise MediaError(f"{path} is bad.")
        return read(path)

    def work(batch: list[int]) -> list[int | TesseraError]:
        return [TesseraError("five is too much.") if v == 5 else v for v in batch]

    report = go(jobs, read=picky, work=work)
    assert [row["result"] for row in report.rows] == [0, 1, 2, 4, 6, 7, 8]
    assert [path.name for path, _ in report.failures] == ["003.txt", "005.txt"]
    assert report.exit_code == 1


def test_a_full_disk_stops_the_run_and_keeps_what_is_done(tmp_path: Path) -> None:
    def full(job: Job, signal: int, result: int) -> Row:
        if signal == 6:
            raise TesseraError("the disk is full.")
        return write(job, signal, result)

    report = go(make_jobs(tmp_path, 40), write=full)
    assert report.stopped == "the disk is full."
    assert report.exit_code == 1
    assert [row["result"] for row in report.rows][:6] == [0, 2, 4, 6, 8, 10]
    assert len(report.rows) < 39


def test_ctrl_c_keeps_what_is_done_and_counts_it(tmp_path: Path) -> None:
    def work(batch: list[int]) -> list[int]:
        if 8 in batch:
            _thread.interrupt_main()
            time.sleep(0.2)
        return batch

    # A job started in the background of a shell ignores Ctrl-C; this test must not.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        report = go(make_jobs(tmp_path, 40), work=work)
    finally:
        signal.signal(signal.SIGINT, before)
    assert report.interrupted
    assert report.exit_code == 130
    assert [row["result"] for row in report.rows] == list(range(8))
    assert len(list(tmp_path.glob("*.out"))) == 8


def test_memory_error_is_a_sentence(tmp_path: Path) -> None:
    def work(batch: list[int]) -> list[int]:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")

    assert "--batch-size" in (go(make_jobs(tmp_path, 3), work=work).stopped or "")


def test_our_own_bugs_stay_visible(tmp_path: Path) -> None:
    def work(batch: list[int]) -> list[int]:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        go(make_jobs(tmp_path, 3), work=work)


def test_reading_overlaps_with_the_model(tmp_path: Path) -> None:
    """Reading takes as long as the model; done one after the other the run would take twice."""

    def slow_read(path: Path) -> int:
        time.sleep(0.02)
        return read(path)

    def slow_work(batch: list[int]) -> list[int]:
        time.sleep(0.02 / 3 * len(batch))
        return batch

    report = go(make_jobs(tmp_path, 96), read=slow_read, work=slow_work, batch_size=8)
    assert report.model_seconds > 0.6
    assert report.seconds < 1.5 * report.model_seconds
    assert report.files_per_second > 0.66 * report.model_files_per_second


def test_memory_is_bounded_by_reading_only_so_far_ahead(tmp_path: Path) -> None:
    used, most, lock = 0, 0, threading.Lock()

    def counted(path: Path) -> int:
        nonlocal used, most
        with lock:
            used += 1
            most = max(most, used)
        return read(path)

    def work(batch: list[int]) -> list[int]:
        nonlocal used
        time.sleep(0.005)
        with lock:
            used -= len(batch)
        return batch

    go(make_jobs(tmp_path, 60), read=counted, work=work, batch_size=2, ahead=3)
    assert most <= 2 + 3 + 1
