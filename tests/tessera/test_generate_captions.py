"""``tessera generate --captions``: files of features in turn, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from generators.contract import fixed_spec
from generators.llamagen import LlamaGen
from generators.pipelines import TokenImagePipeline
from tessera.caption_files import read_captions
from tessera.cli import run
from vision_tok.vqgan import VQGAN

WIDTH = 6


def vqgan() -> VQGAN:
    torch.manual_seed(0)
    side = {"channels": 8, "multipliers": [1, 2], "res_blocks": 1, "attention": []}
    return VQGAN(
        encoder_sizes=side, decoder_sizes=side, z_channels=6, code_dim=4, codebook_size=16,
        norm_groups=4, image_size=8,
    ).eval()  # fmt: skip


def saved(folder: Path, **condition: Any) -> Path:
    tokenizer = vqgan()
    generator = LlamaGen(
        spec=fixed_spec(tokenizer.spec).to_json(), width=32, layers=1, heads=2, **condition
    ).eval()
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    TokenImagePipeline(generator, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("pipe"), caption_width=WIDTH, caption_length=5)


@pytest.fixture(scope="module")
def captions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captions")
    for count, name in ((3, "fox"), (2, "cat")):
        numbers = np.random.default_rng(count).normal(size=(count, WIDTH))
        np.save(folder / f"{name}.npy", numbers.astype(np.float16))
    return folder


def words(*parts: Any) -> list[str]:
    return ["generate", *(str(part) for part in parts)]


def test_captions_in_turn(pipe: Path, captions: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(words(pipe, "--captions", captions, "-o", out, "-n", 3, "-g", 3, "-b", 3)) == 0
    names = sorted(path.name for path in out.iterdir())
    assert names == ["000000_cat.png", "000001_fox.png", "000002_cat.png"]
    # Beside longer captions or alone: the same sample.
    again = tmp_path / "again"
    assert run(words(pipe, "--captions", captions, "-o", again, "-n", 3, "-g", 3, "-b", 1)) == 0
    for name in names:
        assert (out / name).read_bytes() == (again / name).read_bytes()


def test_shards_know_their_captions(
    pipe: Path, captions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shards"
    arguments = [pipe, "-o", out, "-n", 2, "--per-shard", 2, "--captions"]
    assert run(words(*arguments, captions / "fox.npy")) == 0
    assert run(words(*arguments, captions / "cat.npy")) == 1
    assert "holds samples of another captions" in capsys.readouterr().err


def test_what_is_refused(
    pipe: Path, captions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def says(*arguments: Any) -> str:
        assert run(words(*arguments, "-n", 1, "-o", tmp_path / "out")) == 1
        return capsys.readouterr().err

    labels = saved(tmp_path / "labels", classes=2)
    assert "takes captions; give --captions" in says(pipe)
    assert "takes no captions; leave --captions out" in says(labels, "--captions", captions)
    assert "cannot be read" in says(pipe, "--captions", tmp_path / "none.npy")
    (tmp_path / "empty").mkdir()
    assert "holds no .npy file" in says(pipe, "--captions", tmp_path / "empty")
    np.save(tmp_path / "wide.npy", np.zeros((2, WIDTH + 1), np.float32))
    assert "has 7 features and this generator takes 6" in says(
        pipe, "--captions", tmp_path / "wide.npy"
    )
    np.save(tmp_path / "evil.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    assert "holds no caption features" in says(pipe, "--captions", tmp_path / "evil.npy")


def test_a_short_caption_beside_a_full_one_is_no_prompt_of_its_own(tmp_path: Path) -> None:
    for name in ("cat", "cat.short", "dog.short"):
        np.save(tmp_path / f"{name}.npy", np.ones((1, WIDTH), np.float16))
    names = [caption.name for caption in read_captions(tmp_path, (5, WIDTH))]
    assert names == ["cat", "dog.short"]
