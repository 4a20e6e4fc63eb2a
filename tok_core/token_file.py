"""Token files (``.tok``): a preamble of a few bytes, packed codes, an optional JSON trailer.

Needs only numpy and the standard library, so that tokens can be read where no torch is.  The format
is written down in ``docs/tok_format.md``.

Letters: N tokens, h w grid, D dimensions, P branches, Q codebook levels, T frames or samples.
"""

from __future__ import annotations

import dataclasses
import json
import os
import stat
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tok_core.atomic_write import write_bytes
from tok_core.bit_packing import pack, unpack
from tok_core.errors import TokenError
from tok_core.token_file_header import (
    CHECKSUM,
    HASH_DIGITS,
    MAGIC,
    VERSION,
    Header,
    check_header,
    checksum,
    decode_header,
    encode_header,
)

MAX_FILE_BYTES = 64 << 20  # 256 One-D-Piece tokens take 407 bytes; larger sets belong in shards
MAX_TRAILER_BYTES = 64 << 10


@dataclasses.dataclass(frozen=True, eq=False)
class TokenFile:
    """The codes of one picture or recording with what is needed to decode them.

    Attributes:
        codes: int64, any layout: (N,), (h, w), (h, w, D), (P, N), (Q, T), (tiles, N).  A smaller
            budget is simply fewer tokens; the N of the model is not stored.
        bits: width of one code, 1..24: one for all, or one for each entry of the factor axis.
        code_hash: hex code hash of the tokenizer; the file keeps its first 12 digits.
        extent: size of the original, (H, W) pixels or (T,) samples; () when unknown.
        policy: what was done to the picture: "resize", "crop", "tile" or "none".
        sample_rate: hertz of the original recording, only beside an extent (T,).
        lengths: valid codes of each row of axis 0, counted along axis 1, when rows differ (tiles
            with budgets of their own); the rest of a row is not stored and comes back as 0.
        factors_first: the different widths belong to axis 0 instead of the last axis.
        trailer: further facts, a JSON object, or None.

    Raises:
        TokenError: the parts do not fit each other.

    Example:
        >>> file = TokenFile(np.arange(256), (12,), "0123456789ab", (240, 320), "resize")
        >>> file.num_bytes, len(dumps(file)), round(file.bits_per_pixel, 4)
        (407, 407, 0.0424)
    """

    codes: np.ndarray
    bits: tuple[int, ...]
    code_hash: str
    extent: tuple[int, ...] = ()
    policy: str = "none"
    sample_rate: int | None = None
    lengths: tuple[int, ...] | None = None
    factors_first: bool = False
    trailer: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        codes = np.asarray(self.codes)
        if codes.dtype.kind not in "iu":
            raise TokenError(f"codes of type {codes.dtype} cannot be stored: give integers (int64)")
        bits, first = _plain_bits(self.bits, self.factors_first)
        lengths = None if self.lengths is None else tuple(int(n) for n in self.lengths)
        if lengths is not None and codes.ndim > 1 and set(lengths) == {codes.shape[1]}:
            lengths = None
        rate = None if self.sample_rate is None else int(self.sample_rate)
        values = {
            # A copy only where the padding of ragged rows is about to be cleared.
            "codes": codes.astype(np.int64, copy=lengths is not None),
            "bits": bits,
            "code_hash": _checked_hash(self.code_hash).lower(),
            "extent": tuple(int(n) for n in self.extent),
            "sample_rate": rate,
            "lengths": lengths,
            "factors_first": first,
            "trailer": self.trailer or None,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        check_header(self._header())
        if lengths is not None:
            self.codes[~_valid(self.codes.shape, lengths)] = 0

    def _header(self) -> Header:
        return Header(
            tuple(self.codes.shape), self.bits, self.code_hash[:HASH_DIGITS], self.extent,
            self.sample_rate, self.policy, self.lengths, self.factors_first,
            self.trailer is not None,
        )  # fmt: skip

    def __eq__(self, other: object) -> bool:
        """Equal means: the same file would be written."""
        if not isinstance(other, TokenFile):
            return NotImplemented
        same = self._header() == other._header() and self.trailer == other.trailer
        return same and np.array_equal(self.codes, other.codes)

    __hash__ = None  # type: ignore[assignment]

    @property
    def num_codes(self) -> int:
        """Number of stored codes."""
        return self._header().stored_codes

    @property
    def payload_bytes(self) -> int:
        """Bytes of the packed codes alone (tables of papers count these)."""
        return self._header().payload_bytes

    @property
    def num_bytes(self) -> int:
        """Bytes of the whole file on disk."""
        return len(encode_header(self._header())) + self.payload_bytes + len(_json(self.trailer))

    @property
    def bits_per_pixel(self) -> float:
        """Bits of the whole file over the pixels of the original.

        Raises:
            TokenError: the extent is not that of a picture.
        """
        if len(self.extent) != 2:
            raise TokenError(
                f"bits per pixel need the extent (H, W) of a picture but it is {self.extent}:"
                " give the original size when writing"
            )
        return 8 * self.num_bytes / (self.extent[0] * self.extent[1])

    @property
    def bits_per_second(self) -> float:
        """Bits of the whole file over the seconds of the original.

        Raises:
            TokenError: extent (T,) or sample rate are not known.
        """
        if self.sample_rate is None:
            raise TokenError(
                f"bits per second need a sample rate and an extent (T,) but the extent is"
                f" {self.extent} and there is no rate: give both when writing"
            )
        return 8 * self.num_bytes * self.sample_rate / self.extent[0]

    def fits(self, code_hash: str) -> bool:
        """Whether a tokenizer with this code hash (12 digits or more) can decode the codes."""
        return _checked_hash(code_hash).lower()[:HASH_DIGITS] == self.code_hash[:HASH_DIGITS]


def token_file_size(
    shape: Sequence[int], bits: int | Sequence[int], *, extent: Sequence[int] = (),
    policy: str = "none", sample_rate: int | None = None, lengths: Sequence[int] | None = None,
    factors_first: bool = False, trailer: dict[str, Any] | None = None,
) -> int:  # fmt: skip
    """Return the exact size in bytes of a token file before there are codes.

    Args: as the attributes of `TokenFile`, with the shape in place of the codes.

    Raises:
        TokenError: no such file can be written.

    Example:
        >>> token_file_size((256,), 12, extent=(256, 256), policy="resize")
        407
    """
    widths, first = _plain_bits(bits, factors_first)
    shape = tuple(int(n) for n in shape)
    rows = None if lengths is None else tuple(int(n) for n in lengths)
    if rows is not None and len(shape) > 1 and set(rows) == {shape[1]}:
        rows = None
    header = Header(
        shape, widths, "0" * HASH_DIGITS, tuple(int(n) for n in extent), sample_rate, policy, rows,
        first, bool(trailer),
    )  # fmt: skip
    return len(encode_header(header)) + header.payload_bytes + len(_json(trailer or None))


def dumps(token_file: TokenFile) -> bytes:
    """Return the bytes of a token file.

    Raises:
        TokenError: a code does not fit its bits, the trailer is not JSON, or the file would be
            larger than a reader accepts.
    """
    header = token_file._header()
    trailer = _json(token_file.trailer)
    if header.payload_bytes + len(trailer) > MAX_FILE_BYTES - (1 << 20):
        raise TokenError(
            f"{header.stored_codes} codes take {header.payload_bytes} bytes but a token file holds"
            f" at most {MAX_FILE_BYTES}: write several files or a shard"
        )
    codes = token_file.codes
    if header.lengths is not None:
        codes = codes[_valid(header.shape, header.lengths)]
    if header.factors_first:
        codes = np.moveaxis(codes, 0, -1)
    data = encode_header(header) + pack(codes.reshape(-1), header.bits) + trailer
    data[CHECKSUM] = checksum(data)
    return bytes(data)


def loads(
    data: bytes,
    *,
    expect_code_hash: str | None = None,
    vocabulary: int | Sequence[int] | None = None,
) -> TokenFile:
    """Read a token file from bytes; the inverse of `dumps`, for input that nobody vouches for.

    Args:
        data: the whole file.
        expect_code_hash: code hash (12 hex digits or more) of the tokenizer that shall decode.
        vocabulary: entries of its tables, one number or one for each entry of the factor axis.

    Returns:
        the file; ``dumps`` of it gives ``data`` again.

    Raises:
        TokenError: not a token file, damaged, cut, of another version or tokenizer, codes outside
            the vocabulary.  Every size is checked against ``len(data)`` before memory is taken.

    Example:
        >>> file = TokenFile(np.array([3, 1]), (2,), "0123456789ab")
        >>> loads(dumps(file)).codes.tolist()
        [3, 1]
    """
    _check_size(len(data))
    header, start = _checked_header(data)
    if expect_code_hash is not None:
        wanted = _checked_hash(expect_code_hash).lower()[:HASH_DIGITS]
        if wanted != header.code_prefix:
            raise TokenError(
                f"the tokens were written by a tokenizer with code hash {header.code_prefix}... but"
                f" the given one has {wanted}...: decode with the tokenizer that encoded them"
            )
    end = start + header.payload_bytes
    trailer = _read_trailer(bytes(data[end:])) if header.has_trailer else None
    flat = unpack(memoryview(data)[start:end], header.stored_codes, header.bits)
    codes = _shaped(flat, header)
    if vocabulary is not None:
        _check_vocabulary(codes, vocabulary, header.factors_first)
    return TokenFile(
        codes, header.bits, header.code_prefix, header.extent, header.policy, header.sample_rate,
        header.lengths, header.factors_first, trailer,
    )  # fmt: skip


def write_token_file(
    path: str | os.PathLike[str], token_file: TokenFile, *, force: bool = False
) -> int:
    """Write a token file, whole or not at all.

    Returns:
        its size in bytes.

    Raises:
        TokenError: as `dumps`.
        TesseraError: the file exists and ``force`` is False, or it cannot be written.
    """
    return write_bytes(path, dumps(token_file), force=force)


def read_token_file(
    path: str | os.PathLike[str],
    *,
    expect_code_hash: str | None = None,
    vocabulary: int | Sequence[int] | None = None,
) -> TokenFile:
    """Read a token file from disk; arguments and errors as `loads`, the path said in front."""
    try:
        data = _read_bytes(path)
        return loads(data, expect_code_hash=expect_code_hash, vocabulary=vocabulary)
    except TokenError as error:
        raise TokenError(f"{os.fspath(path)}: {error}") from None


def _read_bytes(path: str | os.PathLike[str]) -> bytes:
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for a writer for ever.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(handle, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise TokenError("this is not a regular file: give the path of a .tok file")
            _check_size(status.st_size)
            return file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, TokenError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise TokenError(
            f"the token file cannot be read ({reason}): give the path of a .tok file"
        ) from None


def _check_size(size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise TokenError(
            f"{size} bytes are too many for a token file: at most {MAX_FILE_BYTES} are read;"
            " give a .tok file or split it"
        )


def _checked_header(data: bytes) -> tuple[Header, int]:
    """Read the header; of damaged bytes say that first, since nothing they claim can be trusted."""
    try:
        header, start = decode_header(data)
    except TokenError:
        known = data[: len(MAGIC)] == MAGIC and len(data) >= CHECKSUM.stop and data[3] == VERSION
        if known and checksum(data) != data[CHECKSUM]:
            raise _damaged("") from None
        raise
    end = start + header.payload_bytes
    missing, extra = end - len(data), 0 if header.has_trailer else len(data) - end
    sizes = ""
    if missing > 0:
        sizes = f" ({len(data)} bytes are there but its header promises {end})"
    elif extra > 0:
        sizes = f" ({extra} bytes follow the end that its header promises)"
    if checksum(data) != data[CHECKSUM]:
        raise _damaged(sizes)
    if sizes:
        raise TokenError(f"the token file has the wrong size{sizes}: copy or encode it again")
    return header, start


def _damaged(sizes: str) -> TokenError:
    return TokenError(
        f"the token file is damaged or incomplete, its checksum does not fit{sizes}:"
        " copy or encode it again"
    )


def _shaped(flat: np.ndarray, header: Header) -> np.ndarray:
    shape = header.shape
    if header.factors_first:
        return np.moveaxis(flat.reshape(*shape[1:], shape[0]), -1, 0)
    if header.lengths is None:
        return flat.reshape(shape)
    codes = np.zeros(shape, dtype=np.int64)
    codes[_valid(shape, header.lengths)] = flat.reshape(-1, *shape[2:])
    return codes


def _valid(shape: Sequence[int], lengths: Sequence[int]) -> np.ndarray:
    """Return bool (rows, positions): True where a ragged row holds a code."""
    return np.arange(shape[1])[None] < np.asarray(lengths, dtype=np.int64)[:, None]


def _check_vocabulary(
    codes: np.ndarray, vocabulary: int | Sequence[int], factors_first: bool
) -> None:
    legal = np.asarray(vocabulary, dtype=np.int64).reshape(-1)
    by_factor = np.moveaxis(codes, 0, -1) if factors_first else codes
    if legal.size not in (1, by_factor.shape[-1]):
        raise TokenError(
            f"codes of shape {codes.shape} do not fit a tokenizer with {legal.size} factors:"
            " decode with the tokenizer that encoded them"
        )
    wrong = by_factor >= legal
    if wrong.any():
        at = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
        limit = int(legal[at[-1] if legal.size > 1 else 0])
        raise TokenError(
            f"code {int(by_factor[at])} is outside the tokenizer's vocabulary: legal are 0 to"
            f" {limit - 1}; the file is damaged or belongs to another tokenizer"
        )


def _plain_bits(bits: int | Sequence[int], factors_first: bool) -> tuple[tuple[int, ...], bool]:
    """Return the widths and the factor axis in their one spelling: equal widths become one."""
    widths = tuple(int(b) for b in bits) if isinstance(bits, Iterable) else (int(bits),)
    if len(set(widths)) == 1:
        return widths[:1], False
    return widths, factors_first


def _checked_hash(code_hash: str) -> str:
    head = code_hash[:HASH_DIGITS]
    if len(head) < HASH_DIGITS or set(head.lower()) - set("0123456789abcdef"):
        raise TokenError(
            f"code hash '{code_hash}' is not legal: give at least {HASH_DIGITS} hex digits, as"
            " tokenizer.code_hash() returns them"
        )
    return code_hash


def _json(trailer: dict[str, Any] | None) -> bytes:
    """Return the one spelling of a trailer: compact, ASCII, keys in their order."""
    if trailer is None:
        return b""
    try:
        text = json.dumps(trailer, separators=(",", ":"), allow_nan=False)
        if not isinstance(trailer, dict) or json.loads(text) != trailer:
            raise ValueError("it does not come back the same")
    except (TypeError, ValueError, RecursionError) as error:
        raise TokenError(
            f"the trailer cannot be stored as JSON ({error}): give a dict with text keys and"
            " finite numbers, text, lists or dicts in it"
        ) from None
    if len(text) > MAX_TRAILER_BYTES:
        raise TokenError(
            f"a trailer of {len(text)} bytes is too long: legal are {MAX_TRAILER_BYTES}; keep large"
            " facts in a file of their own"
        )
    return text.encode("ascii")


def _read_trailer(text: bytes) -> dict[str, Any]:
    wrong = ""
    if len(text) > MAX_TRAILER_BYTES:
        wrong = f"its {len(text)} bytes exceed the legal {MAX_TRAILER_BYTES}"
    else:
        try:
            trailer = json.loads(text)
            if isinstance(trailer, dict) and trailer and _json(trailer) == text:
                return trailer
            wrong = "it is not one compact JSON object"
        except (ValueError, RecursionError):
            wrong = "it is not JSON"
    raise TokenError(
        f"the token file's trailer is not legal, {wrong}: encode the file again with this program"
    )
