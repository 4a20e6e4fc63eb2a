"""Long runs (make smoke): recipes of published generators train on shards and are drawn from.

Networks are shrunk and all share one folder of shards; head, losses, orders, masks, optimizer and
the stages of a recipe stay as they are written.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from generators.caption_condition import caption_condition
from generators.contract import Condition
from generators.drawing import draw_codes
from generators.guidance import Guidance
from tessera.cli import run
from tok_core.loading import load
from tok_core.run_config import read_recipe
from vision_tok.vqgan import VQGAN

pytestmark = pytest.mark.smoke
ROOT = Path(__file__).resolve().parents[2]
CAPTION_WIDTH = 6
STEPS = 4


@cache
def stage(path: Path) -> int:
    """Count the recipes that come before one, by the run it begins from."""
    start = read_recipe(path)["model"].get("from")
    return 0 if start is None else 1 + stage(path.parent / f"{Path(start).parent.name}.yaml")


EVERY = sorted((ROOT / "assets" / "configs").glob("generator-*.yaml"))
RECIPES = sorted((path for path in EVERY if "path" in read_recipe(path)["data"]), key=stage)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of 4 x 4 codes and shards of twelve captioned pictures in two classes."""
    folder = tmp_path_factory.mktemp("generators")
    torch.manual_seed(0)
    side = {"channels": 8, "multipliers": [1, 2, 2], "res_blocks": 1, "attention": []}
    VQGAN(
        encoder_sizes=side, decoder_sizes=side, z_channels=6, code_dim=4, codebook_size=16,
        norm_groups=4, image_size=16,
    ).save_pretrained(folder / "tokenizer")  # fmt: skip
    numbers = np.random.default_rng(0)
    for i in range(12):
        place = folder / "pictures" / ("cats", "dogs")[i % 2] / f"{i}.png"
        place.parent.mkdir(exist_ok=True, parents=True)
        Image.effect_noise((20, 20), 20 + i).convert("RGB").save(place)
        np.save(place.with_suffix(".npy"), numbers.normal(size=(3, CAPTION_WIDTH)).astype("f4"))
    words = ["tokenize", folder / "pictures", folder / "tokens", "-m", folder / "tokenizer",
             "--twenty-crop", "--captions", "--per-shard", 5]  # fmt: skip
    assert run([str(word) for word in words]) == 0
    return folder


def overrides(recipe: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return what makes a recipe small enough for a few steps here."""
    config, train = recipe["model"].get("config", {}), recipe["train"]
    settings: dict[str, Any] = {
        "data.path": folder / "tokens", "data.tokenizer": folder / "tokenizer",
        "train.steps": STEPS, "train.batch_size": 4, "train.workers": 0, "train.device": "cpu",
        "train.mixed_precision": "none", "train.accumulation": min(2, train.get("accumulation", 1)),
        "log.every": 2, "log.tracker": "none", "log.validate_every": 0, "log.pictures_every": 0,
        "log.save_every": 0, "validation_samples": 2, "shown": 2,
        "schedule.warmup": min(1, recipe["schedule"]["warmup"]),
    }  # fmt: skip
    small = {"width": 48, "layers": 2, "heads": 2}
    if config.get("hidden") is not None:
        small["hidden"] = 96
    settings |= {f"model.config.{key}": value for key, value in small.items()}
    if "from" in recipe["model"]:
        settings["model.from"] = folder / Path(recipe["model"]["from"]).parent.name / "model"
    return settings


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_trains_and_its_model_draws(path: Path, folder: Path) -> None:
    """A later stage takes the model of the stage before it, which has run by then."""
    recipe, out = read_recipe(path), folder / path.stem
    options = [f"--set={key}={value}" for key, value in overrides(recipe, folder).items()]
    words = ["train", "--modality", "tokens", "--config", path, "--out", out, *options]
    assert run([str(word) for word in words]) == 0
    model: Any = load(out / "model")
    if model.captions is not None:
        condition = caption_condition(torch.randn(2, 7, CAPTION_WIDTH), shape=model.captions)
    else:
        condition = Condition(labels=torch.tensor([0, 999]))
    codes = draw_codes(model, condition, seeds=[0, 1], guidance=Guidance(scale=recipe["guidance"]))
    model.spec.check(codes)
    assert load(folder / "tokenizer").decode(codes).shape == (2, 3, 16, 16)
