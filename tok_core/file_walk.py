"""The files of some kinds below a folder, in an order that does not depend on the system."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path


def files_below(
    folder: str | Path, suffixes: Collection[str], *, leave_out: Path | None = None
) -> Iterator[Path]:
    """Yield every file with one of the suffixes; hidden files and folders are left alone.

    Args:
        folder: searched with all folders in it.
        suffixes: lower case, with the dot; a file's own may be upper case.
        leave_out: a folder that is not entered, such as the one being written to.

    Yields:
        paths below ``folder``: its own files by name, then those of each folder in it.

    Example:
        >>> list(files_below("photos", {".png"}))  # doctest: +SKIP
        [PosixPath('photos/a.png'), PosixPath('photos/more/b.PNG')]
    """
    hidden = None if leave_out is None else leave_out.resolve()
    for place, folders, names in os.walk(folder):
        seen = sorted(name for name in folders if not name.startswith("."))
        folders[:] = [one for one in seen if not hidden or Path(place, one).resolve() != hidden]
        for name in sorted(names):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes:
                yield Path(place, name)
