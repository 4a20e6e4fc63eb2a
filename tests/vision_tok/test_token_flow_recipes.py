"""TokenFlow's recipes: sizes, and a few steps of each when shrunk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tok_core.loading import model_class
from tok_core.run_config import load_config
from vision_tok.token_flow import TokenFlow
from vision_tok.train import ImageRun, train

FOLDER = Path(__file__).parents[2] / "assets" / "configs"
RECIPES = sorted(FOLDER.glob("token*flow-*.yaml"))
TINY = "token-flow-tiny"
TOWER = {"sizes": {"patch_size": 8, "grid": 4, "width": 32, "layers": 1, "heads": 2,
                   "mlp_width": 64}}  # fmt: skip
TEACHER = {"kind": "classifier", "weights": "assets/classifiers/procedural-v1",
           "strides": [2, 1, 2, 2, 1]}  # fmt: skip
SHRINK = [
    "data.source=classes", "data.size=32", "data.mixture={}", "train.batch_size=4",
    "train.steps=3", "train.accumulation=1", "train.mixed_precision=none", "train.workers=0",
    "train.device=cpu", "log.every=1", "log.tracker=none", "validation_images=2",
    "schedule.warmup=0", "model.config.image_size=32", "model.config.scales=[1, 2, 4]",
    "model.config.codebook_size=32", f"model.config.semantic_encoder={TOWER}",
    "model.config.semantic_decoder={width: 32, heads: 2, depth: 1, target_dim: 128}",
    "model.config.encoder_sizes={channels: 32, multipliers: [1, 1], res_blocks: 1}",
    "model.config.decoder_sizes={channels: 32, multipliers: [1, 1], res_blocks: 1}",
    "objective.perceptual=weightless",
]  # fmt: skip
ADVERSARY = [
    "objective.discriminator_start=1", "objective.discriminator_channels=8",
    "objective.discriminator_stages=1",
]  # fmt: skip


def _shrunk(name: str, *more: str) -> ImageRun:
    own = [] if name == TINY else ADVERSARY
    return load_config(ImageRun, FOLDER / f"{name}.yaml", [*SHRINK, *own, *more])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TokenFlow-B's recipe, shrunk and trained for three steps."""
    config = _shrunk("tokenflow-clipb-224", f"objective.semantic_teacher={TEACHER}")
    folder = train(config, tmp_path_factory.mktemp("clipb"))
    assert folder is not None
    return folder


def test_tiny_recipe_fits_six_megabytes() -> None:
    config = load_config(ImageRun, FOLDER / f"{TINY}.yaml")
    with torch.device("meta"):
        model: Any = model_class("TokenFlow")(**config.model.config)
    count = sum(tensor.numel() for tensor in model.state_dict().values())
    assert 2 * count < 6_000_000 and config.export.dtype == "float16"
    assert model.spec.image_size == (64, 64) and model.spec.bits == (12,)
    assert model.settings.semantic_decoder.target_dim == 128


@pytest.mark.parametrize("name", [TINY, "tokenflow-siglip-384"])
def test_recipe_trains(name: str, tmp_path: Path) -> None:
    folder = train(_shrunk(name, f"objective.semantic_teacher={TEACHER}"), tmp_path)
    assert folder is not None
    model = TokenFlow.from_pretrained(folder)
    x = torch.zeros(1, 3, 32, 32)
    assert model.decode(model.encode(x)).shape == x.shape
    assert "semantic" in (tmp_path / "metrics.jsonl").read_text()


def test_enhanced_decoder_keeps_the_codes(trained: Path, tmp_path: Path) -> None:
    config = _shrunk(
        "tokenflow-clipb-enhanced-decoder", f"model.from={trained}",
        "model.config.decoder_sizes={channels: 32, multipliers: [1, 1], res_blocks: 2}",
    )
    assert config.model.parts == {"decoder": "fresh"}
    assert config.train.train_only == ("decoder",) and config.objective.semantic_teacher is None
    folder = train(config, tmp_path)
    before, after = TokenFlow.from_pretrained(trained), TokenFlow.from_pretrained(folder)
    assert after.code_hash() == before.code_hash()
    assert len(after.decoder.levels[0].blocks) == 3
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    assert torch.equal(after.encode(x).codes, before.encode(x).codes)
    same = {n: t for n, t in before.state_dict().items() if not n.startswith("decoder.")}
    assert all(torch.equal(t, after.state_dict()[n]) for n, t in same.items())
