"""Files appear whole or not at all, and every failure is one sentence."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tok_core.atomic_write import atomic_file, check_free, write_bytes, write_error
from tok_core.errors import TesseraError

ROOT = Path(__file__).resolve().parents[2]


def names(folder: Path) -> list[str]:
    """List a folder, hidden files included."""
    return sorted(os.listdir(folder))


def test_writes_with_the_users_permissions_and_makes_folders(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        assert write_bytes(tmp_path / "a" / "b" / "c.bin", b"12345") == 5
    finally:
        os.umask(old)
    path = tmp_path / "a" / "b" / "c.bin"
    assert path.read_bytes() == b"12345"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert names(path.parent) == ["c.bin"]


def test_the_longest_name_works(tmp_path: Path) -> None:
    write_bytes(tmp_path / ("x" * 255), b"1")
    assert names(tmp_path) == ["x" * 255]


def test_nothing_is_overwritten_without_force(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_bytes(path, b"old")
    for attempt in (lambda: write_bytes(path, b"new"), lambda: check_free(path)):
        with pytest.raises(TesseraError, match=r"exists already .*--force"):
            attempt()
    assert path.read_bytes() == b"old"
    check_free(path, force=True)
    write_bytes(path, b"new", force=True)
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["a"]


def test_a_file_that_appears_meanwhile_wins(tmp_path: Path) -> None:
    def race() -> None:
        with atomic_file(tmp_path / "a") as file:
            file.write(b"late")
            (tmp_path / "a").write_bytes(b"first")

    with pytest.raises(TesseraError, match="exists already"):
        race()
    assert (tmp_path / "a").read_bytes() == b"first"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError])
def test_an_error_in_the_block_leaves_nothing_and_passes_on(
    tmp_path: Path, error: type[BaseException]
) -> None:
    write_bytes(tmp_path / "a", b"old")

    def fail() -> None:
        with atomic_file(tmp_path / "a", force=True) as file:
            file.write(b"half")
            raise error("other trouble")

    with pytest.raises(error, match="other trouble"):
        fail()
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_a_full_disk_is_one_sentence(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TesseraError, match=r"a cannot be written because the disk is full: "):
        write_bytes(tmp_path / "a", bytes(size))
    assert names(tmp_path) == []


LIMITED = """
import resource, signal, sys
from tok_core.atomic_write import write_bytes
from tok_core.errors import TesseraError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
for size in (5000, 5_000_000):  # fails in the final flush, fails in the block
    try:
        write_bytes(sys.argv[1], bytes(size))
    except TesseraError as error:
        print(error)
"""


def test_a_write_that_really_fails_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "a")],
        capture_output=True, text=True, check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": "."},
    )  # fmt: skip
    assert done.stdout.count("larger than allowed") == 2
    assert done.stderr == ""
    assert names(tmp_path) == []


DENIED = """
import os, sys
sys.path.insert(0, sys.argv[1])
from tok_core.atomic_write import write_bytes
from tok_core.errors import TesseraError
os.chdir(sys.argv[2])
if os.getuid() == 0:
    os.setuid(65534)
for name in ("locked/a", "locked/deep/a"):
    try:
        write_bytes(name, b"1")
    except TesseraError as error:
        print(error)
"""


def test_a_locked_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir()
    (tmp_path / "locked").chmod(0o555)
    done = subprocess.run(
        [sys.executable, "-c", DENIED, str(ROOT), str(tmp_path)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all("because permission is denied: choose a folder" in line for line in lines)
    assert names(tmp_path / "locked") == []


def test_targets_that_cannot_be_files(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cases = {
        tmp_path: "is a folder",
        tmp_path / "file" / "a": "part of its folder is a file|a file stands where",
        tmp_path / ("x" * 300): "name is too long",
        Path("/dev/null"): "not a regular file",
    }
    for path, message in cases.items():
        with pytest.raises(TesseraError, match=message):
            write_bytes(path, b"1", force=True)
    assert names(tmp_path) == ["file"]


def test_force_writes_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(TesseraError, match="exists already"):
        write_bytes(tmp_path / "link", b"new")
    write_bytes(tmp_path / "link", b"new", force=True)
    assert (tmp_path / "real").read_bytes() == b"new"
    assert (tmp_path / "link").is_symlink()


def test_read_only_and_unknown_errors_are_sentences() -> None:
    assert "file system is read-only" in str(write_error("a", OSError(errno.EROFS, "x")))
    assert "the system says 'odd'" in str(write_error("a", OSError(errno.ENXIO, "odd")))
