"""``tessera generate``: files, contact sheet, shards that go on, what is refused."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from generators.contract import fixed_spec
from generators.llamagen import LlamaGen
from generators.maskgit import MaskGIT
from generators.pipelines import TokenAudioPipeline, TokenImagePipeline
from tessera.cli import run
from tests.tiny_audio import tiny_codec
from tok_core.loading import load
from vision_tok.image_shards import TarShards
from vision_tok.vqgan import VQGAN

SIZES: dict[str, Any] = {"width": 32, "layers": 1, "heads": 2}


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    side = {"channels": 8, "multipliers": [1, 2], "res_blocks": 1, "attention": []}
    tokenizer = VQGAN(
        encoder_sizes=side, decoder_sizes=side, z_channels=6, code_dim=4, codebook_size=16,
        norm_groups=4, image_size=8,
    ).eval()  # fmt: skip
    generator = LlamaGen(
        spec=fixed_spec(tokenizer.spec).to_json(), code_hash=tokenizer.code_hash(), classes=3,
        **SIZES,
    ).eval()  # fmt: skip
    folder = tmp_path_factory.mktemp("pipe")
    TokenImagePipeline(generator, tokenizer).save_pretrained(folder)
    return folder


def words(*parts: Any) -> list[str]:
    return ["generate", *(str(part) for part in parts)]


def test_files_and_a_contact_sheet(pipe: Path, tmp_path: Path) -> None:
    out, grid = tmp_path / "out", tmp_path / "sheet.png"
    assert run(words(pipe, "-o", out, "-n", 5, "--grid", grid, "-b", 2)) == 0
    names = sorted(path.name for path in out.iterdir())
    assert names[0] == "000000_label0.png" and names[4] == "000004_label1.png" and len(names) == 5
    with Image.open(grid) as sheet:
        assert sheet.size == (2 * 8, 3 * 8)
    again = tmp_path / "again"  # another batch size, the same samples
    assert run(words(pipe, "-o", again, "-n", 5, "-b", 5)) == 0
    for name in names:
        assert (out / name).read_bytes() == (again / name).read_bytes()


@pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="inductor needs a C++ compiler"
)
def test_compiled_samples_are_the_same(pipe: Path, tmp_path: Path) -> None:
    torch._dynamo.reset()
    for name, more in (("plain", []), ("compiled", ["--compile"])):
        assert run(words(pipe, "-o", tmp_path / name, "-n", 3, *more)) == 0
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1
    for file in (tmp_path / "plain").iterdir():
        assert file.read_bytes() == (tmp_path / "compiled" / file.name).read_bytes()


def test_large_steps_are_not_compiled(
    pipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = load(pipe / "tokenizer")
    spec = fixed_spec(tokenizer.spec).to_json()
    generator = MaskGIT(
        spec=spec, code_hash=tokenizer.code_hash(), classes=3, width=32, layers=1, heads=2
    ).eval()
    TokenImagePipeline(generator, tokenizer).save_pretrained(tmp_path / "pipe")
    assert run(words(tmp_path / "pipe", "-o", tmp_path / "out", "--compile")) == 1
    assert "MaskGIT takes few large steps" in capsys.readouterr().err


def test_parts_in_place_of_a_pipeline(pipe: Path, tmp_path: Path) -> None:
    parts = ["--generator", pipe / "generator", "--tokenizer", pipe / "tokenizer"]
    assert run(words(*parts, "-o", tmp_path / "out", "-n", 2, "--labels", "2")) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "000000_label2.png", "000001_label2.png"
    }  # fmt: skip


def test_shards_go_on_where_they_were(
    pipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "shards"
    arguments = [pipe, "-o", out, "-n", 7, "--per-shard", 3]
    assert run(words(*arguments)) == 0
    whole = {path.name: path.read_bytes() for path in out.glob("*.tar")}
    assert sorted(whole) == [f"samples-00000{i}.tar" for i in range(3)]
    shards = TarShards(out)
    assert [shards.label(i) for i in range(len(shards))] == [0, 1, 2, 0, 1, 2, 0]
    (out / "samples-000001.tar").unlink()
    kept = (out / "samples-000000.tar").stat().st_mtime_ns
    # Two processes: the second takes the second shard.
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert run(words(*arguments)) == 0
    assert not (out / "samples-000001.tar").exists()
    monkeypatch.setenv("RANK", "1")
    assert run(words(*arguments)) == 0
    assert {path.name: path.read_bytes() for path in out.glob("*.tar")} == whole
    assert (out / "samples-000000.tar").stat().st_mtime_ns == kept
    with tarfile.open(out / "samples-000002.tar") as tar:
        assert tar.getnames() == ["000006.png", "000006.cls"]
    assert json.loads((out / "samples.json").read_text())["num"] == 7


def test_what_is_refused(pipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def error(*parts: Any) -> str:
        assert run(words(*parts)) == 1
        return capsys.readouterr().err

    out = ["-o", tmp_path / "out"]
    assert "give numbers from 0 to 2" in error(pipe, *out, "--labels", "1,3")
    both = error(pipe, *out, "--generator", pipe / "generator")
    assert "give a pipeline, or --generator" in both
    assert "name theirs with --tokenizer" in error(pipe / "generator", *out)
    assert "name theirs with --tokenizer" in error(*out, "--generator", pipe / "generator")
    assert "is no generator" in error(pipe / "tokenizer", *out)
    assert "guidance schedule 'square' is unknown" in error(pipe, *out, "--schedule", "square")
    assert run(words(pipe, *out, "-n", 1)) == 0
    assert "exists" in error(pipe, *out, "-n", 1)
    shards = [pipe, "-o", tmp_path / "shards", "-n", 2, "--per-shard", 2]
    assert run(words(*shards)) == 0
    assert "samples of another seed" in error(*shards, "--seed", 1)
    assert "holds no model_index.json" in error(tmp_path, *out)


def test_sounds(tmp_path: Path) -> None:
    import soundfile

    codec = tiny_codec()
    spec = fixed_spec(codec.spec, (codec.spec.axes[0].size, 6))
    generator = LlamaGen(spec=spec.to_json(), code_hash=codec.code_hash(), **SIZES).eval()
    TokenAudioPipeline(generator, codec).save_pretrained(tmp_path / "pipe")
    assert run(words(tmp_path / "pipe", "-o", tmp_path / "out", "-n", 2)) == 0
    data, rate = soundfile.read(tmp_path / "out" / "000001.wav")
    assert rate == codec.spec.output_rate and len(data) > 0


def test_a_generator_is_no_tokenizer(
    pipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    parts = ["encode", tmp_path / "x.png", "-o", tmp_path / "x.tok", "-m", pipe / "generator"]
    assert run([str(part) for part in parts]) == 1
    assert "draws tokens and codes nothing" in capsys.readouterr().err
