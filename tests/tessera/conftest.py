"""A tiny real tokenizer on disk, small pictures, and the command line as a subprocess."""

from __future__ import annotations

import contextlib
import io
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
TINY: dict[str, Any] = {
    "image_size": 32, "patch_size": 8, "num_tokens": 16, "token_size": 4,
    "encoder_size": {"width": 32, "layers": 1, "heads": 2},
    "decoder_size": {"width": 32, "layers": 1, "heads": 2},
    "codebook_size": 64,
}  # fmt: skip


def save_tiny(folder: Path, seed: int) -> Path:
    """Save a small One-D-Piece with seeded random weights."""
    import torch

    from vision_tok.one_d_piece import OneDPiece

    torch.manual_seed(seed)
    OneDPiece(**TINY).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random One-D-Piece: 32 x 32 pixels, up to 16 tokens of 6 bits."""
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny", seed=0)


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network with other weights: its tokens mean something else."""
    return save_tiny(tmp_path_factory.mktemp("models") / "stranger", seed=1)


def make_picture(path: Path, width: int, height: int, seed: int = 0) -> Path:
    """Write a smooth coloured picture with some detail."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / (5 + i) + y / (9 - i) + seed + i) for i in range(3)]
    pixels = (127 + 120 * np.stack(waves, axis=-1)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A small tree of good pictures of several sizes and formats."""
    root = tmp_path / "photos"
    make_picture(root / "a.png", 60, 40)
    make_picture(root / "b.jpg", 33, 71, seed=1)
    make_picture(root / "deep" / "c.webp", 32, 32, seed=2)
    return root


@dataclass(frozen=True)
class Result:
    """What a run of the command line printed, and its exit code."""

    returncode: int
    stdout: str
    stderr: str


Tessera = Callable[..., Result]


@pytest.fixture
def tessera(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tessera:
    """Run ``tessera ARGUMENTS`` from an empty folder, in this process.

    A process of its own for each would spend most of the time importing torch; the tests of
    signals, limits and start-up time do that.  An exception here is what a traceback is there.
    """
    from tessera.cli import run as run_cli

    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def run(*arguments: object) -> Result:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = run_cli([str(word) for word in arguments])
            except SystemExit as stop:
                code = stop.code if isinstance(stop.code, int) else 1
        return Result(code, out.getvalue(), err.getvalue())

    return run


def environment() -> dict[str, str]:
    """For processes: one thread, and the repository on the path."""
    return {
        **os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1",
        "COLUMNS": "120",
    }  # fmt: skip


def own_ctrl_c() -> None:
    """Give the child the ordinary Ctrl-C, also where the tests run in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def one_sentence(result: Result) -> str:
    """Return the single line that a refused command must have printed on stderr."""
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("tessera: ")
    assert result.stdout == ""
    return lines[0].removeprefix("tessera: ")
