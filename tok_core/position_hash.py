"""A number that a run draws for one position: the same after a resume and in any process."""

from __future__ import annotations

import hashlib


def position_hash(*parts: str | int) -> int:
    """Return a whole number of 0 to 2^64 - 1 that depends on ``parts`` alone, evenly spread.

    Example:
        >>> position_hash("view", 0, 7) == position_hash("view", 0, 7)
        True
    """
    text = ",".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
