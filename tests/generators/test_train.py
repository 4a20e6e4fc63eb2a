"""Training a generator: tokens made on the fly, resume, samples to look at, what does not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from generators.contract import Condition
from generators.llamagen import LlamaGen
from generators.sampling import sample
from generators.train import GeneratorRun, completed, main, train
from tessera.cli import run
from tok_core.errors import ConfigError, TokenError
from tok_core.loading import load
from tok_core.run_config import from_mapping
from vision_tok.vqgan import VQGAN

STEPS = 4


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VQGAN of 4 x 4 tokens of 16 codes."""
    torch.manual_seed(0)
    side = {"channels": 8, "multipliers": [1, 2, 2], "res_blocks": 1, "attention": []}
    folder = tmp_path_factory.mktemp("tokenizer")
    VQGAN(
        encoder_sizes=side, decoder_sizes=side, z_channels=6, code_dim=4, codebook_size=16,
        norm_groups=4, image_size=16,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def recipe(tokenizer: Path, **changes: Any) -> dict[str, Any]:
    return {
        "model": {"class": "LlamaGen", "config": {"width": 32, "layers": 2, "heads": 2}},
        "data": {
            "tokenizer": str(tokenizer), "signals": {"source": "classes", "size": 16},
            "classes": 12,
        },
        "train": {"steps": STEPS, "batch_size": 4, "seed": 0, "ema_decay": 0.0, "device": "cpu"},
        "log": {"every": 1, "validate_every": 2, "pictures_every": 2, "save_every": 2,
                "tracker": "none"},
        "optimizer": {"lr": 1e-3},
        "schedule": {"end_lr": 1e-3},  # constant, so that runs of other lengths agree
        "validation_samples": 3, "shown": 3,
    } | changes  # fmt: skip


def config(tokenizer: Path, **changes: Any) -> GeneratorRun:
    return from_mapping(GeneratorRun, recipe(tokenizer, **changes))


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_trains_on_the_fly_and_knows_its_tokenizer(tokenizer: Path, tmp_path: Path) -> None:
    folder = train(config(tokenizer), tmp_path)
    assert folder is not None
    generator, images = load(folder), load(tokenizer)
    assert isinstance(generator, LlamaGen) and generator.classes == 12
    generator.check_fits(images)
    codes = sample(generator, Condition(labels=torch.tensor([0, 11])), seeds=[0, 1])
    assert images.decode(codes).shape == (2, 3, 16, 16)
    rows = metrics(tmp_path)
    assert rows[0]["loss/tokens"] == pytest.approx(2.77, abs=0.05)  # log 16
    scores = [row for row in rows if "validation/loss" in row]
    assert [row["step"] for row in scores] == [2, STEPS]
    assert scores[-1]["validation/loss"] < rows[0]["loss/tokens"]


def test_a_window_reports_the_loss_of_every_slot(tokenizer: Path, tmp_path: Path) -> None:
    changed = {"class": "LlamaGen", "config": {"width": 32, "layers": 1, "heads": 2, "window": 2}}
    train(config(tokenizer, model=changed), tmp_path)
    scores = [row for row in metrics(tmp_path) if "validation/loss" in row][-1]
    slots = [scores[f"validation/loss_slot_{i}"] for i in range(4)]
    assert sum(slots) / 4 == pytest.approx(scores["validation/loss"], rel=1e-5)


def test_resumes_where_it_was(tokenizer: Path, tmp_path: Path) -> None:
    def losses(folder: Path) -> list[float]:
        return [row["loss/tokens"] for row in metrics(folder) if "loss/tokens" in row]

    train(config(tokenizer), tmp_path / "whole")
    short = recipe(tokenizer)
    short["train"] |= {"steps": 2}
    train(from_mapping(GeneratorRun, short), tmp_path / "parts")
    train(config(tokenizer), tmp_path / "parts", resume=True)
    assert losses(tmp_path / "parts")[2:] == pytest.approx(losses(tmp_path / "whole")[2:], rel=1e-4)


def test_unconditional(tokenizer: Path, tmp_path: Path) -> None:
    data = recipe(tokenizer)["data"] | {"classes": 0}
    folder = train(config(tokenizer, data=data), tmp_path)
    assert folder is not None and load(folder).classes == 0


@pytest.mark.parametrize(("changes", "error"), [
    ({"model": {"class": "VQGAN", "config": {}}}, "unknown key 'model.config.spec'"),
    ({"model": {"class": "LlamaGen", "config": {"classes": 5}}}, "classes is 5 but the data say"),
    ({"data": {"signals": {"source": "classes"}}}, "data.tokenizer names none"),
    ({"data": {}}, "data names no tokens"),
])  # fmt: skip
def test_what_does_not_fit(
    tokenizer: Path, tmp_path: Path, changes: dict[str, Any], error: str
) -> None:
    with pytest.raises(ConfigError, match=error):
        train(config(tokenizer, **changes), tmp_path)


def test_labels_are_counted(tokenizer: Path) -> None:
    data = recipe(tokenizer)["data"]
    del data["classes"]
    with pytest.raises(ConfigError, match="data.classes is not given"):
        completed(config(tokenizer, data=data))


def test_command_line(tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tok_core.run_config import to_yaml

    file = tmp_path / "recipe.yaml"
    file.write_text(to_yaml(config(tokenizer)))
    out = ["--out", str(tmp_path / "run")]
    assert main(["--config", str(file), *out, "--set", "train.steps=1"]) == 0
    assert "model written to" in capsys.readouterr().out
    assert main(["--config", str(file), *out, "--set", "train.stepz=1"]) == 2
    assert "stepz" in capsys.readouterr().err


@pytest.fixture(scope="module")
def shards(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Token shards of twelve pictures in two classes."""
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(12):
        place = folder / ("cats", "dogs")[i % 2] / f"{i}.png"
        place.parent.mkdir(exist_ok=True)
        Image.effect_noise((16, 16), 20 + i).convert("RGB").save(place)
    out = folder.parent / "tokens"
    words = ["tokenize", folder, out, "-m", tokenizer, "--per-shard", 5]
    assert run([str(word) for word in words]) == 0
    return out


def test_trains_from_shards(tokenizer: Path, shards: Path, tmp_path: Path) -> None:
    data = {"path": str(shards), "tokenizer": str(tokenizer)}
    folder = train(config(tokenizer, data=data), tmp_path)
    assert folder is not None
    generator = load(folder)
    assert generator.classes == 2 and generator.sizes == (4, 4)
    generator.check_fits(load(tokenizer))


def test_a_damaged_sample_is_passed_over_and_counted(
    tokenizer: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "tokens"
    shutil.copytree(shards, broken)
    tar = sorted(broken.glob("*.tar"))[1]
    data = bytearray(tar.read_bytes())
    data[512 + 20] ^= 255  # inside the first member
    tar.write_bytes(data)
    train(config(tokenizer, data={"path": str(broken)}, shown=0), tmp_path / "run")
    assert "unreadable samples were skipped" in capsys.readouterr().out
    skipped = [row["data/skipped"] for row in metrics(tmp_path / "run") if "data/skipped" in row]
    assert skipped[-1] >= 1


def test_shards_of_another_tokenizer(shards: Path, tmp_path: Path) -> None:
    torch.manual_seed(9)
    side = {"channels": 8, "multipliers": [1, 2, 2], "res_blocks": 1, "attention": []}
    other = tmp_path / "other"
    VQGAN(
        encoder_sizes=side, decoder_sizes=side, z_channels=6, code_dim=4, codebook_size=16,
        norm_groups=4, image_size=16,
    ).save_pretrained(other)  # fmt: skip
    data = {"path": str(shards), "tokenizer": str(other)}
    with pytest.raises(TokenError, match="were made by a tokenizer with code hash"):
        train(config(other, data=data), tmp_path / "run")


@pytest.mark.parametrize("kind", ["MaskGIT", "RAR", "NextScale"])
def test_every_generator_trains_and_is_looked_at(
    tokenizer: Path, tmp_path: Path, kind: str
) -> None:
    model: dict[str, Any] = {"class": kind, "config": {"width": 32, "layers": 2, "heads": 2}}
    data = recipe(tokenizer)["data"]
    if kind == "NextScale":
        torch.manual_seed(0)
        side = {"channels": 8, "multipliers": [1, 2, 2], "res_blocks": 1, "attention": []}
        VQGAN(
            encoder_sizes=side, decoder_sizes=side, z_channels=6, code_dim=4, codebook_size=16,
            norm_groups=4, image_size=16, quantizer_kind="multi_scale", scales=[1, 2, 4],
            l2_normalize=False,
        ).save_pretrained(tmp_path / "scales")  # fmt: skip
        data |= {"tokenizer": str(tmp_path / "scales")}
        model["config"]["value_width"] = 4
    changed = config(tokenizer, model=model, data=data, guidance=2.0)
    folder = train(changed, tmp_path / "run")
    assert folder is not None and type(load(folder)).__name__ == kind
    assert any("validation/loss" in row for row in metrics(tmp_path / "run"))


def test_generators_of_values_need_their_tokenizer(shards: Path, tmp_path: Path) -> None:
    model = {"class": "NextScale", "config": {"width": 32, "layers": 1, "heads": 2}}
    with pytest.raises(ConfigError, match="lie on one scale"):
        train(config(tmp_path, model=model, data={"path": str(shards)}), tmp_path / "run")


def test_random_orders_give_way(tokenizer: Path, tmp_path: Path) -> None:
    rar = {"class": "RAR", "config": {"width": 32, "layers": 1, "heads": 2, "hidden": 32}}
    objective = {"random_order": {"start": 0.25, "end": 0.75}}
    train(config(tokenizer, model=rar, objective=objective), tmp_path)
    rows = [row for row in metrics(tmp_path) if "order_ratio" in row]
    assert [row["order_ratio"] for row in rows] == pytest.approx([1.0, 1.0, 0.5, 0.0])
