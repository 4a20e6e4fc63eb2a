"""Locks of files: one holder, others wait or pass by, a dead holder holds nothing."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from threading import Timer

from tok_core.file_lock import lock_file, locked

HOLD = """
import sys
from pathlib import Path
from tok_core.file_lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(path: Path) -> subprocess.Popen[str]:
    """Start a process that holds the lock until its input is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_one_holds_and_others_pass_by(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "lock"
    with locked(path, wait=False) as first:
        assert first
        with locked(path, wait=False) as second:
            assert not second
    with locked(path, wait=False) as again, path.open("ab") as file:
        assert again and not lock_file(file)


def test_another_process_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    process = holder(path)
    assert process.stdin is not None
    with locked(path, wait=False) as free:
        assert not free
    began = time.monotonic()
    Timer(0.3, process.stdin.close).start()
    with locked(path) as free:
        assert free and time.monotonic() - began > 0.25
    assert process.wait() == 0


def test_a_killed_holder_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    process = holder(path)
    process.kill()
    process.wait()
    with locked(path, wait=False) as free:
        assert free
