"""Keep freed memory in the process, so that the next large tensor does not fault in page by page.

The C library gives every block above 32 MiB back to the system as soon as it is freed, and the
system hands out the next one as untouched pages: on two cores a picture decoder spent a tenth of
its time there.  This is the setting of a whole process, so programs choose it (the command line
does); a library must not.
"""

from __future__ import annotations

import ctypes
import sys

# glibc's malloc.h: parameter numbers of mallopt, and the values we set.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_NEVER_TRIM = 2**31 - 1
_LARGEST_KEPT = 1 << 30


def keep_memory_warm() -> bool:
    """Tell glibc to reuse freed blocks of up to 1 GiB instead of returning them.

    The resident size of the process then stays near its peak.

    Returns:
        Whether the C library took the setting; False where it is not glibc (nothing changes).

    Example:
        >>> keep_memory_warm()  # doctest: +SKIP
        True
    """
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    taken = library.mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
    return bool(taken and library.mallopt(_M_TRIM_THRESHOLD, _NEVER_TRIM))
