"""Broken files, full disks, Ctrl-C: one sentence, exit code not 0, finished work kept."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests import warm_python

from .conftest import Tessera, environment, make_picture, one_sentence, own_ctrl_c

# -- pictures ----------------------------------------------------------------------------------


def zero_bytes(path: Path) -> None:
    path.write_bytes(b"")


def truncated(path: Path) -> None:
    make_picture(path, 90, 90)
    path.write_bytes(path.read_bytes()[:400])


def no_picture(path: Path) -> None:
    path.write_bytes(b"#!/bin/sh\necho this is no picture\n" * 20)


def bomb(path: Path) -> None:
    """A PNG of a few hundred bytes that promises 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 100_000)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def a_folder(path: Path) -> None:
    path.mkdir()
    (path / "readme.txt").write_text("no pictures here")


BAD_PICTURES = (zero_bytes, truncated, no_picture, bomb)


@pytest.mark.parametrize("make", [*BAD_PICTURES, a_folder])
def test_one_bad_picture(
    tessera: Tessera, tiny: Path, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    bad, out = tmp_path / "bad.png", tmp_path / "out.tok"
    make(bad)
    done = tessera("encode", bad, "-o", out, "-m", tiny)
    assert done.returncode == 1
    assert "bad.png" in done.stderr
    assert not out.exists()


def test_bad_pictures_in_a_folder_do_not_spoil_the_good(
    tessera: Tessera, tiny: Path, photos: Path
) -> None:
    for make in BAD_PICTURES:
        make(photos / f"{make.__name__}.png")
    out = photos.parent / "out"
    done = tessera("encode", photos, "-o", out, "-m", tiny, "--json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert len(report["files"]) == 3
    failed = {Path(failure["source"]).stem for failure in report["failures"]}
    assert failed == {make.__name__ for make in BAD_PICTURES}
    assert len(list(out.rglob("*.tok"))) == 3
    for failure in report["failures"]:
        assert failure["source"] in done.stderr
        assert "\n" not in failure["error"]


def test_a_bomb_takes_no_memory(tiny: Path, tmp_path: Path) -> None:
    """60,000 x 60,000 pixels are 10 GB; the run must stay within what torch itself needs."""
    bomb(tmp_path / "bomb.png")
    done = subprocess.run(
        [sys.executable, "-m", "tessera", "encode", "bomb.png", "-o", "x.tok", "-m", tiny],
        cwd=tmp_path, env=environment(), capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30)),
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "bomb.png" in done.stderr


# -- token files -------------------------------------------------------------------------------


@pytest.fixture
def token_bytes(tessera: Tessera, tiny: Path, tmp_path: Path) -> bytes:
    picture = make_picture(tmp_path / "a.png", 60, 40)
    assert tessera("encode", picture, "-o", tmp_path / "a.tok", "-m", tiny).returncode == 0
    return (tmp_path / "a.tok").read_bytes()


def rebuilt(data: bytes, **changes: object) -> bytes:
    """Return the same token file with some facts changed and a correct checksum."""
    import dataclasses

    from tok_core.token_file import dumps, loads

    return dumps(dataclasses.replace(loads(data), **changes))  # type: ignore[arg-type]


def out_of_range(data: bytes) -> bytes:
    """Codes of 7 bits: 100 is no code of a table of 64."""
    import numpy as np

    return rebuilt(data, bits=(7,), codes=np.full(16, 100))


def too_many_tokens(data: bytes) -> bytes:
    import numpy as np

    return rebuilt(data, codes=np.zeros(17, dtype=np.int64))


def tiles_that_do_not_fit(data: bytes) -> bytes:
    import numpy as np

    return rebuilt(data, policy="tile", codes=np.zeros((2, 16), dtype=np.int64))


BAD_TOKENS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "magic": lambda data: b"NOPE" + data[4:],
    "version": lambda data: data[:3] + b"\xf9" + data[4:],
    "checksum": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "truncated": lambda data: data[:-4],
    "longer": lambda data: data + b"more",
    "header only": lambda data: data[:6],
    "out of range": out_of_range,
    "too many tokens": too_many_tokens,
    "tiles": tiles_that_do_not_fit,
    "huge picture": lambda data: rebuilt(data, extent=(30_000, 30_000)),
    "no picture": lambda data: rebuilt(data, extent=(), policy="none"),
    "a picture": lambda data: b"\x89PNG\r\n\x1a\n" + bytes(200),
}


@pytest.mark.parametrize("kind", BAD_TOKENS)
def test_bad_token_file(
    tessera: Tessera, tiny: Path, tmp_path: Path, token_bytes: bytes, kind: str
) -> None:
    bad, good, out = tmp_path / "in" / "bad.tok", tmp_path / "in" / "good.tok", tmp_path / "out"
    bad.parent.mkdir()
    bad.write_bytes(BAD_TOKENS[kind](token_bytes))
    good.write_bytes(token_bytes)
    done = tessera("decode", bad.parent, "-o", out, "-m", tiny, "--json")
    assert done.returncode == 1
    (failure,) = json.loads(done.stdout)["failures"]
    assert failure["source"] == str(bad)
    assert [p.name for p in out.iterdir()] == ["good.png"]


def test_tokens_of_another_model(
    tessera: Tessera, stranger: Path, tmp_path: Path, token_bytes: bytes
) -> None:
    (tmp_path / "a.tok").write_bytes(token_bytes)
    done = tessera("decode", tmp_path / "a.tok", "-o", tmp_path / "b.png", "-m", stranger)
    assert done.returncode == 1
    assert "code hash" in done.stderr
    assert not (tmp_path / "b.png").exists()


# -- models ------------------------------------------------------------------------------------


def test_missing_model_folder(tessera: Tessera, photos: Path) -> None:
    done = tessera("encode", photos, "-o", "out", "-m", "./no-such-model")
    assert done.returncode == 1
    assert "no-such-model" in one_sentence(done)


def test_config_with_an_unknown_key(tessera: Tessera, tiny: Path, photos: Path) -> None:
    broken = photos.parent / "broken"
    shutil.copytree(tiny, broken)
    config = json.loads((broken / "config.json").read_text())
    config["num_token"] = config.pop("num_tokens")
    (broken / "config.json").write_text(json.dumps(config))
    done = tessera("encode", photos, "-o", "out", "-m", broken)
    assert done.returncode == 1
    assert "did you mean 'num_tokens'" in one_sentence(done)


def test_weights_cut_short(tessera: Tessera, tiny: Path, photos: Path) -> None:
    broken = photos.parent / "broken"
    shutil.copytree(tiny, broken)
    (weights,) = broken.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:2000])
    done = tessera("encode", photos, "-o", "out", "-m", broken)
    assert done.returncode == 1
    assert str(broken) in one_sentence(done)


def test_training_config_with_an_unknown_key(tessera: Tessera, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("train:\n  stepz: 3\n")
    done = tessera("train", "--config", tmp_path / "run.yaml")
    assert done.returncode != 0
    assert "did you mean 'steps'" in done.stderr or "did you mean 'train.steps'" in done.stderr


def test_device_that_is_not_there(tessera: Tessera, tiny: Path, photos: Path) -> None:
    done = tessera("encode", photos, "-o", "out", "-m", tiny, "--device", "cuda:99")
    assert done.returncode == 1
    assert "cuda:99" in one_sentence(done)


# -- disks -------------------------------------------------------------------------------------


def test_output_that_is_a_device(tessera: Tessera, tiny: Path, photos: Path) -> None:
    for target in ("/dev/full", "/dev/null/tokens"):
        done = tessera("encode", photos, "-o", target, "-m", tiny)
        assert done.returncode == 1, target
        assert target.split("/")[2] in done.stderr


def test_files_that_may_not_grow(tessera: Tessera, tiny: Path, photos: Path) -> None:
    """No file may grow past 600 bytes: pictures cannot be written."""
    out = photos.parent / "out"
    make_picture(photos / "z.png", 400, 300)
    tokens = photos.parent / "tokens"
    assert tessera("encode", photos, "-o", tokens, "-m", tiny).returncode == 0

    done = subprocess.run(
        [sys.executable, "-m", "tessera", "decode", str(tokens), "-o", str(out), "-m", str(tiny)],
        cwd=photos.parent, env=environment(), capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600)),
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "cannot be written" in done.stderr
    for path in out.rglob("*.*"):
        Image.open(path).load()  # whatever is there is whole


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 kB; only root can make one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("no small disk can be mounted here; the limit on file sizes stands in")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_disk_that_fills_up(tessera: Tessera, tiny: Path, photos: Path, small_disk: Path) -> None:
    for i in range(12):
        make_picture(photos / f"more{i:02d}.png", 150, 150, seed=i)
    done = tessera("reconstruct", photos, "-o", small_disk / "out", "-m", tiny)
    assert done.returncode == 1
    assert "the disk is full" in done.stderr
    made = list(small_disk.rglob("*.png"))
    assert made, "what fitted is kept"
    for path in made:
        Image.open(path).load()
    assert not list(small_disk.rglob("*.part"))


def test_read_only_disk(tessera: Tessera, tiny: Path, photos: Path, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    done = tessera("encode", photos, "-o", small_disk / "out", "-m", tiny)
    assert done.returncode == 1
    assert "read-only" in one_sentence(done)


# -- Ctrl-C ------------------------------------------------------------------------------------


def test_ctrl_c_in_the_middle_of_a_folder(tiny: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    first = make_picture(source / "0000.png", 200, 200)
    for i in range(1, 1500):
        os.link(first, source / f"{i:04d}.png")
    process = warm_python.WarmProcess(
        "-m", "tessera", "encode", str(source), "-o", str(out), "-m", str(tiny),
        "--batch-size", "4", cwd=tmp_path, env=environment(),
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while len(list(out.glob("*.tok"))) < 8 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert "kept" in stderr
    from tok_core.token_file import read_token_file

    made = sorted(out.iterdir())
    assert 8 <= len(made) < 1500
    assert all(path.suffix == ".tok" and len(read_token_file(path).codes) == 16 for path in made)


def test_ctrl_c_while_loading(tiny: Path, photos: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tessera", "encode", str(photos), "-o", "o", "-m", str(tiny)],
        cwd=photos.parent, env=environment(), stderr=subprocess.PIPE, text=True,
        stdout=subprocess.DEVNULL, preexec_fn=own_ctrl_c,
    )  # fmt: skip
    maps = Path(f"/proc/{process.pid}/maps")
    deadline = time.monotonic() + 60
    while maps.exists() and "libtorch" not in maps.read_text() and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert not list(photos.parent.glob("o/*"))
