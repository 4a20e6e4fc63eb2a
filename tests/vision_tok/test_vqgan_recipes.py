"""Recipes of the VQGAN family: sizes to the last parameter, and training when shrunk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tok_core.loading import load, model_class
from tok_core.run_config import load_config
from vision_tok.held_out import held_out_scores
from vision_tok.import_vqgan import official_names
from vision_tok.model_card import write_model_card
from vision_tok.train import ImageRun, train
from vision_tok.validation import budgets
from vision_tok.vqgan import VQGAN

FOLDER = Path(__file__).parents[2] / "assets" / "configs"
EXACT = {
    "llamagen-vq-16": 71_883_403, "llamagen-vq-8": 70_109_835, "var-vqvae": 108_948_355,
    "llamagen-decoder": 71_883_403,
}  # fmt: skip
MEGABYTES = 6.0
SIDE = "{channels: 32, multipliers: [1, 2], res_blocks: 1}"
SHRINK = [
    "data.source=natural", "data.size=32", "train.batch_size=2", "train.steps=3",
    "train.mixed_precision=none", "train.workers=0", "log.every=1", "log.tracker=none",
    "validation_images=2", "train.device=cpu", f"model.config.encoder_sizes={SIDE}",
    "model.config.image_size=32", "model.config.codebook_size=24", "objective.perceptual=none",
    "objective.discriminator_channels=8", "objective.discriminator_stages=1",
]  # fmt: skip


def recipe(name: str, *more: str) -> ImageRun:
    return load_config(ImageRun, FOLDER / f"{name}.yaml", more)


def build(config: ImageRun) -> Any:
    assert config.model.class_ is not None
    with torch.device("meta"):
        return model_class(config.model.class_)(**config.model.config)


@pytest.mark.parametrize("name", EXACT)
def test_published_sizes(name: str) -> None:
    model = build(recipe(name))
    assert sum(p.numel() for p in model.parameters()) == EXACT[name]


def test_the_shipped_size_and_rate() -> None:
    config = recipe("vqgan-tiny")
    model = build(config)
    stored = sum(t.numel() for t in model.state_dict().values()) * 2 / 1e6
    assert config.export.dtype == "float16" and stored <= MEGABYTES
    assert model.spec.grid == (16, 16) and model.spec.bits == (12,)
    assert model.spec.image_size == (128, 128) and config.data.size == 128


@pytest.mark.parametrize("name", ["llamagen-vq-16", "var-vqvae"])
def test_recipes_train_with_their_adversary(name: str, tmp_path: Path) -> None:
    scales = ["model.config.scales=[1, 2, 16]"] if name == "var-vqvae" else []
    config = recipe(
        name, *SHRINK, "objective.discriminator_start=2", "objective.discriminator_head_start=1",
        *scales,
    )  # fmt: skip
    model: Any = load(train(config, tmp_path))
    lines = (tmp_path / "metrics.jsonl").read_text()
    assert "discriminator/hinge" in lines and "loss/gan" in lines
    assert budgets(model) == ([1, 5, 261] if scales else [None])


def test_the_decoder_trains_from_a_published_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    side = {"channels": 32, "multipliers": [1, 2], "res_blocks": 1}
    start = VQGAN(encoder_sizes=side, codebook_size=24)
    state, names = start.state_dict(), official_names(start, "llamagen")
    official = {
        part: piece.clone()
        for ours, parts in names.items()
        for part, piece in zip(parts, state[ours].chunk(len(parts)), strict=True)
    }
    torch.save({"model": official}, tmp_path / "vq.pt")
    config = recipe(
        "llamagen-decoder", *SHRINK, f"model.from={tmp_path / 'vq.pt'}",
        "objective.discriminator_start=1", "objective.discriminator_head_start=1",
        "objective.adaptive_weight=true",
    )  # fmt: skip
    tuned: Any = load(train(config, tmp_path / "run"))
    assert tuned.code_hash() == start.code_hash()
    after = tuned.state_dict()
    changed = {name.split(".")[0] for name in after if not torch.equal(after[name], state[name])}
    assert changed == {"decoder"}
    assert "adaptive_weight" in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_the_shipped_recipe_trains_when_short(tmp_path: Path) -> None:
    config = recipe(
        "vqgan-tiny", "train.steps=4", "train.batch_size=2", "train.device=cpu", "log.every=1",
        "log.tracker=none", "validation_images=2", "data.source=natural", "data.mixture={}",
        "model.config.quantizer_options={quantize_after_steps: 1, kmeans_start: true, "
        "dead_code_every: 2}", "model.config.codebook_size=64",
    )  # fmt: skip
    model: Any = load(train(config, tmp_path))
    scores = held_out_scores(model)
    assert list(scores["budgets"]) == ["256"] and scores["tile_size"] == 128
    write_model_card(tmp_path, tmp_path / "shipped", machine="a test")
    card = (tmp_path / "shipped" / "README.md").read_text()
    assert "16 x 16 tokens of 6 bits" in card and "| 256 | 192 |" in card
