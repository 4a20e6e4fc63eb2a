"""The preamble of a ``.tok`` file: at most 32 bytes for a picture's 1D tokens, usually 23.

Every header has exactly one spelling, so that bytes -> header -> bytes is the identity.
The table of fields is in ``docs/tok_format.md``.
"""

from __future__ import annotations

import math
import zlib
from typing import NamedTuple

from tok_core.bit_packing import check_bits, packed_bytes
from tok_core.errors import TokenError

MAGIC = b"TOK"
VERSION = 1
CHECKSUM = slice(5, 9)  # crc32 over the file without these four bytes
HASH_BYTES = 6  # 12 hex digits of the code hash
HASH_DIGITS = 2 * HASH_BYTES
FIXED_BYTES = 3 + 1 + 1 + 4 + HASH_BYTES + 1

POLICIES = ("none", "resize", "crop", "tile")
PER_FACTOR, FACTORS_FIRST, RAGGED, TRAILER = 4, 8, 16, 32  # flag bits above the two of the policy
NO_EXTENT, PIXELS, SAMPLES, SAMPLES_AND_RATE = range(4)

MAX_RANK = 8
MAX_FACTORS = 1024
MAX_ROWS = 1 << 16  # rows with lengths of their own
MAX_VARINT_BYTES = 6  # up to 2**42
MAX_PIXELS = 1 << 30  # of the original picture
MAX_SAMPLES = 1 << 36
MAX_RATE = 1 << 22  # hertz
FREE_PADDING = 1 << 16  # cells of ragged codes that may come back beyond one per stored bit


class Header(NamedTuple):
    """Everything a ``.tok`` file says about its codes; see `TokenFile` for the meanings."""

    shape: tuple[int, ...]
    bits: tuple[int, ...]
    code_prefix: str
    extent: tuple[int, ...] = ()
    sample_rate: int | None = None
    policy: str = "none"
    lengths: tuple[int, ...] | None = None
    factors_first: bool = False
    has_trailer: bool = False

    @property
    def stored_codes(self) -> int:
        """Number of codes in the payload: all of them, or the valid ones of ragged rows."""
        if self.lengths is None:
            return math.prod(self.shape)
        return sum(self.lengths) * math.prod(self.shape[2:])

    @property
    def payload_bytes(self) -> int:
        """Bytes of packed codes behind the header."""
        return packed_bytes(self.stored_codes, self.bits)


def check_header(header: Header) -> None:
    """Raise TokenError, in one sentence, unless the header describes a legal file."""
    _check_shape(header)
    check_bits(header.bits)
    _check_extent(header)
    if header.policy not in POLICIES:
        raise TokenError(
            f"policy '{header.policy}' is unknown: legal are {', '.join(POLICIES)}; use one of them"
        )
    if header.policy != "none" and len(header.extent) != 2:
        raise TokenError(
            f"policy '{header.policy}' needs the extent (H, W) of a picture but the extent is"
            f" {header.extent}: give it, or use policy 'none'"
        )
    if header.lengths is not None:
        _check_ragged(header, header.lengths)


def encode_header(header: Header) -> bytearray:
    """Return the preamble with a zero checksum; `tok_core.token_file.dumps` fills it in."""
    check_header(header)
    per_factor = len(header.bits) > 1
    flags = POLICIES.index(header.policy) | (PER_FACTOR if per_factor else 0)
    flags |= FACTORS_FIRST if header.factors_first else 0
    flags |= RAGGED if header.lengths is not None else 0
    flags |= TRAILER if header.has_trailer else 0
    out = bytearray(MAGIC + bytes((VERSION, flags)) + bytes(4) + bytes.fromhex(header.code_prefix))
    out.append(_extent_kind(header) << 4 | len(header.shape))
    numbers = [*header.shape, *header.bits, *header.extent]
    if header.sample_rate is not None:
        numbers.append(header.sample_rate)
    for number in (*numbers, *(header.lengths or ())):
        out += varint(number)
    return out


def decode_header(data: bytes) -> tuple[Header, int]:
    """Read the preamble.

    Returns:
        the header, checked, and the offset of the first packed byte.

    Raises:
        TokenError: anything about it that is not legal.  Nothing larger than the header itself is
            allocated.
    """
    _check_start(data)
    flags, layout = data[4], data[FIXED_BYTES - 1]
    rank, kind = layout & 15, layout >> 4
    reader = _Reader(data, FIXED_BYTES)
    shape = tuple(reader.take(rank))
    first = bool(flags & FACTORS_FIRST)
    factors = shape[0 if first else -1] if flags & PER_FACTOR else 1
    rows = shape[0] if flags & RAGGED else 0
    _check_counts(factors, rows)
    bits = tuple(reader.take(factors))
    extent = tuple(reader.take((0, 2, 1, 1)[kind]))
    rate = reader.take(1)[0] if kind == SAMPLES_AND_RATE else None
    lengths = tuple(reader.take(rows)) if flags & RAGGED else None
    prefix = bytes(data[9 : 9 + HASH_BYTES]).hex()
    header = Header(
        shape, bits, prefix, extent, rate, POLICIES[flags & 3], lengths, first,
        bool(flags & TRAILER),
    )  # fmt: skip
    spelled = encode_header(header)
    spelled[CHECKSUM] = data[CHECKSUM]
    if bytes(spelled) != bytes(data[: reader.at]) or not _is_canonical(header):
        raise TokenError(
            "the token file's header is not in its one legal spelling (a longer form of the same"
            " numbers): encode it again with this program"
        )
    return header, reader.at


def checksum(data: bytes | bytearray) -> bytes:
    """Return the four checksum bytes of a whole file: crc32 of everything but themselves."""
    view = memoryview(data)
    crc = zlib.crc32(view[CHECKSUM.stop :], zlib.crc32(view[: CHECKSUM.start]))
    return crc.to_bytes(4, "little")


def varint(number: int) -> bytes:
    """Return a number as little-endian groups of 7 bits, high bit set on all but the last (LEB128).

    Example:
        >>> varint(300).hex()
        'ac02'
    """
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


class _Reader:
    """Takes varints from the header, never more of them than there are bytes."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at

    def take(self, count: int) -> list[int]:
        if count > len(self.data) - self.at:
            raise TokenError(
                f"the token file's header promises {count} more numbers but only"
                f" {len(self.data) - self.at} bytes follow: it is damaged or was cut; encode again"
            )
        return [self._one() for _ in range(count)]

    def _one(self) -> int:
        number = 0
        for place in range(MAX_VARINT_BYTES):
            if self.at >= len(self.data):
                raise TokenError(
                    "the token file ends inside its header: it was cut; copy or encode it again"
                )
            byte = self.data[self.at]
            self.at += 1
            number |= (byte & 127) << 7 * place
            if byte < 128:
                return number
        raise TokenError(
            f"the token file's header holds a number of more than {MAX_VARINT_BYTES} bytes: legal"
            f" are numbers below 2**{7 * MAX_VARINT_BYTES}; the file is damaged, encode it again"
        )


def _check_start(data: bytes) -> None:
    """Check the bytes before the numbers."""
    if data[:3] != MAGIC:
        raise TokenError(
            f"this is no token file: it starts with {bytes(data[:3])!r} instead of {MAGIC!r};"
            " give a file that 'tessera encode' wrote"
        )
    if len(data) < FIXED_BYTES:
        raise TokenError(
            f"the token file is cut off: {len(data)} bytes are shorter than any header"
            f" ({FIXED_BYTES}); copy or encode it again"
        )
    if data[3] != VERSION:
        raise TokenError(
            f"token file version {data[3]} is not known: this program reads version {VERSION};"
            " update it or encode again"
        )
    flags, layout = data[4], data[FIXED_BYTES - 1]
    if flags >= 2 * TRAILER or layout >> 4 > SAMPLES_AND_RATE or not 1 <= layout & 15 <= MAX_RANK:
        raise TokenError(
            f"the token file's header holds unknown flags ({flags:#x}, {layout:#x}): legal are"
            f" flags below {2 * TRAILER:#x} and 1 to {MAX_RANK} axes; encode it again"
        )


def _extent_kind(header: Header) -> int:
    if not header.extent:
        return NO_EXTENT
    if len(header.extent) == 2:
        return PIXELS
    return SAMPLES if header.sample_rate is None else SAMPLES_AND_RATE


def _is_canonical(header: Header) -> bool:
    if len(header.bits) > 1 and len(set(header.bits)) == 1:
        return False
    if header.lengths is not None and set(header.lengths) == {header.shape[1]}:
        return False
    return len(header.bits) > 1 or not header.factors_first


def _check_shape(header: Header) -> None:
    shape, bits = header.shape, header.bits
    if not 1 <= len(shape) <= MAX_RANK or min(shape) < 1:
        raise TokenError(
            f"codes of shape {shape} cannot be stored: legal are 1 to {MAX_RANK} axes with at least"
            " one entry each; give at least one token"
        )
    if max(shape) >> 7 * MAX_VARINT_BYTES:
        raise TokenError(f"codes of shape {shape} are too large to be stored: split them up")
    factors = shape[0 if header.factors_first else -1]
    if len(bits) > 1 and len(bits) != factors:
        raise TokenError(
            f"{len(bits)} widths do not fit codes of shape {shape}: give one width for all or"
            f" {factors}, one for each entry of the {'first' if header.factors_first else 'last'}"
            " axis"
        )
    _check_counts(len(bits), len(header.lengths or ()))


def _check_counts(factors: int, rows: int) -> None:
    if factors > MAX_FACTORS:
        raise TokenError(
            f"{factors} factors of different widths are too many: legal are up to {MAX_FACTORS};"
            " use one width for all"
        )
    if rows > MAX_ROWS:
        raise TokenError(
            f"{rows} rows with lengths of their own are too many: legal are up to {MAX_ROWS};"
            " write several files"
        )


def _check_extent(header: Header) -> None:
    extent, rate = header.extent, header.sample_rate
    if len(extent) > 2 or (extent and min(extent) < 1):
        raise TokenError(
            f"extent {extent} is not legal: give (H, W) pixels, (T,) samples or (), each at least 1"
        )
    if len(extent) == 2 and extent[0] * extent[1] > MAX_PIXELS:
        raise TokenError(
            f"an original of {extent[0]} x {extent[1]} pixels is too large: legal are up to"
            f" {MAX_PIXELS} pixels; split the picture"
        )
    if len(extent) == 1 and extent[0] > MAX_SAMPLES:
        raise TokenError(
            f"an original of {extent[0]} samples is too long: legal are up to {MAX_SAMPLES};"
            " split the recording"
        )
    if rate is not None and (len(extent) != 1 or not 1 <= rate <= MAX_RATE):
        raise TokenError(
            f"sample rate {rate} with extent {extent} is not legal: give 1 to {MAX_RATE} hertz"
            " together with the extent (T,) in samples"
        )


def _check_ragged(header: Header, lengths: tuple[int, ...]) -> None:
    shape = header.shape
    if len(shape) < 2 or len(lengths) != shape[0] or not 1 <= min(lengths) <= max(lengths):
        raise TokenError(
            f"{len(lengths)} lengths do not fit codes of shape {shape}: give one length of at least"
            " 1 for each entry of the first of two or more axes"
        )
    if max(lengths) > shape[1]:
        raise TokenError(
            f"a length of {max(lengths)} does not fit codes of shape {shape}: legal are 1 to"
            f" {shape[1]}; give the number of valid codes of each row"
        )
    if len(header.bits) > 1 and (header.factors_first or len(shape) < 3):
        raise TokenError(
            f"lengths run along an axis of {shape} that also holds factors of different widths:"
            " use one width for all, or put the factors on a third axis"
        )
    padding = math.prod(shape) - 8 * header.payload_bytes
    if padding > FREE_PADDING:
        raise TokenError(
            f"ragged codes of shape {shape} hold only {header.stored_codes} valid codes: at most"
            f" {FREE_PADDING} cells more than stored bits are legal; shorten the longest row or"
            " write several files"
        )
