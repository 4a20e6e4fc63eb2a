"""A tokenizer of another package: installed beside Tessera, it does all that ours do."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests import warm_python
from tok_core.errors import WeightsError
from tok_core.loading import load

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "third_party_tokenizer"
PAGE = ROOT / "docs" / "adding_a_tokenizer.md"
CONFIGS = ROOT / "assets" / "configs"
QUICK = {
    "log.tracker": "none", "log.pictures_every": 0, "log.every": 2, "schedule.warmup": 1,
    "train.device": "cpu",
}  # fmt: skip
# Runs every command of a list in one process, since each process imports torch anew.
DRIVER = """
import contextlib, importlib, io, json, sys
commands, done = json.loads(sys.argv[1]), {}
for name, (module, function, words) in commands.items():
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = getattr(importlib.import_module(module), function)(words)
    done[name] = [code, out.getvalue()]
    if code:
        break
import tessera
hashes = {name: [m.code_hash(), m.weights_hash()] for name in ("fsq", "post")
          if "post" in done and (m := tessera.load(name + "/model"))}
print(json.dumps({"done": done, "hashes": hashes}))
"""


def environment(*paths: Path) -> dict[str, str]:
    return {
        **os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*paths, ROOT))),
        "PYTHONDONTWRITEBYTECODE": "1", "PYTEST_ADDOPTS": "",
    }  # fmt: skip


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example alone in a folder, as its author would have it."""
    folder = tmp_path_factory.mktemp("package") / "fsq"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def installed(package: Path) -> Path:
    """Where pip put it, with its metadata; Tessera itself stays where it is."""
    site = package.parent / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-deps",
         "--no-build-isolation", "--target", str(site), str(package)],
        check=True, capture_output=True,
    )  # fmt: skip
    return site


def options(settings: dict[str, Any]) -> list[str]:
    return [f"--set={key}={json.dumps(value)}" for key, value in settings.items()]


def commands(package: Path) -> dict[str, tuple[str, str, list[str]]]:
    """What a user does with it, from training to a post-trained decoder."""

    def cli(*words: str) -> tuple[str, str, list[str]]:
        return "tessera.cli", "run", list(words)

    recipe = str(package / "fsq-patches-tiny.yaml")
    generator = str(CONFIGS / "generator-llamagen-tiny.yaml")
    post = str(CONFIGS / "post-train-tiny.yaml")
    small = QUICK | {
        "train.steps": 6, "train.batch_size": 8, "validation_images": 4,
        "model.config.width": 16, "model.config.blocks": 1,
    }  # fmt: skip
    drawing = QUICK | {
        "data.signals": None, "data.tokenizer": "fsq/model", "data.classes": 2, "shown": 0,
        "model.config": {"width": 32, "layers": 1, "heads": 2}, "train.steps": 4,
        "train.batch_size": 4, "validation_samples": 2,
    }  # fmt: skip
    pairs = QUICK | {
        "model.from": "fsq/model", "data.source": "folder", "data.path": "photos",
        "data.size": 32, "data.pairs.path": "pairs", "data.pairs.generator": "generator/model",
        "data.pairs.count": 4, "data.pairs.batch_size": 4, "train.steps": 3,
        "train.batch_size": 2, "validation_images": 2, "export.dtype": "float32",
    }  # fmt: skip
    return {
        "train": ("vision_tok.train", "main",
                  ["--config", recipe, "--out", "fsq", *options(small)]),
        "classes": cli("info"),
        "info": cli("info", "fsq/model", "--json"),
        "encode": cli("encode", "photos", "-o", "tok", "-m", "fsq/model", "--policy", "tile"),
        "decode": cli("decode", "tok", "-o", "again", "-m", "fsq/model"),
        "tokenize": cli("tokenize", "photos", "shards", "--model", "fsq/model", "--processes",
                        "1", "--flips"),
        "recon": cli("eval", "recon", "--tokenizer", "fsq/model", "--data", "photos", "--size",
                     "32", "--metrics", "psnr,codes", "--out", "recon.json"),
        "pfid": cli("eval", "pfid", "--tokenizer", "fsq/model", "--data", "photos", "--alphas",
                    "0.9", "--deltas", "8", "--out", "pfid.json"),
        "generator": ("generators.train", "main",
                      ["--config", generator, "--out", "generator", "--data", "shards",
                       *options(drawing)]),
        "post": ("generators.post_train", "main",
                 ["--config", post, "--out", "post", *options(pairs)]),
        "generate": cli("generate", "--generator", "generator/model", "--tokenizer", "post/model",
                        "-n", "2", "-o", "samples"),
        "its own tests": ("pytest", "main", [
            "-q", "--capture=no", "-p", "no:cacheprovider", str(package / "tests"),
        ]),
    }  # fmt: skip


@pytest.fixture(scope="module")
def work(package: Path, installed: Path) -> tuple[Path, dict[str, Any]]:
    """The folder that all commands worked in, and what each said."""
    folder = package.parent / "work"
    for name in ("a/one", "b/two"):  # two classes
        (folder / "photos" / name).parent.mkdir(parents=True)
        pixels = np.random.default_rng(len(name)).integers(0, 255, (36, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{name}.png")
    done = warm_python.run(
        "-c", DRIVER, json.dumps(commands(package)), cwd=folder,
        env=environment(installed, ROOT / "tests"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", commands(EXAMPLE))
def test_every_command_takes_it(work: tuple[Path, dict[str, Any]], name: str) -> None:
    _, found = work
    code, said = found["done"].get(name, (None, "an earlier command failed"))
    assert code == 0, f"{name}: {said[-2000:]}"


def test_it_is_among_the_model_classes(work: tuple[Path, dict[str, Any]]) -> None:
    _, found = work
    assert "FSQPatches  fsq_patches.tokenizer:FSQPatches" in found["done"]["classes"][1]


def test_it_passes_the_contract(work: tuple[Path, dict[str, Any]]) -> None:
    _, found = work
    (passed,) = re.findall(r"(\d+) passed", found["done"]["its own tests"][1])
    assert int(passed) > 20


def test_training_perturbed_its_codes(work: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = work
    lines = [json.loads(line) for line in (folder / "fsq/metrics.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "loss" in line]
    assert logged and all(line["perturbation/changed"] > 0 for line in logged)
    assert all(line["codebook/perplexity"] > 1 for line in logged)


def test_files_come_back_in_their_own_size(work: tuple[Path, dict[str, Any]]) -> None:
    folder, found = work
    (facts,) = json.loads(found["done"]["info"][1])
    assert facts["class"] == "FSQPatches" and facts["vocabulary"] == [1000]
    assert (folder / "tok/a/one.tok").stat().st_size < 400  # 4 tiles of 64 codes of 10 bits
    with Image.open(folder / "again/a/one.png") as picture:
        assert picture.size == (50, 36)
    index = json.loads((folder / "shards/index.json").read_text())
    assert found["hashes"]["fsq"][0] in json.dumps(index)


def test_it_is_judged(work: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = work

    def scores(name: str) -> dict[str, Any]:
        rows = json.loads((folder / name).read_text())["scores"]
        return {row["metric"]: row["value"] for row in rows if row["contestant"] == "fsq/model"}

    assert scores("recon.json")["psnr"] > 0
    assert 0 < scores("recon.json")["codes/usage"] <= 1
    assert any(name.startswith("perturbed/") for name in scores("pfid.json"))


def test_a_generator_fits_its_post_trained_decoder(work: tuple[Path, dict[str, Any]]) -> None:
    folder, found = work
    (code, weights), (code_after, weights_after) = (found["hashes"][n] for n in ("fsq", "post"))
    assert code == code_after and weights != weights_after
    assert len(list((folder / "samples").rglob("*.png"))) == 2


def test_without_its_package_a_model_is_one_sentence(work: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = work
    with pytest.raises(WeightsError, match="no installed package offers .* 'FSQPatches'"):
        load(folder / "fsq" / "model")


def test_the_page_shows_what_the_package_holds() -> None:
    files = [*EXAMPLE.rglob("*.py"), EXAMPLE / "pyproject.toml"]
    held = "\n".join(file.read_text() for file in files)
    shown = re.findall(r"^ *```(?:py|toml)\n(.*?)^ *```", PAGE.read_text(), re.M | re.S)
    assert len(shown) >= 4
    for excerpt in shown:
        lines = [line.strip() for line in excerpt.strip().splitlines()]
        assert "\n".join(lines) in "\n".join(line.strip() for line in held.splitlines())
