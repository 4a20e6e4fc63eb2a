"""make says in one sentence what is missing, and makes the environment again when it is stale."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from .conftest import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make here")


def make(*words: object) -> subprocess.CompletedProcess[str]:
    plain = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    return subprocess.run(
        ["make", *map(str, words)], cwd=ROOT, capture_output=True, text=True, env=plain
    )


def fake_python(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_an_old_python_is_one_sentence(tmp_path: Path) -> None:
    old = fake_python(
        tmp_path / "python3", 'case "$1" in --version) echo Python 3.9.1;; *) exit 1;; esac'
    )
    done = make("setup", f"PYTHON={old}", f"VENV={tmp_path / 'env'}")
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert len(said) == 1
    assert "needs Python 3.11 or newer" in said[0]
    assert "Python 3.9.1" in said[0]


def test_a_missing_venv_module_is_one_sentence(tmp_path: Path) -> None:
    bare = fake_python(
        tmp_path / "python3", 'case "$2" in *venv*) exit 1;; *) exit 0;; esac'
    )  # fmt: skip
    done = make("setup", f"PYTHON={bare}", f"VENV={tmp_path / 'env'}")
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert len(said) == 1
    assert "has no venv module" in said[0]
    assert not (tmp_path / "env").exists()


def test_setup_is_done_once_and_again_when_the_constraints_change(tmp_path: Path) -> None:
    env = tmp_path / "env"
    (env / "bin").mkdir(parents=True)
    (env / "bin" / "python").touch()
    stamps = [env / ".torch", env / ".setup-test"]
    for stamp in stamps:
        stamp.touch()
    assert make("--question", env / ".setup-test", f"VENV={env}").returncode == 0
    old = min((ROOT / name).stat().st_mtime for name in ("constraints.txt", "pyproject.toml")) - 9
    os.utime(stamps[1], (old, old))
    assert make("--question", env / ".setup-test", f"VENV={env}").returncode == 1


@pytest.mark.parametrize("url", ["", "https://wheels.example/cpu"])
def test_torch_comes_from_the_index_that_was_named(tmp_path: Path, url: str) -> None:
    done = make("-n", "setup", f"VENV={tmp_path / 'env'}", f"TORCH_INDEX_URL={url}")
    torch_line = next(line for line in done.stdout.splitlines() if "pip install" in line)
    assert ("--no-deps --index-url https://wheels.example/cpu" in torch_line) == bool(url)
    pinned = next(
        line for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line.startswith("torch==")
    )  # fmt: skip
    assert "+" not in pinned
