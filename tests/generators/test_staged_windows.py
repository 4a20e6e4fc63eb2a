"""A plain generator goes on with Token-Shuffle: what it takes over, and what does not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from generators.contract import Condition
from generators.sampling import sample
from generators.train import GeneratorRun, main, train
from tok_core.errors import ConfigError, WeightsError
from tok_core.loading import load
from tok_core.run_config import from_mapping, to_yaml
from vision_tok.vqgan import VQGAN

FRESH = {"fuse": "fresh", "unfuse": "fresh"}
FIRST, SECOND = 80, 4


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VQGAN of 256 codes, one for 4 x 4 pixels."""
    torch.manual_seed(0)
    side = {"channels": 8, "multipliers": [1, 2, 2], "res_blocks": 1, "attention": []}
    folder = tmp_path_factory.mktemp("tokenizer")
    VQGAN(
        encoder_sizes=side, decoder_sizes=side, z_channels=6, code_dim=4, codebook_size=256,
        norm_groups=4, image_size=16,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def recipe(tokenizer: Path, model: dict[str, Any], steps: int, side: int = 16) -> dict[str, Any]:
    return {
        "model": model,
        "data": {
            "tokenizer": str(tokenizer), "signals": {"source": "classes", "size": side},
            "classes": 12,
        },
        "train": {"steps": steps, "batch_size": 8, "seed": 0, "ema_decay": 0.0, "device": "cpu"},
        "log": {"every": 1, "validate_every": 1000, "pictures_every": 0, "save_every": 0,
                "tracker": "none"},
        "optimizer": {"lr": 3e-3},
        "schedule": {"end_lr": 3e-3},
        "validation_samples": 32, "shown": 0,
    }  # fmt: skip


def trained(folder: Path, values: dict[str, Any]) -> Path:
    model = train(from_mapping(GeneratorRun, values), folder)
    assert model is not None
    return model


def validation(folder: Path) -> float:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["validation/loss"] for row in rows if "validation/loss" in row][-1]


NETWORK = {"width": 32, "layers": 2, "heads": 2, "dropout": 0.0}


@pytest.fixture(scope="module")
def plain(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator of 4 x 4 tokens without windows, trained a while."""
    folder = tmp_path_factory.mktemp("plain")
    return trained(folder, recipe(tokenizer, {"class": "LlamaGen", "config": NETWORK}, FIRST))


def continued(plain: Path, **config: Any) -> dict[str, Any]:
    parts = FRESH | ({"head": "fresh"} if "slot_head" in config else {})
    return {"from": str(plain), "config": {"window": 2} | config, "parts": parts}


@pytest.mark.parametrize("side", [16, 32])
def test_goes_on_ahead_of_a_fresh_model(
    tokenizer: Path, plain: Path, tmp_path: Path, side: int
) -> None:
    """The same grid, and one of twice the sides, whose windows are as many as the tokens were."""
    fresh = {"class": "LlamaGen", "config": NETWORK | {"window": 2}}
    for name, model in (("fresh", fresh), ("continued", continued(plain))):
        trained(tmp_path / name, recipe(tokenizer, model, SECOND, side))
    ours, theirs = validation(tmp_path / "continued"), validation(tmp_path / "fresh")
    assert ours < theirs - 0.2


def test_a_larger_grid_has_its_own_positions(
    tokenizer: Path, plain: Path, tmp_path: Path
) -> None:
    folder = trained(tmp_path, recipe(tokenizer, continued(plain), 1, side=32))
    before, after = load(plain), load(folder)
    assert before.sizes == (4, 4) and after.sizes == (8, 8) and after.classes == 12
    assert after.tables["windows"].shape == (16, 4)
    # 4 x 4 windows stand where 4 x 4 tokens stood.
    assert torch.equal(after.tables["rotation"], before.tables["rotation"])
    codes = sample(after, Condition(labels=torch.tensor([0, 11])), seeds=[0, 1])
    assert load(tokenizer).decode(codes).shape == (2, 3, 32, 32)


def test_takes_over_all_but_the_windows(tokenizer: Path, plain: Path, tmp_path: Path) -> None:
    values = recipe(tokenizer, continued(plain, slot_head="causal"), 1)
    values["optimizer"]["lr"] = values["schedule"]["end_lr"] = 0.0
    before, after = load(plain).state_dict(), load(trained(tmp_path, values)).state_dict()
    assert before and all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    added = {name.split(".")[0] for name in after.keys() - before.keys()}
    assert added == {"fuse", "unfuse", "head"}


def test_a_larger_window_is_learned_anew(tokenizer: Path, plain: Path, tmp_path: Path) -> None:
    """``fresh`` holds for parts that the first model has in other shapes, too."""
    two = trained(tmp_path / "two", recipe(tokenizer, continued(plain), 1))
    four = {"from": str(two), "config": {"window": 4}, "parts": FRESH}
    assert load(trained(tmp_path / "four", recipe(tokenizer, four, 1))).settings.window == 4


@pytest.mark.parametrize(("model", "error", "words"), [
    ({"config": {"window": 2}}, WeightsError, "lacks 'fuse.* name its part in model.parts"),
    ({"config": {"window": 3}, "parts": FRESH}, ConfigError, "do not tile a grid of 4 x 4"),
    ({"config": {"window": 2, "width": 64}, "parts": FRESH}, WeightsError, "in model.config; make"),
    ({"class": "RAR"}, WeightsError, "holds a LlamaGen, not a RAR"),
])  # fmt: skip
def test_what_does_not_fit(
    tokenizer: Path, plain: Path, tmp_path: Path, model: dict[str, Any], error: type, words: str
) -> None:
    with pytest.raises(error, match=words):
        trained(tmp_path, recipe(tokenizer, {"from": str(plain)} | model, 1))


def test_learned_positions_stay_at_their_size(tokenizer: Path, tmp_path: Path) -> None:
    rar = {"class": "RAR", "config": {"width": 32, "layers": 1, "heads": 2, "hidden": 32}}
    first = trained(tmp_path / "first", recipe(tokenizer, rar, 1))
    with pytest.raises(WeightsError, match=r"positions.* in model\.config; make the config agree"):
        trained(tmp_path / "second", recipe(tokenizer, {"from": str(first)}, 1, side=32))


def test_tokens_of_another_tokenizer(tokenizer: Path, plain: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(tokenizer, other)
    changed = load(other)
    with torch.no_grad():
        next(iter(changed.encoder.parameters())).add_(0.01)
    changed.save_pretrained(other)
    with pytest.raises(ConfigError, match="model.from was trained on tokens of code hash"):
        trained(tmp_path / "run", recipe(other, continued(plain), 1))


def test_more_classes(tokenizer: Path, plain: Path, tmp_path: Path) -> None:
    values = recipe(tokenizer, continued(plain), 1)
    values["data"]["classes"] = 13
    with pytest.raises(ConfigError, match="knows 12 classes and the data 13"):
        trained(tmp_path, values)


def test_command_line(
    tokenizer: Path, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "recipe.yaml"
    values = recipe(tokenizer, {"class": "LlamaGen", "config": NETWORK}, 1)
    file.write_text(to_yaml(from_mapping(GeneratorRun, values)))
    words = ["--config", str(file), "--out", str(tmp_path / "run"), "--set", f"model.from={plain}",
             "--set", "model.config.window=2"]  # fmt: skip
    assert main(words) == 2
    assert "lacks 'fuse" in capsys.readouterr().err
    assert main([*words, "--set", "model.parts={fuse: fresh, unfuse: fresh}"]) == 0
    assert load(tmp_path / "run" / "model").settings.window == 2
