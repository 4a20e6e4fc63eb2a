"""The shipped model keeps its promises: size, bar, card, reproducible identity."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
import torch
import yaml

from assets import asset_path, photograph_split
from tests.vision_tok.held_out_tiles import assert_all_tiles, assert_first_tiles
from tok_core.loading import load

FOLDER = "models/one-d-piece-tiny"


@pytest.fixture(scope="module")
def model() -> Any:
    return load(asset_path(FOLDER))


@pytest.fixture(scope="module")
def written() -> dict[str, Any]:
    scores: dict[str, Any] = json.loads(asset_path(f"{FOLDER}/scores.json").read_text())
    return scores


def test_it_is_small_and_one_d(model: Any) -> None:
    size = sum(f.stat().st_size for f in asset_path(FOLDER).iterdir())
    assert size <= 8_000_000
    (axis,) = model.spec.axes
    assert axis.name == "token" and axis.size <= 256 and axis.minimum == 1
    assert min(model.spec.image_size) >= 64


def test_held_out_quality_meets_the_bar(written: dict[str, Any]) -> None:
    by_budget = [(int(k), v["psnr"]) for k, v in written["budgets"].items()]
    full = max(by_budget)[1]
    assert full >= 22.0
    assert full >= written["flat_colour_psnr"] + 6.0
    for (k, low), (twice, high) in itertools.pairwise(by_budget):
        assert twice == 2 * k and high >= low + 0.5


def test_the_first_tiles_score_what_they_scored_when_it_was_shipped(model: Any) -> None:
    assert_first_tiles(model, "one-d-piece-tiny")


@pytest.mark.smoke
def test_all_tiles_score_what_is_written(model: Any, written: dict[str, Any]) -> None:
    assert_all_tiles(model, written)


def test_the_card_tells_the_written_scores(model: Any, written: dict[str, Any]) -> None:
    card = asset_path(f"{FOLDER}/README.md").read_text()
    assert model.code_hash()[:16] in card
    assert f"| {written['budgets']['256']['psnr']:.2f} |" in card


def test_its_run_is_the_recipe_in_the_package() -> None:
    recipe = yaml.safe_load(asset_path("configs/one-d-piece-tiny.yaml").read_text())
    run = yaml.safe_load(asset_path(f"{FOLDER}/run.yaml").read_text())
    assert run["model"]["config"] == recipe["model"]["config"]
    assert run["train"]["steps"] == recipe["train"]["steps"]
    assert run["data"]["mixture"] == recipe["data"]["mixture"]
    assert set(photograph_split()["held_out"]) == {"chelsea", "coffee", "flower"}
    listed = asset_path("images/held_out.txt").read_text().split()
    assert listed == [f"{name}.webp" for name in photograph_split()["held_out"]]


def test_every_prefix_decodes_and_more_tokens_change_the_picture(model: Any) -> None:
    x = torch.rand(1, 3, *model.spec.image_size, generator=torch.manual_seed(0)) * 2 - 1
    tokens = model.encode(x)
    pictures = model.decode_lengths(tokens, [1, 7, 256])
    assert pictures.abs().max() <= 1.0
    assert (pictures[0] - pictures[2]).abs().mean() > 0.01
