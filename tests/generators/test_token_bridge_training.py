"""TokenBridge in the training program: values, losses per dimension, posteriors; its recipes."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from generators.contract import Condition, fixed_spec
from generators.masked_sampling import sample_masked
from generators.token_bridge import TokenBridge
from generators.token_data import SignalSample
from generators.token_objective import TokenObjective, TokenObjectiveConfig
from generators.train import GeneratorRun, main, train
from tessera.cli import run
from tests.two_processes import in_two
from tok_core.errors import ConfigError
from tok_core.loading import load, model_class
from tok_core.run_config import from_mapping, load_config, to_yaml
from tok_core.training.weight_decay import decay_groups
from vision_tok.token_bridge import TokenBridgeTokenizer

CONFIGS = Path(__file__).parents[2] / "assets" / "configs"
STEPS = 4
VAE = {"block_out_channels": [8, 8, 16], "layers_per_block": 1, "latent_channels": 4,
       "norm_num_groups": 4, "sample_size": 16}  # fmt: skip
SMALL: dict[str, Any] = {
    "width": 32, "layers": 1, "heads": 2, "buffer": 2, "head_width": 16, "head_layers": 1,
    "head_heads": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of 4 x 4 positions of 4 dimensions of 8 levels."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tokenizer")
    made = TokenBridgeTokenizer(VAE, scale=1.0, bits=3, channel_order=[2, 0, 3, 1])
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    made.save_pretrained(folder)
    return folder


def recipe(tokenizer: Path, **changes: Any) -> dict[str, Any]:
    return {
        "model": {"class": "TokenBridge", "config": {**SMALL, "head_chunk": 9}},
        "data": {
            "tokenizer": str(tokenizer), "signals": {"source": "classes", "size": 16},
            "classes": 12,
        },
        "train": {"steps": STEPS, "batch_size": 4, "seed": 0, "ema_decay": 0.5, "device": "cpu",
                  "gradient_checkpointing": True},
        "log": {"every": 1, "validate_every": 2, "pictures_every": 2, "save_every": 2,
                "tracker": "none"},
        "optimizer": {"lr": 1e-3}, "schedule": {"end_lr": 1e-3},
        "validation_samples": 3, "shown": 3, "guidance": 2.0,
    } | changes  # fmt: skip


def config(tokenizer: Path, **changes: Any) -> GeneratorRun:
    return from_mapping(GeneratorRun, recipe(tokenizer, **changes))


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder: Path) -> list[float]:
    return [row["loss/tokens"] for row in metrics(folder) if "loss/tokens" in row]


def test_trains_and_samples_without_its_tokenizer(tokenizer: Path, tmp_path: Path) -> None:
    folder = train(config(tokenizer), tmp_path)
    assert folder is not None
    generator = load(folder)
    assert isinstance(generator, TokenBridge) and generator.classes == 12
    assert generator.settings.channel_order == (2, 0, 3, 1)
    codes = sample_masked(generator, Condition(labels=torch.tensor([0, 11])), seeds=[0, 1])
    images = load(tokenizer)
    generator.attach(images)
    assert images.decode(codes).shape == (2, 3, 16, 16)
    rows = metrics(tmp_path)
    scores = [row for row in rows if "validation/loss" in row][-1]
    each = [scores[f"validation/loss_dimension_{i}"] for i in range(4)]
    assert sum(each) / 4 == pytest.approx(scores["validation/loss"], rel=1e-5)
    shares = [row["masked"] for row in rows if "masked" in row]
    assert shares and all(0.7 <= share <= 1 for share in shares)


def test_resumes_where_it_was(tokenizer: Path, tmp_path: Path) -> None:
    train(config(tokenizer), tmp_path / "whole")
    short = recipe(tokenizer)
    short["train"] = short["train"] | {"steps": 2}
    train(from_mapping(GeneratorRun, short), tmp_path / "parts")
    train(config(tokenizer), tmp_path / "parts", resume=True)
    assert losses(tmp_path / "parts")[2:] == pytest.approx(losses(tmp_path / "whole")[2:], rel=1e-4)


def test_latents_may_be_drawn_from_the_posterior(tokenizer: Path) -> None:
    """Codes to train on then differ from step to step; those of validation do not."""
    chosen = TokenObjectiveConfig(tokenizer=str(tokenizer), sample_posterior=True)
    objective = TokenObjective(chosen)
    torch.manual_seed(0)
    x = SignalSample(torch.rand(2, 3, 16, 16) * 2 - 1, torch.zeros(2, dtype=torch.int64))
    assert not torch.equal(objective.model_input(x), objective.model_input(x))
    assert torch.equal(objective.codes(x), load(tokenizer).encode(x.signal).codes)
    with pytest.raises(ConfigError, match=r"sample_posterior needs data\.signals"):
        TokenObjective(TokenObjectiveConfig(sample_posterior=True))


def test_shards_need_the_tokenizer_for_its_values(tokenizer: Path, tmp_path: Path) -> None:
    from PIL import Image

    for i in range(8):
        place = tmp_path / "pictures" / ("cats", "dogs")[i % 2] / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((16, 16), 20 + i).convert("RGB").save(place)
    words = ["tokenize", tmp_path / "pictures", tmp_path / "tokens", "-m", tokenizer]
    assert run([str(word) for word in words]) == 0
    with pytest.raises(ConfigError, match="takes values from its tokenizer's tables"):
        train(config(tokenizer, data={"path": str(tmp_path / "tokens")}), tmp_path / "without")
    data = {"path": str(tmp_path / "tokens"), "tokenizer": str(tokenizer)}
    folder = train(config(tokenizer, data=data), tmp_path / "with")
    assert folder is not None and load(folder).classes == 2


def test_an_order_of_another_autoencoder(tokenizer: Path, tmp_path: Path) -> None:
    model = {"class": "TokenBridge", "config": {**SMALL, "channel_order": list(range(16))}}
    with pytest.raises(ConfigError, match="these codes have 4 dimensions"):
        train(config(tokenizer, model=model), tmp_path)


def test_the_command_line_names_what_is_wrong(
    tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(to_yaml(config(tokenizer)))
    words = ["--config", str(file), "--set", "train.steps=1", "--out"]
    parallel = [str(tmp_path / "one"), "--set", "model.config.head_kind=parallel"]
    assert main([*words, *parallel]) == 0
    assert main([*words, str(tmp_path / "two"), "--set", "model.config.head_kind=serial"]) == 2
    assert "legal are autoregressive, parallel" in capsys.readouterr().err


# -- recipes -------------------------------------------------------------------------------------

# Millions of parameters in the paper and in the released files.
PUBLISHED = {"l": (486.9, 80.8), "h": (910.0, 118.8)}


def built(name: str, source: TokenBridgeTokenizer, sizes: tuple[int, ...]) -> TokenBridge:
    made = load_config(GeneratorRun, CONFIGS / f"generator-token-bridge-{name}.yaml")
    assert made.name == f"generator-token-bridge-{name}" and made.model.class_ is not None
    with torch.device("meta"):
        return model_class(made.model.class_)(
            fixed_spec(source.spec, sizes).to_json(), classes=made.data.classes or 1000,
            **made.model.config,
        )  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipes_have_their_published_sizes(name: str) -> None:
    with torch.device("meta"):
        source = TokenBridgeTokenizer()
    model = built(name, source, (16, 16, 16))
    whole, head = PUBLISHED[name]
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == whole
    assert round(sum(p.numel() for p in model.head.parameters()) / 1e6, 1) == head


def test_the_small_recipe_is_small() -> None:
    source = TokenBridgeTokenizer(VAE | {"latent_channels": 16}, scale=1.0)
    model = built("tiny", source, (8, 8, 16))
    assert sum(p.numel() for p in model.parameters()) < 3_000_000


def test_what_decays_is_what_decayed_in_the_release() -> None:
    """Everything but biases and vectors; the mask token has three axes there."""
    with torch.device("meta"):
        model = built("tiny", TokenBridgeTokenizer(VAE, scale=1.0), (4, 4, 4))
    names = {id(p): name for name, p in model.named_parameters()}
    groups = decay_groups(model.named_parameters(), 0.02, model.decays)
    still = {names[id(p)] for p in groups[1]["params"]}
    assert all(name.endswith("bias") or "norm" in name for name in still)
    assert "backbone.mask_token" in {names[id(p)] for p in groups[0]["params"]}


# -- two processes -------------------------------------------------------------------------------


def share(rank: int, folder: str, tokenizer: str, port: int) -> None:
    """Train with DDP, then sharded: first two steps, then the rest from there."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    given = recipe(Path(tokenizer), shown=0)
    plain = given["train"] | {"batch_size": 2, "gradient_checkpointing": False}
    for name, resume, changes in (
        ("ddp", False, {}), ("fsdp", False, {"fsdp": True, "steps": 2}),
        ("fsdp", True, {"fsdp": True}),
    ):  # fmt: skip
        run_of = from_mapping(GeneratorRun, given | {"train": plain | changes})
        train(run_of, Path(folder) / name, resume=resume)


def test_two_processes_sharded_as_ddp(tokenizer: Path, tmp_path: Path) -> None:
    """Each process masks shares of its own, so that their heads see other numbers of positions."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "meet").mkdir()
    in_two(share, tmp_path / "meet", str(tmp_path), str(tokenizer), port)
    assert losses(tmp_path / "fsdp") == pytest.approx(losses(tmp_path / "ddp"), rel=1e-4)
    assert len(losses(tmp_path / "ddp")) == STEPS
    assert isinstance(load(tmp_path / "fsdp" / "model"), TokenBridge)
