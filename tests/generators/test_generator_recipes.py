"""Recipes of the published generators: every file parsed, sizes to the last parameter."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from generators.contract import fixed_spec
from generators.train import GeneratorRun
from tok_core.loading import model_class
from tok_core.run_config import load_config, read_recipe
from tok_core.token_spec import TokenSpec
from vision_tok.maskgit_vqgan import MaskGitVQGAN

FOLDER = Path(__file__).parents[2] / "assets" / "configs"
# Ours are tiny; those of TokenBridge have a test of their own.
PUBLISHED = sorted(
    path.stem for path in FOLDER.glob("generator-*.yaml")
    if not path.stem.endswith("-tiny") and "token-bridge" not in path.stem
)  # fmt: skip
# The recipe that makes the tokenizer of a folder under models/.
TOKENIZERS = {
    "llamagen-vq-16": "llamagen-vq-16", "llamagen-vq-16-t2i": "llamagen-vq-16",
    "one-d-piece-s": "one-d-piece-s-stage1", "one-d-piece-b": "one-d-piece-b-stage1",
    "one-d-piece-l": "one-d-piece-l-stage1", "titok-l32": "titok-l32-stage1",
    "titok-b64": "titok-b64-stage1", "titok-s128": "titok-s128-stage1", "robus-tok": "robus-tok",
}  # fmt: skip


class Published(NamedTuple):
    """What a paper says of a generator.

    Attributes:
        exact: our parameters. paper: in millions, None where none is given.
        shown: positions of one sample.
        unread: parameters of published tables that are never read and that we do not have.
    """

    exact: int
    paper: float | None
    shown: int
    unread: int = 0


# RAR's tables are made for 1024 positions more, 100 slots more, and a mask.
UNREAD = 2 * (256 + 1024) + (256 + 100) + 1 - 256 - 2 * (256 + 2)
SIZES = {
    "llamagen-b-256": Published(110_888_448, 110.9, 256),
    "llamagen-l-256": Published(342_910_976, 342.9, 256),
    "llamagen-b-384": Published(110_888_448, 110.9, 576),
    "llamagen-l-384": Published(342_910_976, 342.9, 576),
    "llamagen-xl-384": Published(774_699_520, 774.7, 576),
    "llamagen-xxl-384": Published(1_410_972_672, 1411.0, 576),
    "llamagen-3b-384": Published(3_096_659_200, 3096.7, 576),
    "llamagen-t2i-xl-stage1": Published(777_678_080, None, 256),
    "llamagen-t2i-xl-stage2": Published(777_678_080, None, 1024),
    "rar-b": Published(259_276_288, 261, 256, UNREAD * 768),
    "rar-l": Published(459_471_872, 461, 256, UNREAD * 1024),
    "rar-xl": Published(952_679_424, 955, 256, UNREAD * 1280),
    "rar-xxl": Published(1_495_500_544, 1498.5, 256, UNREAD * 1408),
    "robus-tok-rar-b": Published(263_997_952, 265.6, 256, UNREAD * 768),
    "robus-tok-rar-l": Published(465_766_400, 468.0, 256, UNREAD * 1024),
    "maskgit-one-d-piece-s": Published(177_374_464, 177, 256),
    "maskgit-one-d-piece-b": Published(177_374_464, 177, 256),
    "maskgit-one-d-piece-l": Published(177_374_464, 177, 256),
    "maskgit-titok-l32": Published(177_202_432, 177, 32),
    "maskgit-titok-b64": Published(177_227_008, 177, 64),
    "maskgit-titok-s128": Published(294_990_848, 295, 128),
    "token-shuffle-512": Published(2_381_442_048, None, 1024),
    "token-shuffle-1024": Published(2_461_670_400, None, 4096),
    "token-shuffle-2048": Published(2_461_670_400, None, 16384),
}


def recipe(name: str) -> GeneratorRun:
    return load_config(GeneratorRun, FOLDER / f"generator-{name}.yaml")


def spec_of(config: GeneratorRun, shown: int) -> TokenSpec:
    """Return the spec of the tokens that a recipe's shards hold."""
    assert config.data.tokenizer is not None
    name = Path(config.data.tokenizer).name
    with torch.device("meta"):
        if name == "maskgit-vqgan":
            tokenizer: Any = MaskGitVQGAN()
        else:
            given = read_recipe(FOLDER / f"{TOKENIZERS[name]}.yaml")["model"]
            tokenizer = model_class(given["class"])(**given["config"])
    side = round(shown**0.5)
    free = any(axis.name == "row" for axis in tokenizer.spec.axes)
    return fixed_spec(tokenizer.spec, (side, side) if free else None)


def build(config: GeneratorRun, shown: int) -> Any:
    """Build a recipe's model on meta as the training program would, told of its data."""
    told: dict[str, Any] = {
        "spec": spec_of(config, shown).to_json(), "classes": config.data.classes or 0,
    }  # fmt: skip
    if config.data.captions:
        told |= {"caption_width": 2048, "caption_length": config.data.captions}
    assert config.model.class_ is not None
    with torch.device("meta"):
        return model_class(config.model.class_)(**{**config.model.config, **told})


def test_every_recipe_has_its_size() -> None:
    assert {f"generator-{name}" for name in SIZES} == set(PUBLISHED)


@pytest.mark.parametrize("name", SIZES)
def test_published_sizes(name: str) -> None:
    config, published = recipe(name), SIZES[name]
    model = build(config, published.shown)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == published.exact
    positions = [a.size or 1 for a in model.spec.axes if a.name in ("row", "column", "token")]
    assert torch.tensor(positions).prod() == published.shown
    if published.paper is not None:
        assert (count + published.unread) / 1e6 == pytest.approx(published.paper, rel=2.5e-3)


@pytest.mark.parametrize("name", SIZES)
def test_numbers_of_the_papers(name: str) -> None:
    """Batch, epochs, optimizer, averages: what each family's scripts say."""
    config = recipe(name)
    train, optimizer = config.train, config.optimizer
    assert config.name == f"generator-{name}" and train.clip == 1.0
    assert train.mixed_precision == "bf16"
    local = train.batch_size * train.accumulation
    if name.startswith("llamagen"):
        assert (optimizer.lr, optimizer.weight_decay, 8 * local) == (1e-4, 0.05, 256)
        assert optimizer.betas == (0.9, 0.95) and train.ema_decay == 0.0
        assert config.schedule.warmup == 0 and config.schedule.end_lr == optimizer.lr
        assert train.fsdp == (name.endswith(("xxl-384", "3b-384")))
        if "t2i" not in name:
            assert round(300 * 1_281_167 / 256) == train.steps
    elif "rar" in name:
        assert (optimizer.lr, optimizer.weight_decay, 8 * local) == (4e-4, 0.03, 2048)
        assert optimizer.betas == (0.9, 0.96) and train.ema_decay == 0.0
        order = config.objective.random_order
        assert train.steps == 250_000 and config.schedule.warmup == 62_500
        ratios = [order.at(step, train.steps) for step in (125_000, 156_250, 187_500)]
        assert ratios == [1.0, 0.5, 0.0]
    elif name.startswith("maskgit"):
        assert (optimizer.lr, optimizer.weight_decay, 8 * local) == (2e-4, 0.03, 2048)
        assert optimizer.betas == (0.9, 0.96) and train.ema_decay == 0.999
        assert train.steps == 500_000 and config.schedule.warmup == 10_000


def test_token_shuffle_begins_without_and_goes_on_with_windows() -> None:
    stages = [recipe(f"token-shuffle-{size}") for size in (512, 1024, 2048)]
    assert [stage.model.config.get("window", 1) for stage in stages] == [1, 2, 2]
    assert [stage.model.config.get("z_loss", 0.0) for stage in stages] == [0.0, 0.0, 1e-5]
    for before, after in pairwise(stages):
        assert after.model.from_ == f"runs/{before.name}/model"
