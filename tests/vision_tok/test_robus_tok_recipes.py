"""RobusTok's recipes: sizes to the last parameter, and training when shrunk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tok_core.errors import ConfigError, WeightsError
from tok_core.loading import load, model_class
from tok_core.run_config import load_config
from vision_tok.robus_tok import RobusTok
from vision_tok.train import ImageRun, train
from vision_tok.validation import budgets

FOLDER = Path(__file__).parents[2] / "assets" / "configs"
EXACT = {
    "robus-tok": 172_288_064, "xqgan-vq-4096": 172_288_064, "xqgan-vp2-4096": 172_460_832,
    "imagefolder-msvr10p2-4096": 172_327_456,
}  # fmt: skip
TINY = ("robus-tok-tiny", "robus-tok-tiny-plain")
TEACHER = {"kind": "classifier", "weights": "assets/classifiers/procedural-v1",
           "strides": [2, 1, 2, 2, 1]}  # fmt: skip
TRUNK = {"kind": "random", "readouts": [0],
         "sizes": {"patch_size": 8, "grid": 4, "width": 32, "layers": 1, "heads": 2,
                   "mlp_width": 64, "class_token": True}}  # fmt: skip
QUICK = [
    "train.steps=3", "train.workers=0", "train.device=cpu", "train.mixed_precision=none",
    "log.every=1", "log.tracker=none", "validation_images=2",
]  # fmt: skip
SHRINK = [
    *QUICK, "data.source=natural", "data.size=32", "train.batch_size=10",
    "model.config.image_size=32", "model.config.patch_size=8", "model.config.code_dim=8",
    "model.config.codebook_size=128",
    "model.config.encoder_size={width: 128, layers: 1, heads: 4, mlp_width: 64}",
    "model.config.decoder_size={width: 64, layers: 1, heads: 2, mlp_width: 64}",
    f"objective.semantic_teacher={TEACHER}", f"objective.discriminator_trunk={TRUNK}",
    "objective.perceptual=none", "objective.discriminator_start=1",
]  # fmt: skip


def recipe(name: str, *more: str) -> ImageRun:
    return load_config(ImageRun, FOLDER / f"{name}.yaml", more)


def build(config: ImageRun) -> Any:
    with torch.device("meta"):
        return model_class(config.model.class_)(**config.model.config)


def metrics(folder: Path) -> dict[str, Any]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    found: dict[str, Any] = {}
    for line in lines:
        found |= json.loads(line)
    return found


@pytest.mark.parametrize("name", EXACT)
def test_published_sizes(name: str) -> None:
    model = build(recipe(name))
    assert sum(p.numel() for p in model.parameters()) == EXACT[name]


def test_published_numbers() -> None:
    config = recipe("robus-tok")
    assert config.perturbation is not None and config.perturbation.annealing is not None
    epoch = config.schedule.epoch_steps
    assert config.train.steps == 200 * epoch and config.objective.discriminator_start == 56 * epoch
    assert config.perturbation.annealing.epoch_steps == epoch
    late = config.perturbation.annealing.at_step(config.train.steps, config.perturbation)
    assert (late.alpha, late.delta) == (0.5, 50)
    assert int(config.train.batch_size * config.perturbation.beta) == 12
    assert [recipe(name).perturbation for name in list(EXACT)[1:]] == [None] * 3
    folded = build(recipe("imagefolder-msvr10p2-4096"))
    assert folded.spec.scales is not None
    assert sum(h * w for h, w in folded.spec.scales) == 286 and folded.spec.bits == (12, 12)
    assert folded.quantizer.dropout.rate == 0.1 and folded.quantizer.dropout.start_drop == 3


@pytest.mark.parametrize("name", ["robus-tok", "imagefolder-msvr10p2-4096"])
def test_recipes_train_with_everything_on(name: str, tmp_path: Path) -> None:
    scales = ["model.config.scales=[1, 1, 2, 4]"] if name != "robus-tok" else []
    model: Any = load(train(recipe(name, *SHRINK, *scales), tmp_path))
    assert isinstance(model, RobusTok)
    found = metrics(tmp_path)
    assert {"loss/contrastive", "loss/gan", "discriminator/hinge"} <= found.keys()
    assert ("perturbation/changed" in found) == (name == "robus-tok")
    assert budgets(model) == ([1, 2, 6, 22] if scales else [None])


@pytest.mark.parametrize("name", TINY)
def test_tiny_recipes_train(name: str, tmp_path: Path) -> None:
    config = recipe(
        name, *QUICK, "train.batch_size=8", "model.config.quantizer_options.quantize_after_steps=1"
    )
    model: Any = load(train(config, tmp_path))
    found = metrics(tmp_path)
    assert ("perturbation/changed" in found) == (name == TINY[0])
    assert "loss/contrastive" in found
    assert sum(p.numel() for p in model.parameters()) <= 3_000_000
    assert model.spec.grid == (8, 8) and model.spec.image_size == (64, 64)


def test_tiny_recipes_differ_in_nothing_else() -> None:
    first, second = (recipe(name) for name in TINY)
    assert first.perturbation is not None and second.perturbation is None
    assert (first.model, first.data, first.train, first.objective) == (
        second.model, second.data, second.train, second.objective
    )  # fmt: skip


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    no_teacher = ["objective.semantic_teacher=null"]
    with pytest.raises(ConfigError, match="semantic_teacher"):
        train(recipe("robus-tok", *SHRINK, *no_teacher), tmp_path / "a")
    nowhere = "{kind: tower, weights: ./nowhere.safetensors, normalization: imagenet}"
    with pytest.raises(WeightsError, match="no vision model at"):
        train(recipe("robus-tok", *SHRINK, f"objective.semantic_teacher={nowhere}"), tmp_path / "b")
    narrow = "model.config.encoder_size={width: 64, layers: 1, heads: 2, mlp_width: 64}"
    with pytest.raises(ConfigError, match="choose a teacher 64 wide"):
        train(recipe("robus-tok", *SHRINK, narrow), tmp_path / "c")
    with pytest.raises(ConfigError, match="delta is 100.*32 codes"):
        train(recipe("robus-tok", *SHRINK, "model.config.codebook_size=32"), tmp_path / "d")
