"""Files that appear whole or not at all: temporary file beside the target, fsync, rename."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from tok_core.errors import TesseraError

REASONS: dict[int, tuple[str, str]] = {
    errno.ENOSPC: ("the disk is full", "free some space or choose another folder"),
    errno.EDQUOT: ("the disk quota is used up", "free some space or choose another folder"),
    errno.EFBIG: ("the file would be larger than allowed here", "choose another folder"),
    errno.EROFS: ("the file system is read-only", "choose a folder that can be written"),
    errno.EACCES: ("permission is denied", "choose a folder that you may write to"),
    errno.EPERM: ("permission is denied", "choose a folder that you may write to"),
    errno.ENAMETOOLONG: ("the name is too long", "choose a shorter name"),
    errno.ENOTDIR: ("a part of its folder is a file", "choose another folder"),
    errno.EEXIST: ("a file stands where a folder is needed", "choose another folder"),
    errno.EIO: ("the disk reports an error", "choose another disk"),
}
# Errors inside the block that can only come from writing; others belong to the caller's own work.
WRITING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})


def write_error(path: str | os.PathLike[str], error: OSError) -> TesseraError:
    """Return the one-sentence error for a failed write of ``path``.

    Example:
        >>> str(write_error("a.tok", OSError(errno.ENOSPC, "No space left on device")))
        'a.tok cannot be written because the disk is full: free some space or choose another folder'
    """
    reason, remedy = REASONS.get(
        error.errno or 0,
        (f"the system says '{error.strerror or error}'", "choose another place"),
    )
    return TesseraError(f"{os.fspath(path)} cannot be written because {reason}: {remedy}")


def check_free(path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Raise the error that `atomic_file` would raise for a taken target, before any work is done.

    Raises:
        TesseraError: the path is a folder or a device, or a file exists and ``force`` is False.
    """
    if os.path.isdir(path):
        raise TesseraError(
            f"{os.fspath(path)} is a folder where a file is to be written: give a file name"
        )
    if os.path.exists(path) and not os.path.isfile(path):
        raise TesseraError(f"{os.fspath(path)} is not a regular file: give another file name")
    if not force and os.path.lexists(path):
        raise _taken(path)


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str], *, force: bool = False) -> Iterator[BinaryIO]:
    """Open a file for binary writing that takes its name only when the block ends without error.

    The bytes go to a temporary file in the same folder, are flushed to the disk, and the file is
    renamed.  After an error, Ctrl-C included, the temporary file is gone and an older file of this
    name is untouched.  Missing folders are made.

    Args:
        path: where the file shall stand.
        force: replace an existing file (through a symbolic link: the file it points to).

    Yields:
        the temporary file, binary, writable and seekable.

    Raises:
        TesseraError: the target exists and ``force`` is False, the disk is full or read-only,
            permission is denied.

    Example:
        >>> with atomic_file("out/a.png") as file:  # doctest: +SKIP
        ...     image.save(file, format="PNG")
    """
    check_free(path, force=force)
    target = Path(os.path.realpath(path)) if force else Path(path)
    # Not the target's own name plus an ending: that could be longer than a name may be.
    temporary = target.parent / f".tessera-{secrets.token_hex(8)}.part"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Plain open with mode 666 leaves the permissions to the user's umask (mkstemp does not).
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except OSError as error:
        raise write_error(path, error) from None
    try:
        file = os.fdopen(handle, "wb")
        try:
            yield file
        except BaseException as error:
            with contextlib.suppress(OSError):
                file.close()
            if isinstance(error, OSError) and error.errno in WRITING:
                raise write_error(path, error) from None
            raise
        try:
            file.flush()
            os.fsync(file.fileno())
            file.close()
            _take_name(temporary, target, force)
        except FileExistsError:
            raise _taken(path) from None
        except OSError as error:
            with contextlib.suppress(OSError):
                file.close()
            raise write_error(path, error) from None
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def write_bytes(path: str | os.PathLike[str], data: bytes, *, force: bool = False) -> int:
    """Write ``data`` as one whole file and return its size in bytes; errors as in `atomic_file`.

    Example:
        >>> write_bytes("a.tok", b"...", force=True)  # doctest: +SKIP
        3
    """
    with atomic_file(path, force=force) as file:
        file.write(data)
    return len(data)


def flush_folder(folder: Path) -> None:
    """Let the disk know of the names in a folder, where its file system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _take_name(temporary: Path, target: Path, force: bool) -> None:
    if force:
        os.replace(temporary, target)
    else:
        try:
            # Unlike a rename, a link fails when another process took the name meanwhile.
            os.link(temporary, target)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            if os.path.lexists(target):
                raise FileExistsError(errno.EEXIST, "exists", str(target)) from None
            os.rename(temporary, target)
    flush_folder(target.parent)


def _taken(path: str | os.PathLike[str]) -> TesseraError:
    return TesseraError(
        f"{os.fspath(path)} exists already and is not overwritten:"
        " use force (--force) or choose another name"
    )
