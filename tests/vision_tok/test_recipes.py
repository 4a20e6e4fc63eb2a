"""Every recipe: parsed, built on the meta device at its published size, and trained when shrunk."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from tok_core.errors import ConfigError
from tok_core.loading import load, model_class
from tok_core.run_config import load_config
from tok_core.training.config import ModelConfig
from tok_core.training.freezing import freeze
from vision_tok.maskgit_vqgan import MaskGitVQGAN
from vision_tok.one_d_piece import OneDPiece
from vision_tok.train import ImageRun, train

FOLDER = Path(__file__).parents[2] / "assets" / "configs"
# Recipes of codecs, generators and post-training are tested in tests/audio_tok, tests/generators.
OTHERS = ("wavtokenizer-", "dual-codec-", "kl-codec-", "generator-", "post-train-")
RECIPES = sorted(p for p in FOLDER.glob("*.yaml") if not p.stem.startswith(OTHERS))
# Millions of parameters, from the papers' tables: whole tokenizers with their pixel stage, or
# the single-stage networks.  Stage 1 is the same without its pixel stage.
PUBLISHED = {
    "one-d-piece-s-stage2": 83.9, "one-d-piece-b-stage2": 205.3, "one-d-piece-l-stage2": 641.7,
    "titok-s128-stage2": 83.7, "titok-b64-stage2": 204.8, "titok-l32-stage2": 641.1,
    "titok-bl64": 390, "titok-bl128": 390, "titok-sl256": 330,
    # SigLIP's file has 554.0 with a last block, a norm and a head that are never used.
    "tokenflow-clipb-224": 181.9, "tokenflow-clipb-enhanced-decoder": 376.6,
    "tokenflow-siglip-384": 523.5,
    # Without the teacher, 85.86 more in the published files.
    "robus-tok": 172.3, "xqgan-vq-4096": 172.3, "xqgan-vp2-4096": 172.5,
    "imagefolder-msvr10p2-4096": 172.3,
    "llamagen-vq-16": 71.9, "llamagen-vq-8": 70.1, "var-vqvae": 108.9,
}
SHRINK = [
    "data.source=natural", "data.size=32", "train.batch_size=2", "train.steps=2",
    "train.accumulation=1", "train.mixed_precision=none", "train.workers=0", "log.every=1",
    "log.tracker=none", "validation_images=2", "train.device=cpu",
]
SMALL = [
    "model.config.image_size=32", "model.config.patch_size=8", "model.config.num_tokens=8",
    "model.config.encoder_size={width: 32, layers: 1, heads: 2}",
    "model.config.decoder_size={width: 32, layers: 1, heads: 2}", "model.config.codebook_size=16",
]
TEACHER = {"hidden_channels": 32, "channel_mult": [1, 1, 1, 1], "num_res_blocks": 1,
           "z_channels": 8}


def _build(config: ImageRun) -> Any:
    assert config.model.class_ is not None
    with torch.device("meta"):
        return model_class(config.model.class_)(**config.model.config)


def test_every_published_size_has_its_recipe() -> None:
    assert PUBLISHED.keys() <= {path.stem for path in RECIPES}
    stages = [path.stem for path in RECIPES if path.stem.endswith("stage2")]
    assert {name.replace("stage2", "stage1") for name in stages} <= {p.stem for p in RECIPES}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_builds_at_its_published_size(path: Path) -> None:
    config = load_config(ImageRun, path)
    assert config.name == path.stem
    if config.model.class_ is None:
        assert path.stem == "decoder-only"
        return
    tower = config.model.config.get("semantic_encoder", {})
    if tower.get("kind") == "timm" and find_spec("timm") is None:
        with pytest.raises(ConfigError, match="needs the timm library"):
            _build(config)
        return
    model = _build(config)
    assert config.data.size == config.model.config["image_size"]
    if path.stem in PUBLISHED:
        count = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        digits = 1 if isinstance(PUBLISHED[path.stem], float) else 0
        assert round(count, digits) == pytest.approx(PUBLISHED[path.stem], abs=0.11 * 10**-digits)


@pytest.mark.parametrize("name", [n for n in PUBLISHED if n.endswith("stage2")])
def test_stages_fit_together(name: str) -> None:
    first = load_config(ImageRun, FOLDER / f"{name.replace('stage2', 'stage1')}.yaml")
    second = load_config(ImageRun, FOLDER / f"{name}.yaml")
    before, after = _build(first).state_dict(), _build(second).state_dict()
    added = after.keys() - before.keys()
    assert not before.keys() - after.keys()
    assert added and all(key.startswith("pixel_stage.") for key in added)
    assert all(before[key].shape == after[key].shape for key in before)
    assert second.model.from_ == f"runs/{first.name}/model"
    model = _build(second)
    freeze(model, prefixes=second.train.freeze)
    trained = {key.split(".")[0] for key, p in model.named_parameters() if p.requires_grad}
    assert trained == {"decoder", "pixel_stage"}
    assert model.codes_are_frozen


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny MaskGIT-VQGAN on disk."""
    folder = tmp_path_factory.mktemp("teacher")
    MaskGitVQGAN(**TEACHER, codebook_size=24).save_pretrained(folder)
    return folder


def _shrunk(name: str, *more: str) -> ImageRun:
    recipe = load_config(ImageRun, FOLDER / f"{name}.yaml")
    own = [] if recipe.model.class_ is None or recipe.model.config.get("stem") else SMALL
    return load_config(ImageRun, FOLDER / f"{name}.yaml", [*SHRINK, *own, *more])


@pytest.mark.parametrize("family", ["one-d-piece-s", "titok-s128"])
def test_both_stages_train(family: str, teacher: Path, tmp_path: Path) -> None:
    proxy = ["model.config.proxy_codebook_size=24", f"objective.teacher={teacher}"]
    first = train(_shrunk(f"{family}-stage1", *proxy), tmp_path / "one")
    second = train(
        _shrunk(
            f"{family}-stage2", *proxy, f"model.from={first}",
            f"model.config.pixel_decoder={TEACHER}",
            f"model.parts={{pixel_stage.codebook: '{teacher}#quantizer.codebook', "
            f"pixel_stage.decoder: '{teacher}#decoder'}}",
            "objective.perceptual=none", "objective.discriminator_start=1",
            "objective.discriminator_channels=32", "objective.discriminator_stages=1",
        ),
        tmp_path / "two",
    )
    assert first and second
    one, two = load(first), load(second)
    assert one.code_hash() == two.code_hash()
    assert torch.isfinite(two(torch.zeros(1, 3, 32, 32)).reconstruction).all()


@pytest.mark.parametrize("name", ["titok-bl64", "smoke"])
def test_single_stage_trains(name: str, tmp_path: Path) -> None:
    small = ["objective.perceptual=weightless", "objective.discriminator_start=1",
             "objective.discriminator_channels=32", "objective.discriminator_stages=1"]
    assert load(train(_shrunk(name, *small), tmp_path))


def test_decoder_only_from_any_checkpoint(tmp_path: Path) -> None:
    start = OneDPiece(
        image_size=32, patch_size=8, num_tokens=8, codebook_size=16,
        encoder_size={"width": 32, "layers": 1, "heads": 2},
        decoder_size={"width": 32, "layers": 1, "heads": 2},
    )
    start.save_pretrained(tmp_path / "start")
    config = _shrunk("decoder-only", f"model.from={tmp_path / 'start'}", "schedule.warmup=0")
    assert config.model == ModelConfig(from_=str(tmp_path / "start"))
    tuned = load(train(config, tmp_path / "run"))
    assert tuned.code_hash() == start.code_hash()
    assert tuned.weights_hash() != start.weights_hash()
