"""Small pictures, sounds, tokenizers and contestants on disk, for the tests of the judge's runs."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_audio import save_tiny, write_sound

from tests.eval.tiny_tokenizers import tiny_titok

# A module that --tokenizer names as judged_contestants:FUNCTION.
CONTESTANTS = '''
import time
import torch

def soft(x):
    return (x + x.roll(1, -1)) / 2

def slow(x):
    time.sleep(0.03)
    return soft(x)

def broken(x):
    return x * float("nan") if float(x.mean()) > 0.0 else soft(x)

def budgeted(x, budget):
    return (x * budget).round() / budget, b"." * int(budget)
'''


def picture(path: Path, width: int = 30, height: int = 24, seed: int = 0) -> Path:
    """Write a smooth coloured picture."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / (3 + i) + y / (7 - i) + seed + i) for i in range(3)]
    pixels = (127 + 120 * np.stack(waves, axis=-1)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@dataclass(frozen=True)
class Result:
    """What a run of the command line printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The last line on stderr, as a refused command must have printed it."""
        assert self.code == 1, (self.code, self.out, self.err)
        line = self.err.strip().splitlines()[-1]
        assert line.startswith("tessera: "), self.err
        return line.removeprefix("tessera: ")


Judge = Callable[..., Result]


@dataclass(frozen=True)
class Files:
    """Folders of originals and models."""

    root: Path

    @property
    def pictures(self) -> Path:
        """Nine pictures, in two folders."""
        return self.root / "pictures"

    @property
    def sounds(self) -> Path:
        """Three sounds of 8 kHz."""
        return self.root / "sounds"

    @property
    def titok(self) -> Path:
        """A One-D-Piece of 16 x 16 pixels and up to 8 tokens."""
        return self.root / "titok"

    @property
    def codec(self) -> Path:
        """A WavTokenizer of 8 kHz with two codebooks."""
        return self.root / "codec"


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Originals and tiny models, made once."""
    made = Files(tmp_path_factory.mktemp("judged"))
    for i in range(9):
        folder = made.pictures / ("deep" if i % 3 == 0 else ".")
        picture(folder / f"{i}.png", height=24 + i, seed=i)
    for i in range(3):
        write_sound(made.sounds / f"{i}.wav", 0.6 + 0.1 * i, seed=i)
    tiny_titok().save_pretrained(made.titok)
    save_tiny(made.codec)
    (made.root / "judged_contestants.py").write_text(CONTESTANTS)
    return made


@pytest.fixture
def judge(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Judge:
    """Run ``eval ARGUMENTS`` in an empty folder, in this process."""
    from eval.cli import run

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(files.root)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> Result:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = run([str(word) for word in arguments])
            except SystemExit as stop:
                code = stop.code if isinstance(stop.code, int) else 1
        return Result(code, out.getvalue(), err.getvalue())

    return call


def scores(path: Path) -> dict[tuple[str, float | None, str], dict[str, Any]]:
    """Return the scores of a file by contestant, budget and metric."""
    plain = json.loads(path.read_text())
    return {(s["contestant"], s["budget"], s["metric"]): s for s in plain["scores"]}
