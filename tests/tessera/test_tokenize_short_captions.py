"""`tessera tokenize --captions` with NAME.short.npy: what is stored, what is broken, kills."""

from __future__ import annotations

import io
import signal
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.warm_python import WarmProcess
from tok_core.caption_features import MOST_BYTES
from tok_core.token_shards import TokenShards

from .conftest import ROOT, Tessera, environment, make_picture

WIDTH = 6


def features(count: int, seed: int, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def captioned(root: Path, count: int) -> Path:
    """Return a folder of pictures with captions; those of odd numbers have a short one too."""
    for i in range(count):
        make_picture(root / f"{i:03d}.png", 32, 32, seed=i)
        np.save(root / f"{i:03d}.npy", features(4, seed=i))
        if i % 2:
            np.save(root / f"{i:03d}.short.npy", features(2, seed=100 + i))
    return root


def check(shards: TokenShards, i: int, *, short: bool) -> None:
    full, brief = shards.caption(i), shards.caption(i, short=True)
    number = int(shards.name(i).rpartition("/")[2].split(".")[0])
    assert full is not None and np.array_equal(full.numpy(), features(4, seed=number))
    assert (brief is not None) == short
    if brief is not None:
        assert np.array_equal(brief.numpy(), features(2, seed=100 + number))


def test_short_captions_lie_beside_the_full_ones(
    tessera: Tessera, tiny: Path, tmp_path: Path
) -> None:
    root, out = captioned(tmp_path / "in", 5), tmp_path / "out"
    done = tessera("tokenize", root, out, "-m", tiny, "--captions", "--per-shard", 3)
    assert done.returncode == 0, done.stderr
    shards = TokenShards(out)
    assert shards.captioned and shards.short_captioned and shards.length == 5
    for i in range(5):
        shards.item(i)
        check(shards, i, short=bool(i % 2))
    with tarfile.open(out / "shard-000000.tar") as tar:
        names = ["000.tok", "000.npy", "001.tok", "001.npy", "001.short.npy", "002.tok", "002.npy"]
        assert tar.getnames() == names
        member = tar.extractfile("001.short.npy")
        assert member is not None
        assert np.array_equal(np.load(io.BytesIO(member.read())), features(2, seed=101))
    # Without the option neither is stored, without short files no column says a word of them.
    plain = tessera("tokenize", root, tmp_path / "plain", "-m", tiny)
    assert plain.returncode == 0 and not TokenShards(tmp_path / "plain").short_captioned
    for path in root.glob("*.short.npy"):
        path.unlink()
    assert tessera("tokenize", root, out, "-m", tiny, "--captions", "--force").returncode == 0
    shards = TokenShards(out)
    assert shards.captioned and not shards.short_captioned
    assert shards.caption(1, short=True) is None
    assert "short" not in (out / "index.json").read_text()


def test_short_captions_of_tar_shards(tessera: Tessera, tiny: Path, tmp_path: Path) -> None:
    root = captioned(tmp_path / "in", 4)
    (root / "003.short.npy").write_bytes(b"a caption")
    source = tmp_path / "in.tar"
    with tarfile.open(source, "w") as tar:
        for name in ("000.png", "000.npy", "001.short.npy", "001.png", "001.npy", "003.npy",
                     "003.short.npy", "003.png"):  # fmt: skip
            tar.add(root / name, f"deep.er/{name}")
    out = tmp_path / "out"
    done = tessera("tokenize", source, out, "-m", tiny, "--captions")
    assert done.returncode == 1, done.stderr
    shards = TokenShards(out)
    assert shards.length == 3
    for i in range(3):
        check(shards, i, short=i == 1)
    (skipped,) = shards.index.skipped
    assert skipped["source"] == f"{source}/deep.er/003.short.npy"
    assert skipped["source"] in done.stderr


def saved(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


BROKEN: dict[str, tuple[Callable[[], bytes], str]] = {
    "text": (lambda: b"a caption", "no whole .npy file"),
    "integers": (lambda: saved(np.zeros((2, WIDTH), np.int64)), "holds int64 of shape"),
    "cut": (lambda: saved(features(2, 0))[:-1], "is cut off"),
    "NaN": (lambda: saved(np.full((2, WIDTH), np.nan, np.float32)), "holds NaN or Inf"),
    "another encoder": (lambda: saved(features(2, 0, WIDTH + 1)),
                        "has 7 features and the full caption 6"),
    "huge": (lambda: bytes(MOST_BYTES + 1), "is larger than"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_short_caption_is_named_and_its_picture_kept(
    tessera: Tessera, tiny: Path, tmp_path: Path, kind: str
) -> None:
    data, error = BROKEN[kind]
    root, out = captioned(tmp_path / "in", 4), tmp_path / "out"
    (root / "001.short.npy").write_bytes(data())
    options = ("-m", tiny, "--captions", "--batch-size", 2, "--json")
    done = tessera("tokenize", root, out, *options)
    assert done.returncode == 1
    shards = TokenShards(out)
    assert shards.length == 4
    for i in range(4):
        check(shards, i, short=i == 3)
    (skipped,) = shards.index.skipped
    assert skipped["source"] == str(root / "001.short.npy") and error in skipped["error"]
    assert "its sample is kept, with the full caption alone" in skipped["error"]
    # The sample counts once, also when a finished run is asked for again.
    assert '"total": 4' in done.stdout
    assert '"total": 4' in tessera("tokenize", root, out, *options, "--resume").stdout


def test_a_folder_in_place_of_a_short_caption(
    tessera: Tessera, tiny: Path, tmp_path: Path
) -> None:
    root, out = captioned(tmp_path / "in", 1), tmp_path / "out"
    (root / "000.short.npy").mkdir()
    assert tessera("tokenize", root, out, "-m", tiny, "--captions").returncode == 1
    shards = TokenShards(out)
    assert shards.length == 1 and "cannot be read" in shards.index.skipped[0]["error"]


def test_a_short_caption_alone_is_none(tessera: Tessera, tiny: Path, tmp_path: Path) -> None:
    root, out = captioned(tmp_path / "in", 2), tmp_path / "out"
    (root / "001.npy").unlink()
    assert tessera("tokenize", root, out, "-m", tiny, "--captions").returncode == 1
    shards = TokenShards(out)
    assert shards.length == 1
    assert "no caption features beside it" in shards.index.skipped[0]["error"]


def test_sigkill_loses_no_short_caption(tessera: Tessera, tiny: Path, tmp_path: Path) -> None:
    root = captioned(tmp_path / "in", 120)
    (root / "007.short.npy").write_bytes(b"a caption")
    (root / "101.short.npy").write_bytes(b"a caption")
    options = ("-m", tiny, "--captions", "--per-shard", 50, "--batch-size", 2, "--processes", 1)
    whole, out = tmp_path / "whole", tmp_path / "killed"
    assert tessera("tokenize", root, whole, *options).returncode == 1
    words = map(str, ("tokenize", root, out, *options))
    process = WarmProcess("-m", "tessera", *words, cwd=ROOT, env=environment())
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if next(out.glob("unfinished/part-*.json"), None):
            break
        time.sleep(0.0005)
    process.kill()
    assert process.wait(timeout=60) == -signal.SIGKILL, "the run was over before it was killed"
    assert tessera("tokenize", root, out, *options, "--resume").returncode == 1
    for path in sorted(whole.iterdir()):
        assert path.read_bytes() == (out / path.name).read_bytes()
    assert len(list(out.iterdir())) == len(list(whole.iterdir()))
    shards = TokenShards(out)
    assert shards.length == 120 and len(shards.index.skipped) == 2
    for i in range(120):
        check(shards, i, short=bool(i % 2) and i not in (7, 101))
