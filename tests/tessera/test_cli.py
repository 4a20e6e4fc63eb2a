"""The command line end to end: what users type, in a process of its own."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .conftest import ROOT, Tessera, environment, make_picture, one_sentence

VERBS = (
    "encode", "decode", "reconstruct", "info", "train", "import", "calibrate", "demo", "bench",
    "tokenize",
)  # fmt: skip


def _processor_seconds(*command: str) -> float:
    """The least of three runs; the clock on the wall also counts whatever else the machine does."""
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, *command], cwd=ROOT, env=environment(), capture_output=True, check=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times)


def test_help_answers_at_once(tessera: Tessera) -> None:
    assert all(verb in tessera("--help").stdout for verb in VERBS)
    # In units of what any typer program with coloured help pays on this machine.
    assert _processor_seconds("-m", "tessera", "--help") < 2.5 * _processor_seconds(
        "-c", "import typer.rich_utils"
    )


def test_nothing_heavy_is_imported_for_the_help() -> None:
    code = (
        "import sys, tessera.cli; tessera.cli.run(['--help']);"
        "print(sorted({'torch', 'numpy', 'diffusers', 'PIL', 'yaml'} & set(sys.modules)),"
        " file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True
    )
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_help(tessera: Tessera, verb: str) -> None:
    done = tessera(verb, "--help")
    assert done.returncode == 0
    assert "Usage" in done.stdout or "usage" in done.stdout


def test_a_wrong_verb_is_code_2(tessera: Tessera) -> None:
    done = tessera("encde")
    assert done.returncode == 2
    assert "encode" in done.stderr


def test_folder_to_tokens_and_back(tessera: Tessera, tiny: Path, photos: Path) -> None:
    tokens, back = photos.parent / "tokens", photos.parent / "back"
    done = tessera("encode", photos, "-o", tokens, "-m", tiny, "--tokens", 8, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [Path(row["source"]).name for row in report["files"]] == ["a.png", "b.jpg", "c.webp"]
    for row in report["files"]:
        width, height = (int(n) for n in row["size"].split(" x "))
        assert row["tokens"] == 8
        assert row["bytes"] == Path(row["target"]).stat().st_size
        assert row["bits_per_pixel"] == pytest.approx(8 * row["bytes"] / (width * height))
    assert report["files_per_second"] <= report["model_only_files_per_second"]
    done = tessera("decode", tokens, "-o", back, "-m", tiny, "--format", "webp")
    assert done.returncode == 0, done.stderr
    for name in ("a", "b", "deep/c"):
        (original,) = photos.glob(f"{name}.*")
        with Image.open(original) as first, Image.open(back / f"{name}.webp") as second:
            assert first.size == second.size


def test_reconstruct_is_encode_then_decode(tessera: Tessera, tiny: Path, photos: Path) -> None:
    out = photos.parent
    for policy in ("resize", "crop", "tile"):
        again, tok, png = (out / f"{policy}.{kind}" for kind in ("again.png", "tok", "png"))
        options = ("-m", tiny, "--policy", policy, "--tokens", 5)
        done = tessera("reconstruct", photos / "a.png", "-o", again, "--json", *options)
        assert done.returncode == 0, done.stderr
        row = json.loads(done.stdout)["files"][0]
        assert 0 < row["psnr"] < 60
        assert -1 <= row["ssim"] <= 1
        assert tessera("encode", photos / "a.png", "-o", tok, *options).returncode == 0
        assert row["bytes"] == tok.stat().st_size
        assert tessera("decode", tok, "-o", png, "-m", tiny).returncode == 0
        with Image.open(again) as first, Image.open(png) as second:
            assert first.size == second.size
            difference = np.abs(np.array(first, int) - np.array(second, int))
        # One batch or another may round a byte differently.
        assert difference.max() <= 1


def test_reconstruct_without_output_only_prints(tessera: Tessera, tiny: Path, photos: Path) -> None:
    before = set(photos.parent.rglob("*"))
    done = tessera("reconstruct", photos, "-m", tiny)
    assert done.returncode == 0, done.stderr
    assert "PSNR" in done.stdout
    assert "mean of 3" in done.stdout
    assert set(photos.parent.rglob("*")) == before


def test_target_bytes_is_the_whole_file(tessera: Tessera, tiny: Path, photos: Path) -> None:
    out = photos.parent / "x.tok"
    command = ("encode", photos / "a.png", "-o", out, "-m", tiny)
    done = tessera(*command, "--target-bytes", 30, "--json")
    assert done.returncode == 0, done.stderr
    first = json.loads(done.stdout)["files"][0]
    assert out.stat().st_size <= 30
    assert 1 <= first["tokens"] < 16
    tessera(*command, "--tokens", first["tokens"] + 1, "--force")
    assert out.stat().st_size > 30, "one more token would still have fitted"


def test_target_bytes_too_small_is_refused(tessera: Tessera, tiny: Path, photos: Path) -> None:
    out = photos.parent / "x.tok"
    done = tessera("encode", photos / "a.png", "-o", out, "-m", tiny, "--target-bytes", 3)
    assert done.returncode == 1
    assert "3 bytes" in done.stderr
    assert not out.exists()


def test_target_psnr_states_its_decoder_calls(tessera: Tessera, tiny: Path, photos: Path) -> None:
    out = photos.parent / "x.tok"
    easy = tessera(
        "encode", photos / "a.png", "-o", out, "-m", tiny, "--target-psnr", 1, "--json"
    )
    assert easy.returncode == 0, easy.stderr
    row = json.loads(easy.stdout)["files"][0]
    assert row["tokens"] == 1
    assert row["psnr"] >= 1
    assert 1 <= row["decoder_calls"] <= 4
    hard = tessera(
        "encode", photos / "a.png", "-o", out, "-m", tiny, "--target-psnr", 90, "--force"
    )
    assert hard.returncode == 0
    assert "90 dB cannot be reached" in hard.stderr
    assert "decoder calls" in hard.stdout


def test_two_budgets_are_refused(tessera: Tessera, tiny: Path, photos: Path) -> None:
    done = tessera(
        "encode", photos, "-o", "x", "-m", tiny, "--tokens", 4, "--target-bytes", 40
    )
    assert done.returncode == 1
    assert "one budget" in one_sentence(done)


def test_nothing_is_overwritten_without_force(tessera: Tessera, tiny: Path, photos: Path) -> None:
    out = photos.parent / "x.tok"
    out.write_bytes(b"precious")
    done = tessera("encode", photos / "a.png", "-o", out, "-m", tiny)
    assert done.returncode == 1
    assert "--force" in one_sentence(done)
    assert out.read_bytes() == b"precious"
    assert tessera("encode", photos / "a.png", "-o", out, "-m", tiny, "--force").returncode == 0
    assert out.read_bytes() != b"precious"


def test_a_second_run_goes_on_where_the_first_stopped(
    tessera: Tessera, tiny: Path, photos: Path
) -> None:
    out = photos.parent / "tokens"
    assert tessera("encode", photos, "-o", out, "-m", tiny).returncode == 0
    (out / "b.tok").unlink()
    kept = (out / "a.tok").stat().st_mtime_ns
    done = tessera("encode", photos, "-o", out, "-m", tiny, "--json")
    assert [Path(row["target"]).name for row in json.loads(done.stdout)["files"]] == ["b.tok"]
    assert (out / "a.tok").stat().st_mtime_ns == kept


def test_glob_and_many_inputs(tessera: Tessera, tiny: Path, photos: Path) -> None:
    out = photos.parent / "tokens"
    done = tessera("encode", f"{photos}/**/*.webp", photos / "a.png", "-o", out, "-m", tiny)
    assert done.returncode == 0, done.stderr
    assert (out / "deep" / "c.tok").exists()
    assert (out / "a.tok").exists()


def test_info_describes_files_and_models(tessera: Tessera, tiny: Path, photos: Path) -> None:
    out = photos.parent / "x.tok"
    tessera("encode", photos / "a.png", "-o", out, "-m", tiny, "--tokens", 8)
    done = tessera("info", out, tiny, "--json")
    file, model = json.loads(done.stdout)
    assert file["original size"] == "40 x 60"
    assert file["stored codes"] == 8
    assert model["class"] == "OneDPiece"
    assert model["code hash"].startswith(file["code hash"])
    assert tessera("info").returncode == 0


def test_info_of_something_missing(tessera: Tessera) -> None:
    done = tessera("info", "nothing.tok")
    assert done.returncode == 1
    assert "nothing.tok" in one_sentence(done)


def test_bench_lists_and_measures(tessera: Tessera, tiny: Path) -> None:
    assert "speed" in tessera("bench").stdout
    done = tessera("bench", "speed", "-m", tiny, "--files", 40, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["encode"] > 0
    assert result["decode"] > 0
    wrong = tessera("bench", "sped")
    assert wrong.returncode == 1
    assert "did you mean 'speed'" in one_sentence(wrong)


def test_demo_on_own_pictures(tessera: Tessera, tiny: Path, tmp_path: Path) -> None:
    picture = make_picture(tmp_path / "own.png", 64, 48)
    out = tmp_path / "demo"
    done = tessera("demo", picture, "-o", out, "-m", tiny, "--tokens", "4,16", "--json")
    assert done.returncode == 0, done.stderr
    results = json.loads((out / "results.json").read_text())["images"]
    assert [row["budget"] for row in results["mean"]] == ["4 tokens", "16 tokens", "JPEG", "WebP"]
    for row, name in zip(results["mean"][:2], ("own_004", "own_016"), strict=True):
        assert row["bytes"] == (out / "tokens" / f"{name}.tok").stat().st_size
        with Image.open(out / "pictures" / f"{name}.png") as made:
            assert made.size == (64, 48)
    with Image.open(out / "grid.png") as grid:
        assert grid.width > 5 * 300
    assert (out / "rate_distortion.png").exists()
    again = tessera("demo", picture, "-o", out, "-m", tiny)
    assert again.returncode == 1
    assert "--force" in one_sentence(again)


def test_import_of_an_official_checkpoint(tessera: Tessera, tmp_path: Path) -> None:
    import os

    parity = Path(os.environ.get("TESSERA_PARITY_DIR", ROOT.parent / "shared" / "parity"))
    source = parity / "one-d-piece" / "titok-direct-vq"
    if not source.is_dir():
        pytest.skip("no official checkpoint at hand")
    out = tmp_path / "model"
    done = tessera("import", source, "-o", out, "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert tessera("info", out, "--json").returncode == 0
    assert facts["class"] == "TiTok"
    refused = tessera("import", source, "-o", out)
    assert refused.returncode == 1
    assert "--force" in one_sentence(refused)
    assert tessera("import", source, "-o", out, "--force").returncode == 0
    assert not list(tmp_path.glob(".*part"))


def test_import_of_something_else(tessera: Tessera, tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"no weights at all")
    done = tessera("import", tmp_path / "weights.bin", "-o", tmp_path / "model")
    assert done.returncode == 1
    assert "weights.bin" in one_sentence(done)
    assert not (tmp_path / "model").exists()


def test_demo_without_matplotlib_says_so(
    tessera: Tessera, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    picture = make_picture(tmp_path / "own.png", 40, 40)
    done = tessera("demo", picture, "-o", tmp_path / "demo", "-m", tiny, "--tokens", "16")
    assert done.returncode == 0, done.stderr
    assert "matplotlib is not installed" in done.stderr
    assert not (tmp_path / "demo" / "rate_distortion.png").exists()
    assert (tmp_path / "demo" / "grid.png").exists()
