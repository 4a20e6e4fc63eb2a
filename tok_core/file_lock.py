"""Locks between processes that share a folder: one writes, the others wait or pass by.

The system lets go of a lock when its process ends, killed too, so nothing is ever left locked.
Where the file system has no locks, every process gets its lock: nothing can be told there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def lock_file(file: IO[bytes], *, wait: bool = False) -> bool:
    """Lock an open file for this process until it is closed.

    Args:
        file: open for writing. wait: for the process that holds it.

    Returns:
        False where another process holds it and nobody waits.
    """
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # no locks here: nothing can be told
        return True
    return True


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of a path in the block.

    Args:
        path: of the lock file; it is made, with its folders, and stays. wait: for the process that
            holds it.

    Yields:
        False where another process holds it and nobody waits.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        yield lock_file(file, wait=wait)
