"""The wheel, installed into a fresh environment, runs the demo from an empty folder."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import ROOT, environment


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the ``tessera`` script of an environment that holds only the wheel of this tree.

    The packages it needs come from the environment of the tests through a path file, so that torch
    is not downloaded again.
    """
    folder = tmp_path_factory.mktemp("install")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), str(ROOT)],
        check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = folder.glob("tessera_tokenizers-*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "env")], check=True)
    python = folder / "env" / "bin" / "python"
    subprocess.run(
        [*pip, "--python", str(python), "install", "-q", "--no-deps", str(wheel)],
        check=True, capture_output=True,
    )  # fmt: skip
    (site,) = (folder / "env" / "lib").glob("python*/site-packages")
    packages = [path for path in sys.path if path.endswith("site-packages")]
    (site / "zz_packages_of_the_tests.pth").write_text("\n".join(packages) + "\n")
    return folder / "env" / "bin" / "tessera"


def run(script: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    plain = {key: value for key, value in environment().items() if key != "PYTHONPATH"}
    return subprocess.run(
        [str(script), *arguments], cwd=folder, env=plain, capture_output=True, text=True
    )


def test_the_wheel_is_what_runs(installed: Path, tmp_path: Path) -> None:
    python = installed.parent / "python"
    code = "import tessera, tok_core, vision_tok, assets; print(tessera.__file__)"
    done = run(python, tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    assert str(installed.parents[1]) in done.stdout


def test_assets_stay_small(installed: Path) -> None:
    (packaged,) = installed.parents[1].glob("lib/python*/site-packages/assets")
    files = [file for file in packaged.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 45e6
    assert max(file.stat().st_size for file in files) < 8e6


def test_demo_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    (packaged,) = installed.parents[1].glob("lib/python*/site-packages/assets")
    files = (packaged / "images" / "chelsea.webp", packaged / "audio" / "magazine.flac")
    done = run(installed, tmp_path, "demo", *map(str, files))
    assert_shown(done, tmp_path / "tessera_demo", {"chelsea"}, {"magazine"})


@pytest.mark.smoke
def test_the_whole_demo_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    done, out = run(installed, tmp_path, "demo"), tmp_path / "tessera_demo"
    assert_shown(done, out, {"chelsea", "coffee", "flower"}, {"lighthouse", "magazine"})
    assert (out / "generated.png").stat().st_size > 10_000
    spoken = list((out / "generated").glob("*.wav"))
    assert len(spoken) == 4 and all(file.stat().st_size > 140_000 for file in spoken)


def assert_shown(
    done: subprocess.CompletedProcess[str], out: Path, pictures: set[str], sounds: set[str]
) -> None:
    """Everything that a demo of these pictures and sounds makes is there."""
    assert done.returncode == 0, done.stderr
    results = json.loads((out / "results.json").read_text())["images"]
    assert set(results["pictures"]) == pictures
    ours = [row for row in results["mean"] if "tokens" in row]
    budgets = [row for row in ours if "model" not in row]
    assert len(budgets) >= 3
    assert all(a["psnr"] < b["psnr"] for a, b in itertools.pairwise(budgets))
    for name in ("grid.png", "rate_distortion.png"):
        assert (out / name).stat().st_size > 10_000
    assert len(list((out / "tokens").glob("*_*.tok"))) == len(pictures) * len(ours)
    assert "bits/pixel" in done.stdout
    assert {path.stem for path in (out / "tokens").glob("*.tok")} >= sounds
    for name in sounds:
        assert (out / "tokens" / f"{name}.tok").stat().st_size < 800
        assert (out / "sounds" / f"{name}.wav").stat().st_size > 100_000
        assert (out / f"spectrogram_{name}.png").stat().st_size > 10_000
    assert "kbit/s on disk" in done.stdout and "Opus" in done.stdout


def test_wheel_ships_no_tests_and_no_caches(installed: Path) -> None:
    (wheel,) = installed.parents[2].glob("*.whl")
    import zipfile

    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert top <= {"assets", "tessera", "tok_core", "vision_tok", "audio_tok", "generators", "eval"}
    assert not [name for name in names if "__pycache__" in name]
    assert "assets/images/chelsea.webp" in names and "assets/images/held_out.txt" in names
    assert "assets/classifiers/procedural-v1/model.safetensors" in names
    assert "eval/published/dates_speech.json" in names
    assert os.path.getsize(wheel) < 42e6
