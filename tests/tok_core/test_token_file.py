"""Token files: every layout there and back, sizes, and one sentence for every wrong input."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tok_core.bit_packing import pack, packed_bytes, unpack
from tok_core.errors import TesseraError, TokenError
from tok_core.token_file import (
    MAX_FILE_BYTES,
    TokenFile,
    dumps,
    loads,
    read_token_file,
    token_file_size,
    write_token_file,
)
from tok_core.token_file_header import checksum

ROOT = Path(__file__).resolve().parents[2]
HASH = "0123456789abcdef" * 4
RANDOM = np.random.default_rng(0)


def layout(shape: tuple[int, ...], bits: tuple[int, ...], **rest: Any) -> TokenFile:
    """Random codes of a shape, each in the range of its width."""
    first = rest.get("factors_first", False)
    limits = 2 ** np.asarray(bits, dtype=np.int64)
    limits = limits.reshape(-1, *[1] * (len(shape) - 1)) if first else limits
    return TokenFile(RANDOM.integers(0, limits, shape), bits, HASH, **rest)


LAYOUTS = {
    "one_d": layout((256,), (12,), extent=(256, 256), policy="resize"),
    "one_d_large_original": layout((256,), (12,), extent=(20000, 30000), policy="crop"),
    "prefix": layout((7,), (12,), extent=(333, 500), policy="resize"),
    "single": layout((1,), (1,)),
    "grid": layout((16, 16), (14,), extent=(256, 256), policy="crop"),
    "per_dimension": layout((16, 16, 16), (6,), extent=(256, 256)),
    "mixed_widths": layout((5, 4, 3), (3, 11, 24)),
    "branches": layout((2, 286), (12,), extent=(256, 256)),
    "branches_of_two_tables": layout((2, 37), (13, 15), factors_first=True),
    "audio": layout((8, 125), (10,), extent=(160000,), sample_rate=16000),
    "audio_without_rate": layout((1, 75), (12,), extent=(24000,)),
    "tiles": layout((6, 64), (12,), extent=(700, 500), policy="tile"),
    "tiles_with_lengths": layout(
        (4, 64), (12,), extent=(512, 512), policy="tile", lengths=(64, 1, 9, 30)
    ),
    "ragged_mixed": layout((3, 5, 2), (4, 9), lengths=(2, 5, 1)),
    "trailer": layout((4,), (12,), trailer={"name": "Überfahrt", "overlap": 8, "q": [1.5, None]}),
}
ALL = pytest.mark.parametrize("name", LAYOUTS)


@ALL
def test_every_layout_comes_back(name: str, tmp_path: Path) -> None:
    file = LAYOUTS[name]
    size = write_token_file(tmp_path / "a.tok", file)
    again = read_token_file(tmp_path / "a.tok", expect_code_hash=HASH)
    assert again == file
    assert again.codes.dtype == np.int64
    assert (again.code_hash, again.fits(HASH), again.fits("f" * 12)) == (HASH[:12], True, False)
    assert (tmp_path / "a.tok").stat().st_size == size == file.num_bytes == again.num_bytes
    assert dumps(again) == dumps(file)


@ALL
def test_size_is_known_before_there_are_codes(name: str) -> None:
    file = LAYOUTS[name]
    known = token_file_size(
        file.codes.shape, file.bits, extent=file.extent, policy=file.policy,
        sample_rate=file.sample_rate, lengths=file.lengths, factors_first=file.factors_first,
        trailer=file.trailer,
    )  # fmt: skip
    assert known == file.num_bytes == len(dumps(file))


def test_the_preamble_of_a_picture_is_at_most_32_bytes() -> None:
    for name in ("one_d", "one_d_large_original", "prefix"):
        assert LAYOUTS[name].num_bytes - LAYOUTS[name].payload_bytes <= 32
    assert LAYOUTS["one_d"].num_bytes == 23 + 384
    assert LAYOUTS["one_d"].bits_per_pixel == 8 * 407 / 256**2
    audio = LAYOUTS["audio"]
    assert audio.bits_per_second == pytest.approx(8 * audio.num_bytes / 10)


def test_ragged_rows_store_only_what_is_valid() -> None:
    file = LAYOUTS["tiles_with_lengths"]
    assert (file.num_codes, file.payload_bytes) == (104, 156)
    assert file.codes[1, 1:].sum() == 0
    full = TokenFile(np.ones((2, 3), dtype=int), (1,), HASH, lengths=(3, 3))
    assert full.lengths is None


def test_equal_widths_become_one() -> None:
    file = TokenFile(np.ones((2, 3), dtype=np.uint16), (4, 4, 4), HASH, factors_first=True)
    assert (file.bits, file.factors_first) == ((4,), False)
    assert file != LAYOUTS["single"]
    assert file != "something else"


@pytest.mark.parametrize("bits", [*((b,) for b in range(1, 25)), (1, 24), (24, 23, 1, 7, 8)])
@pytest.mark.parametrize("rows", [1, 2, 7, 20000])
def test_packing_matches_text_bits(bits: tuple[int, ...], rows: int) -> None:
    codes = RANDOM.integers(0, 2 ** np.asarray(bits, dtype=np.int64), (rows, len(bits))).reshape(-1)
    data = pack(codes, bits)
    assert len(data) == packed_bytes(codes.size, bits)
    assert np.array_equal(unpack(data, codes.size, bits), codes)
    if rows < 100:
        text = "".join(f"{c:0{bits[i % len(bits)]}b}" for i, c in enumerate(codes.tolist()))
        assert "".join(f"{byte:08b}" for byte in data) == text.ljust(8 * len(data), "0")


def test_unpack_refuses_a_size_that_does_not_fit() -> None:
    for data, count, bits in ((b"1", 3, (4,)), (b"", 1 << 60, (24,)), (b"12", 3, (4, 4))):
        with pytest.raises(TokenError, match="do not hold"):
            unpack(data, count, bits)


ONE = np.arange(4)
ILLEGAL: dict[str, tuple[dict[str, Any], str]] = {
    "too large": ({"codes": np.array([0, 4096])}, "code 4096 at position 1 does not fit 12 bits"),
    "negative": ({"codes": np.array([-1])}, "code -1 at position 0"),
    "huge": ({"codes": np.array([2**63 + 5], dtype=np.uint64)}, "does not fit 12 bits"),
    "floats": ({"codes": np.zeros(3)}, "give integers"),
    "empty": ({"codes": np.zeros((0,), dtype=int)}, "at least one token"),
    "scalar": ({"codes": np.array(3)}, "1 to 8 axes"),
    "bits": ({"bits": (25,)}, "25 bits is not legal"),
    "no bits": ({"bits": ()}, "bits are empty"),
    "factors": ({"bits": (3, 4, 5)}, "3 widths do not fit"),
    "hash": ({"code_hash": "xyz"}, "12 hex digits"),
    "extent": ({"extent": (0, 5)}, "each at least 1"),
    "extent axes": ({"extent": (1, 2, 3)}, "give (H, W)"),
    "pixels": ({"extent": (1 << 20, 1 << 20)}, "too large"),
    "samples": ({"extent": (1 << 40,)}, "too long"),
    "rate": ({"sample_rate": 16000}, "together with the extent"),
    "policy": ({"policy": "stretch"}, "legal are none, resize, crop, tile"),
    "policy without picture": ({"policy": "crop", "extent": (5,)}, "needs the extent (H, W)"),
    "lengths on 1d": ({"lengths": (1,)}, "lengths do not fit"),
    "lengths": ({"codes": np.ones((2, 3), dtype=int), "lengths": (1, 4)}, "length of 4"),
    "zero length": ({"codes": np.ones((2, 3), dtype=int), "lengths": (0, 3)}, "at least 1"),
    "lengths on factors": (
        {"codes": np.ones((2, 2), dtype=int), "lengths": (1, 2), "bits": (3, 4)},
        "third axis",
    ),
    "mostly padding": (
        {"codes": np.zeros((400, 400), dtype=int), "lengths": (400, *[1] * 399)},
        "several files",
    ),
    "trailer": ({"trailer": {"a": object()}}, "stored as JSON"),
    "trailer nan": ({"trailer": {"a": float("nan")}}, "stored as JSON"),
    "trailer keys": ({"trailer": {1: 2}}, "stored as JSON"),
    "trailer length": ({"trailer": {"a": "b" * 70000}}, "too long"),
}


@pytest.mark.parametrize("name", ILLEGAL)
def test_what_cannot_be_written_is_one_sentence(name: str, tmp_path: Path) -> None:
    changes, message = ILLEGAL[name]
    values: dict[str, Any] = {"codes": ONE, "bits": (12,), "code_hash": HASH} | changes
    with pytest.raises(TokenError, match=re.escape(message)) as caught:
        write_token_file(tmp_path / "a.tok", TokenFile(**values))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def sealed(data: bytes) -> bytes:
    """Give crafted bytes a checksum that fits."""
    return data[:5] + checksum(data) + data[9:]


GOOD = dumps(TokenFile(np.arange(40), (12,), HASH, (64, 64), "resize"))
NOTED = dumps(TokenFile(np.arange(4), (12,), HASH, trailer={"a": 1}))
RAGGED = dumps(LAYOUTS["ragged_mixed"])
BARE = GOOD[5:15]  # checksum and hash
HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no token file"),
    "magic": (b"PNG" + GOOD[3:], "no token file: it starts with b'PNG'"),
    "magic only": (GOOD[:3], "cut off"),
    "version": (sealed(GOOD[:3] + b"\x07" + GOOD[4:]), "version 7 is not known"),
    "one flipped bit": (GOOD[:-1] + bytes((GOOD[-1] ^ 4,)), "checksum"),
    "truncated": (GOOD[:-9], "71 bytes are there but its header promises 80"),
    "truncated, checksum right": (sealed(GOOD[:-9]), "wrong size (71 bytes are there"),
    "trailing": (GOOD + b"xyz", "3 bytes follow"),
    "trailing, checksum right": (sealed(GOOD + b"xyz"), "wrong size (3 bytes follow"),
    "inside header": (sealed(GOOD[:16]), "promises 1 more numbers but only 0"),
    "inside number": (sealed(GOOD[:15] + b"\x13\xff\xff\xff"), "ends inside its header"),
    "flags": (sealed(GOOD[:4] + b"\xff" + GOOD[5:]), "unknown flags"),
    "rank": (sealed(GOOD[:15] + b"\x2f" + GOOD[16:]), "unknown flags"),
    "endless number": (sealed(GOOD[:16] + b"\xff" * 40), "more than 6 bytes"),
    "many tokens": (sealed(GOOD[:16] + b"\xff\xff\xff\xff\xff\x7f" + GOOD[17:]), "wrong size"),
    "zero tokens": (sealed(GOOD[:16] + b"\x00" + GOOD[17:]), "at least one token"),
    "zero bits": (sealed(GOOD[:17] + b"\x00" + GOOD[18:]), "0 bits is not legal"),
    "long spelling": (sealed(GOOD[:16] + b"\xa8\x00" + GOOD[17:]), "one legal spelling"),
    "equal widths": (sealed(b"TOK\1\4" + BARE + b"\2\1\2\4\4\x12"), "one legal spelling"),
    "full lengths": (sealed(b"TOK\1\x10" + BARE + b"\2\2\2\4\2\2\x12\x34"), "one legal spelling"),
    "needless axis": (sealed(b"TOK\1\x08" + BARE + b"\2\1\2\4\x12"), "one legal spelling"),
    "filling bits": (sealed(NOTED[:4] + b"\0" + NOTED[5:16] + b"\x01\x0c\x00\x01"), "filling bits"),
    "trailer not json": (sealed(NOTED[:-1] + b"]"), "trailer is not legal, it is not JSON"),
    "trailer no object": (sealed(NOTED[:-7] + b"[1]"), "not one compact JSON object"),
    "trailer spaces": (sealed(NOTED + b" "), "not one compact JSON object"),
    "trailer deep": (sealed(NOTED[:-7] + b"[" * 60000), "it is not JSON"),
    "trailer not text": (sealed(NOTED[:-1] + b"\xff"), "it is not JSON"),
    "trailer long": (sealed(NOTED + b" " * 70000), "exceed"),
    "length too long": (sealed(RAGGED[:21] + b"\x09" + RAGGED[22:]), "length of 9"),
    "too large": (bytes(MAX_FILE_BYTES + 1), "too many for a token file"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_are_one_sentence(name: str, tmp_path: Path) -> None:
    data, message = HOSTILE[name]
    with pytest.raises(TokenError, match=re.escape(message)) as caught:
        loads(data)
    assert "\n" not in str(caught.value)
    (tmp_path / "a.tok").write_bytes(data)
    with pytest.raises(TokenError, match=r"a\.tok: .*" + re.escape(message)):
        read_token_file(tmp_path / "a.tok")


def test_every_truncation_is_refused() -> None:
    for data in (GOOD, NOTED, RAGGED):
        for cut in range(len(data)):
            with pytest.raises(TokenError):
                loads(data[:cut])
            with pytest.raises(TokenError):
                loads(sealed(data[:cut]) if cut > 9 else data[:cut])


def test_the_wrong_tokenizer_is_named_with_both_hashes() -> None:
    with pytest.raises(TokenError, match=r"hash 0123456789ab\.\.\. but the given one has f{12}"):
        loads(GOOD, expect_code_hash="f" * 64)
    assert loads(GOOD, expect_code_hash=HASH[:12].upper()).codes.tolist() == list(range(40))


def test_codes_outside_the_vocabulary_are_refused() -> None:
    assert loads(GOOD, vocabulary=40).codes.max() == 39
    with pytest.raises(TokenError, match="code 39 is outside"):
        loads(GOOD, vocabulary=39)
    mixed = dumps(TokenFile(np.array([[7, 1], [3, 3]]), (3, 2), HASH))
    assert loads(mixed, vocabulary=(8, 4)).codes.shape == (2, 2)
    with pytest.raises(TokenError, match=r"code 3 is outside .* 0 to 2"):
        loads(mixed, vocabulary=(8, 3))
    with pytest.raises(TokenError, match="3 factors"):
        loads(mixed, vocabulary=(8, 4, 4))
    first = dumps(TokenFile(np.array([[7, 1], [3, 3]]), (3, 2), HASH, factors_first=True))
    with pytest.raises(TokenError, match="code 7"):
        loads(first, vocabulary=(7, 4))


def test_what_is_no_file_is_one_sentence(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "missing", tmp_path / "pipe", "/dev/zero", "a\0b"):
        with pytest.raises(TokenError, match="give the path") as caught:
            read_token_file(path)
        assert "\n" not in str(caught.value)


def test_nothing_is_overwritten_without_force(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "a.tok"
    write_token_file(path, LAYOUTS["one_d"])
    with pytest.raises(TesseraError, match="exists already"):
        write_token_file(path, LAYOUTS["grid"])
    assert read_token_file(path) == LAYOUTS["one_d"]
    write_token_file(path, LAYOUTS["grid"], force=True)
    assert read_token_file(path) == LAYOUTS["grid"]


def test_reading_needs_no_torch(tmp_path: Path) -> None:
    write_token_file(tmp_path / "a.tok", LAYOUTS["one_d"])
    program = (
        "import sys; from tok_core.token_file import read_token_file;"
        "read_token_file(sys.argv[1]); print({'torch', 'diffusers', 'PIL'} & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "a.tok")],
        capture_output=True, text=True, check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": "."},
    )  # fmt: skip
    assert done.stdout.strip() == "set()"


def test_the_documented_bytes_and_reader(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "tok_format.md").read_text()
    fence = re.search(r"```hex\n(.*?)```", text, re.S)
    program = re.search(r"```python\n(.*?)```", text, re.S)
    assert fence is not None
    assert program is not None
    data = bytes.fromhex("".join(line.split("  ")[0] for line in fence[1].splitlines()))
    file = loads(data, expect_code_hash=HASH)
    assert (file.codes.tolist(), file.extent, file.policy) == ([1, 2, 4095], (240, 320), "resize")
    (tmp_path / "read_tok.py").write_text(program[1])
    for name in ("one_d", "grid", "per_dimension", "audio", "tiles", "trailer"):
        write_token_file(tmp_path / f"{name}.tok", LAYOUTS[name])
        done = subprocess.run(
            [sys.executable, "read_tok.py", f"{name}.tok"],
            capture_output=True, text=True, check=True, cwd=tmp_path,
        )  # fmt: skip
        shape, total = LAYOUTS[name].codes.shape, int(LAYOUTS[name].codes.sum())
        assert done.stdout.split("\n")[0] == f"{shape} {total}"
