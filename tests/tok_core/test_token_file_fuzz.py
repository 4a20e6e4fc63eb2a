"""Thousands of damaged and crafted token files: an error or correct data, in bounded memory."""

from __future__ import annotations

import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tok_core.errors import TokenError
from tok_core.token_file import TokenFile, dumps, loads

HASH = "00ff11ee22dd"
FUZZ = settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
SLACK = 1 << 20  # bytes: the 65,536 free cells of ragged rows take half of it
PER_BYTE = 400  # one-bit codes grow 64-fold by becoming int64, times the arrays at work on them


def sealed(data: bytes) -> bytes:
    """Replace the checksum by the right one, computed here and not by the code under test."""
    if len(data) < 9:
        return data
    crc = zlib.crc32(data[:5] + data[9:])
    return data[:5] + crc.to_bytes(4, "little") + data[9:]


@st.composite
def token_files(draw: st.DrawFn) -> TokenFile:
    """Any legal token file with up to a few hundred codes."""
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)))
    if draw(st.booleans()):
        shape = (*shape[:2], draw(st.integers(1, 40)))[-3:]
    first, rest = draw(st.booleans()), dict[str, Any]()
    factors = draw(st.sampled_from([1, shape[0 if first else -1]]))
    bits = tuple(draw(st.lists(st.integers(1, 24), min_size=factors, max_size=factors)))
    ragged = len(shape) > 1 and (len(set(bits)) == 1 or (len(shape) > 2 and not first))
    if ragged and draw(st.booleans()):
        row = st.integers(1, shape[1])
        rest["lengths"] = tuple(draw(st.lists(row, min_size=shape[0], max_size=shape[0])))
    limits = 2 ** np.asarray(bits, dtype=np.int64)
    limits = limits.reshape(-1, *[1] * (len(shape) - 1)) if first and len(bits) > 1 else limits
    codes = np.random.default_rng(draw(st.integers(0, 99))).integers(0, limits, shape)
    kinds: list[dict[str, Any]] = [
        {},
        {"extent": (draw(st.integers(1, 30000)), draw(st.integers(1, 30000)))},
        {"extent": (draw(st.integers(1, 1 << 36)),)},
        {"extent": (draw(st.integers(1, 1 << 36)),), "sample_rate": draw(st.integers(1, 192000))},
        {"extent": (5, 7), "policy": draw(st.sampled_from(["none", "resize", "crop", "tile"]))},
    ]
    value = st.none() | st.integers() | st.text(max_size=5) | st.floats(allow_nan=False)
    notes = draw(st.none() | st.dictionaries(st.text(max_size=4), value, max_size=3))
    if notes and any(v in (float("inf"), float("-inf")) for v in notes.values()):
        notes = None
    return TokenFile(
        codes,
        bits,
        HASH,
        factors_first=first,
        trailer=notes,
        **rest,
        **draw(st.sampled_from(kinds)),
    )


def read_or_refuse(data: bytes) -> TokenFile | None:
    """Read hostile bytes; what is read must be exactly what those bytes spell."""
    sentence = ""
    try:
        file = loads(data)
    except TokenError as error:
        sentence = str(error)
    if sentence:
        assert "\n" not in sentence
        assert len(sentence) < 1000
        return None
    assert dumps(file) == data
    assert file.num_bytes == len(data)
    return file


@given(token_files())
@settings(FUZZ, max_examples=500)
def test_round_trip(file: TokenFile) -> None:
    data = dumps(file)
    again = loads(data, expect_code_hash=HASH)
    assert again == file
    assert dumps(again) == data
    assert file.num_bytes == len(data)


@given(token_files(), st.data())
@FUZZ
def test_damage_is_always_noticed(file: TokenFile, data: st.DataObject) -> None:
    good = dumps(file)
    bad = bytearray(good)
    kind = data.draw(st.sampled_from(["flip", "burst", "cut", "insert", "remove", "append"]))
    at = data.draw(st.integers(0, len(good) - 1))
    if kind == "flip":
        bad[at] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "burst":
        bad[at : at + 4] = data.draw(st.binary(min_size=4, max_size=4))
    elif kind == "cut":
        del bad[at:]
    elif kind == "insert":
        bad[at:at] = data.draw(st.binary(min_size=1, max_size=9))
    elif kind == "remove":
        del bad[at : at + data.draw(st.integers(1, 9))]
    else:
        bad += data.draw(st.binary(min_size=1, max_size=30))
    # A crc32 finds every single burst of up to 32 bits; for the rest one miss in 4 billion.
    assert read_or_refuse(bytes(bad)) is None or bytes(bad) == good


@given(token_files(), st.data())
@FUZZ
def test_damage_with_a_right_checksum_is_refused_or_read_for_what_it_says(
    file: TokenFile, data: st.DataObject
) -> None:
    bad = bytearray(dumps(file))
    for _ in range(data.draw(st.integers(1, 4))):
        # Most of the damage goes to the header, where the sizes are.
        at = data.draw(st.integers(3, 26) | st.integers(0, len(bad)))
        change = data.draw(st.binary(max_size=3))
        bad[at : at + data.draw(st.integers(0, 3))] = change
    read_or_refuse(sealed(bytes(bad)))


VARINTS = st.lists(
    st.integers(0, 200) | st.sampled_from([0, 1, 255, 1 << 16, 1 << 31, 1 << 32, 1 << 41, 1 << 63]),
    max_size=12,
)


def spell(number: int) -> bytes:
    """Spell a varint of any size."""
    out = b""
    while number > 127:
        out, number = out + bytes((number & 127 | 128,)), number >> 7
    return out + bytes((number,))


@given(st.integers(0, 255), st.integers(0, 255), VARINTS, st.binary(max_size=80))
@example(0, 0x11, [1 << 41, 12, 5, 5], b"")
@example(16, 0x02, [1 << 31, 1 << 31, 1, 1, 1], b"\x01" * 60)
@example(16, 0x02, [60, 1 << 20, 1], b"\x01" * 80)
@example(4, 0x01, [1 << 20, 1, 2, 3], b"\x05" * 80)
@example(32, 0x01, [1, 8], b"\0" + b"[" * 3000)
@settings(FUZZ, max_examples=4000)
def test_crafted_headers(flags: int, layout: int, numbers: list[int], tail: bytes) -> None:
    start = b"TOK\x01" + bytes((flags & 63,)) + bytes(4) + bytes.fromhex(HASH) + bytes((layout,))
    read_or_refuse(sealed(start + b"".join(map(spell, numbers)) + tail))


@given(st.binary(max_size=200), st.sampled_from([b"", b"TOK", b"TOK\x01"]))
@FUZZ
def test_noise(data: bytes, start: bytes) -> None:
    read_or_refuse(start + data)
    read_or_refuse(sealed(start + data))


def peak(data: bytes) -> int:
    """Return the most memory, in bytes, that reading took."""
    tracemalloc.start()
    try:
        loads(data)
    except TokenError:
        pass
    finally:
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return most


@given(st.integers(0, 63), st.integers(0, 63), VARINTS, st.binary(max_size=80))
@example(16, 0x02, [64, 1 << 10, *[1] * 65], b"\xff" * 80)
@settings(FUZZ, max_examples=1500)
def test_memory_is_bounded_by_the_file(
    flags: int, layout: int, numbers: list[int], tail: bytes
) -> None:
    start = b"TOK\x01" + bytes((flags,)) + bytes(4) + bytes.fromhex(HASH) + bytes((layout,))
    data = sealed(start + b"".join(map(spell, numbers)) + tail)
    assert peak(data) <= SLACK + PER_BYTE * len(data)


@pytest.mark.parametrize("bits", [1, 12, 24])
@pytest.mark.parametrize("count", [1000, 300_000])
def test_memory_of_honest_files(bits: int, count: int) -> None:
    codes = np.random.default_rng(0).integers(0, 1 << bits, count)
    # The codes themselves, plus the temporaries of one chunk of 32,768 codes.
    assert peak(dumps(TokenFile(codes, (bits,), HASH))) <= 8 * count + count * bits // 8 + (4 << 20)


def test_lying_sizes_take_no_memory() -> None:
    for numbers in ([1 << 41, 24, 9, 9], [1 << 30, 1, 9, 9]):
        start = b"TOK\x01\x01" + bytes(4) + bytes.fromhex(HASH) + b"\x11"
        data = sealed(start + b"".join(map(spell, numbers)) + bytes(50))
        assert peak(data) < 50_000
