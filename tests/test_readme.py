"""README and docs say what works: their Python runs, their shell commands run, options exist."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from generators.contract import fixed_spec
from generators.llamagen import LlamaGen
from generators.pipelines import TokenImagePipeline
from tests import warm_python
from tok_core.token_file import TokenFile, write_token_file
from vision_tok.vqgan import VQGAN

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    lines = "\n".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [line for line in words if line]


PYTHON = [(page, i) for page in PAGES for i in range(len(blocks(page, "python")))]
SHELL = [line for page in PAGES for line in commands(page) if line[0] == "tessera"]
NOT_RUN = {"train", "demo", "bench", "import", "calibrate"}  # they have tests of their own


def tiny_pipeline() -> TokenImagePipeline:
    """An untrained pipeline of four classes and a few tokens, for commands that draw."""
    side = {"channels": 8, "multipliers": [1, 2], "res_blocks": 1, "attention": []}
    tokenizer = VQGAN(
        encoder_sizes=side, decoder_sizes=side, z_channels=6, code_dim=4, codebook_size=16,
        norm_groups=4, image_size=8,
    ).eval()  # fmt: skip
    spec = fixed_spec(tokenizer.spec).to_json()
    generator = LlamaGen(spec=spec, classes=4, width=32, layers=1, heads=2).eval()
    return TokenImagePipeline(generator, tokenizer)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the pages talk about."""
    folder = tmp_path_factory.mktemp("readme")
    with Image.open(ROOT / "assets" / "images" / "chelsea.webp") as picture:
        small = picture.convert("RGB").resize((150, 100))
    (folder / "photos").mkdir()
    for name in ("cat.jpg", "photos/one.png", "photos/two.jpg"):
        small.save(folder / name)
    for name in ("one", "two"):  # features of captions
        np.save(folder / "photos" / f"{name}.npy", np.zeros((3, 8), np.float16))
    tiny_pipeline().save_pretrained(folder / "tiny_pipe")  # snippets save one as "pipe"
    codes = np.arange(16, dtype=np.int64)
    write_token_file(folder / "example.tok", TokenFile(codes, (12,), "0" * 12, (4, 4), "resize"))
    return folder


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return warm_python.run(*command, cwd=folder)


@pytest.mark.parametrize("page, index", PYTHON, ids=lambda v: getattr(v, "name", v))
def test_python_snippet(folder: Path, page: Path, index: int) -> None:
    # A snippet that reads a file takes it as its argument.
    done = run(folder, "-c", blocks(page, "python")[index], "example.tok")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_shell_snippets_in_their_order(folder: Path, page: Path) -> None:
    fresh = folder / page.stem
    fresh.mkdir()
    for name in ("cat.jpg", "photos"):
        (fresh / name).symlink_to(folder / name)
    (fresh / "pipe").symlink_to(folder / "tiny_pipe")
    (fresh / "assets").symlink_to(ROOT / "assets")
    for line in commands(page):
        if line[0] == "tessera" and line[1] not in NOT_RUN:
            force = ["--force"] if line[1] in ("encode", "decode") else []
            done = run(fresh, "-m", *line, *force)
            assert done.returncode == 0, f"{shlex.join(line)}: {done.stderr}"


def test_pages_show_commands() -> None:
    assert len(PYTHON) >= 2
    assert len({line[1] for line in SHELL}) >= 6


def test_the_first_screen_has_both_commands() -> None:
    first = "\n".join((ROOT / "README.md").read_text().splitlines()[:40])
    assert "make demo" in first
    assert "make test" in first


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_and_files_that_are_named_exist(page: Path) -> None:
    text = page.read_text()
    assert "pip install tessera\n" not in text
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (page.parent / target).exists(), target
    for recipe in re.findall(r"assets/configs/[\w./-]+", text):
        assert (ROOT / recipe).exists(), recipe
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([a-z]+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
