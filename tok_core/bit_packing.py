"""Codes packed bit by bit, any 1..24 bits per code, the width may differ per factor.

Letters: M rows, D factors per row (1 when all codes share one width), R = sum of the D widths.

A code of width b is written as b bits, highest bit first, directly behind the code before it; the
last byte is filled up with zeros.  Code i starts at bit ``(i // D) * R + widths before i % D``, so
each one lies in the four bytes from there on and numpy can reach all of them at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tok_core.errors import TokenError

MAX_BITS = 24  # 24 bits starting at any bit of a byte still end within four bytes
CHUNK = 1 << 15  # codes handled at once: the temporaries stay near 2 MB, inside the cache


def packed_bits(count: int, bits: Sequence[int]) -> int:
    """Return the bits that ``count`` codes (whole rows of ``len(bits)``) take, before filling up.

    Plain Python integers, so a hostile count cannot overflow.
    """
    return (count // len(bits)) * sum(bits)


def packed_bytes(count: int, bits: Sequence[int]) -> int:
    """Return the bytes that `pack` writes for ``count`` codes.

    Example:
        >>> packed_bytes(256, (12,)), packed_bytes(3, (3, 4, 5))
        (384, 2)
    """
    return (packed_bits(count, bits) + 7) // 8


def check_bits(bits: Sequence[int]) -> None:
    """Raise TokenError unless every width is 1..24."""
    for width in bits:
        if not 1 <= width <= MAX_BITS:
            raise TokenError(
                f"a code of {width} bits is not legal: choose 1 to {MAX_BITS} bits per factor"
            )
    if not bits:
        raise TokenError(f"bits are empty: give one width of 1 to {MAX_BITS} bits, or one a factor")


def pack(codes: np.ndarray, bits: Sequence[int]) -> bytes:
    """Pack codes into bytes.

    Args:
        codes: integers (M * D,), row by row, each in ``[0, 2**width)``.
        bits: D widths of 1..24 bits, repeated for every row.

    Returns:
        ``packed_bytes(codes.size, bits)`` bytes.

    Raises:
        TokenError: a code does not fit its width, or the codes are not whole rows.

    Example:
        >>> pack(np.array([1, 2, 3]), (4,)).hex()
        '1230'
    """
    check_bits(bits)
    flat = np.asarray(codes).reshape(-1)
    if flat.size % len(bits):
        raise TokenError(
            f"{flat.size} codes cannot be split into rows of {len(bits)} factors:"
            " give one width per entry of the factor axis"
        )
    total = packed_bytes(flat.size, bits)
    out = np.zeros(total + 3, dtype=np.uint8)  # the last window may reach 3 bytes too far
    for first in range(0, flat.size, CHUNK):
        part = flat[first : first + CHUNK].astype(np.int64)
        byte, shift, width = _windows(first, first + part.size, bits)
        _check_range(part, width, first)
        base, span = int(byte[0]), int(byte[-1] - byte[0]) + 4
        window = part << shift
        for k in range(4):
            # Neighbours share bytes but never bits, so adding them up is the same as or-ing them.
            value = (window >> (24 - 8 * k)) & 255
            added = np.bincount(byte - base + k, weights=value, minlength=span)
            out[base : base + span] |= added.astype(np.uint8)
    return out[:total].tobytes()


def unpack(data: bytes | memoryview, count: int, bits: Sequence[int]) -> np.ndarray:
    """Unpack codes, the inverse of `pack`.

    Args:
        data: exactly ``packed_bytes(count, bits)`` bytes.
        count: number of codes, whole rows of ``len(bits)``.
        bits: D widths of 1..24 bits.

    Returns:
        int64 (count,).

    Raises:
        TokenError: the size does not fit (checked before anything is allocated), or the bits that
            fill up the last byte are not zero.

    Example:
        >>> unpack(bytes.fromhex("1230"), 3, (4,)).tolist()
        [1, 2, 3]
    """
    check_bits(bits)
    total = packed_bytes(count, bits)
    if count < 0 or count % len(bits) or len(data) != total:
        raise TokenError(
            f"{len(data)} bytes of packed codes do not hold {count} codes of {_words(bits)} bits:"
            f" {max(total, 0)} bytes are needed; the file is damaged or was cut"
        )
    source = np.frombuffer(data, dtype=np.uint8)
    spare = -packed_bits(count, bits) % 8
    if total and int(source[-1]) & ((1 << spare) - 1):
        raise TokenError(
            f"the {spare} filling bits behind the last code are not zero as they must be:"
            " the file is damaged or its bits per code are wrong"
        )
    out = np.empty(count, dtype=np.int64)
    for first in range(0, count, CHUNK):
        last = min(first + CHUNK, count)
        byte, shift, width = _windows(first, last, bits)
        base, span = int(byte[0]), int(byte[-1] - byte[0]) + 4
        piece = np.zeros(span, dtype=np.int64)
        held = source[base : base + span]
        piece[: held.size] = held
        # Big-endian 32-bit value of every byte and its three successors, then one gather.
        window = (piece[:-3] << 24) | (piece[1:-2] << 16) | (piece[2:-1] << 8) | piece[3:]
        out[first:last] = (window[byte - base] >> shift) & ((1 << width) - 1)
    return out


def _windows(
    first: int, last: int, bits: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (first byte, shift inside its 32-bit window, width) of the codes first..last-1."""
    widths = np.asarray(bits, dtype=np.int64)
    row, factor = np.divmod(np.arange(first, last, dtype=np.int64), len(widths))
    begin = row * int(widths.sum()) + (np.cumsum(widths) - widths)[factor]
    width = widths[factor]
    return begin >> 3, 32 - (begin & 7) - width, width


def _check_range(codes: np.ndarray, width: np.ndarray, first: int) -> None:
    wrong = (codes < 0) | (codes >> width != 0)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise TokenError(
            f"code {int(codes[at])} at position {first + at} does not fit {int(width[at])} bits:"
            f" legal are 0 to {(1 << int(width[at])) - 1}; check the bits against the vocabulary"
        )


def _words(bits: Sequence[int]) -> str:
    return str(bits[0]) if len(bits) == 1 else "/".join(map(str, bits[:8]))
