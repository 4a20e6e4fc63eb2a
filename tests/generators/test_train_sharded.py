"""Sharded training (FSDP2) in two gloo processes: DDP's and one process's numbers, resumed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from generators.train import GeneratorRun, train
from tests.two_processes import in_two
from tok_core.errors import ConfigError
from tok_core.loading import load
from tok_core.run_config import from_mapping
from tok_core.training import sharding
from tok_core.training.checkpoint import latest_checkpoint
from tok_core.training.engine import make_accelerator
from vision_tok.token_bridge import TokenBridgeTokenizer
from vision_tok.vqgan import VQGAN

STEPS, BATCH = 3, 8
CONFIGS: dict[str, dict[str, Any]] = {
    "LlamaGen": {"window": 2},
    "RAR": {"hidden": 64},
    "bert": {"network": "bert"},
    "uvit": {"network": "uvit"},
    "NextScale": {"value_width": 4},
    "TokenBridge": {
        "buffer": 3, "head_width": 16, "head_layers": 2, "head_heads": 2, "head_chunk": 9,
        "attention_dropout": 0.0,
    },
    "bfloat16": {},
}  # fmt: skip
CLASSES = {"bert": "MaskGIT", "uvit": "MaskGIT", "bfloat16": "LlamaGen"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokenizers of 4 x 4 tokens on one scale, on three, and of four dimensions each."""
    torch.manual_seed(0)
    side = {"channels": 8, "multipliers": [1, 2, 2], "res_blocks": 1, "attention": []}
    sizes: dict[str, Any] = {
        "encoder_sizes": side, "decoder_sizes": side, "z_channels": 6, "code_dim": 4,
        "codebook_size": 16, "norm_groups": 4, "image_size": 16,
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("sharded")
    VQGAN(**sizes).save_pretrained(folder / "grid")
    VQGAN(
        **sizes, quantizer_kind="multi_scale", scales=[1, 2, 4], l2_normalize=False
    ).save_pretrained(folder / "scales")
    vae = {"block_out_channels": [8, 8, 16], "layers_per_block": 1, "latent_channels": 4,
           "norm_num_groups": 4}  # fmt: skip
    TokenBridgeTokenizer(vae=vae, scale=1.0, bits=3).save_pretrained(folder / "bridge")
    return folder


def recipe(folder: Path, kind: str, processes: int, **changes: Any) -> GeneratorRun:
    tokenizer = folder / {"NextScale": "scales", "TokenBridge": "bridge"}.get(kind, "grid")
    config = {
        "width": 32, "layers": 2, "heads": 2, "dropout": 0.0, "condition_dropout": 0.0,
        **CONFIGS[kind],
    }  # fmt: skip
    if kind in ("RAR", "bert", "uvit"):
        config["attention_dropout"] = 0.0
    step = {
        "steps": STEPS, "batch_size": BATCH // processes // 2, "accumulation": 2, "seed": 0,
        "ema_decay": 0.5, "device": "cpu", "clip": 0.05,
        "mixed_precision": "bf16" if kind == "bfloat16" else "none",
    }  # fmt: skip
    return from_mapping(GeneratorRun, {
        "model": {"class": CLASSES.get(kind, kind), "config": config},
        "data": {"tokenizer": str(tokenizer), "signals": {"source": "classes", "size": 16},
                 "classes": 12},
        "train": step | changes,
        "objective": {"random_order": {"start": 0.0, "end": 0.0}},
        "optimizer": {"lr": 1e-3}, "schedule": {"end_lr": 1e-3},
        "log": {"every": 1, "validate_every": 0, "pictures_every": 0, "save_every": 2,
                "tracker": "none"},
        "validation_samples": 2, "shown": 0,
    })  # fmt: skip


def share(rank: int, folder: str, port: int) -> dict[str, Any]:
    """Train every kind with DDP, then sharded: first two steps, then the rest from there."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    place = Path(folder)
    for kind in CONFIGS:
        train(recipe(place, kind, 2), place / f"ddp-{kind}")
    local = {}
    for kind in CONFIGS:
        out = place / f"fsdp-{kind}"
        train(recipe(place, kind, 2, fsdp=True, steps=2), out)
        # As after accelerate launch --use_fsdp, whatever the recipe says.
        os.environ[sharding.LAUNCHER] = "true"
        train(recipe(place, kind, 2, gradient_checkpointing=True), out, resume=True)
        local[kind] = _share_held(place, kind)
    return local


def _share_held(folder: Path, kind: str) -> float:
    """Return which share of the weights a process holds once they are sharded."""
    from accelerate import Accelerator

    from generators.train import completed
    from tok_core.training.model_building import build_model

    config = completed(recipe(folder, kind, 2, fsdp=True))
    accelerator: Accelerator = make_accelerator(config, folder)
    model = build_model(config.model)
    sharding.name_blocks(accelerator, model)
    model, _ = accelerator.prepare(model, torch.optim.AdamW(model.parameters()))
    parameters = list(model.parameters())
    assert all(isinstance(parameter, DTensor) for parameter in parameters)
    held = sum(p.to_local().numel() for p in parameters if isinstance(p, DTensor))
    return held / sum(p.numel() for p in parameters)


@pytest.fixture(scope="module")
def shares(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What both processes left in the folder."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    held = in_two(share, tmp_path_factory.mktemp("meet"), str(folder), port)
    for kind in CONFIGS:
        # Rows go to processes whole, so that halves are not exact.
        assert all(0.4 < one[kind] < 0.6 for one in held)
        assert held[0][kind] + held[1][kind] == pytest.approx(1.0)
    return folder


def state(folder: Path, name: str) -> dict[str, Tensor]:
    last = latest_checkpoint(folder / "checkpoints")
    assert last is not None and last.name == f"step_{STEPS:08d}"
    return load_file(last / f"{name}.safetensors")


def alike(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-3, atol=2e-5, msg=lambda text,
                                   name=name: f"{name}: {text}")  # fmt: skip


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("part", ["model", "ema", "optimizer"])
def test_sharded_training_is_that_of_ddp(shares: Path, kind: str, part: str) -> None:
    """Resumed in the middle, with gradient checkpointing, in parts of two batches, clipped."""
    alike(state(shares / f"fsdp-{kind}", part), state(shares / f"ddp-{kind}", part))


@pytest.mark.parametrize("kind", ["LlamaGen", "RAR", "NextScale"])
def test_sharded_training_is_that_of_one_process(shares: Path, tmp_path: Path, kind: str) -> None:
    """Nothing is drawn in these runs, so that one process on the joined batch must agree."""
    out = train(recipe(shares, kind, 1), tmp_path)
    alike(state(shares / f"fsdp-{kind}", "model"), state(tmp_path, "model"))
    assert out is not None
    exported = load(shares / f"fsdp-{kind}" / "model").state_dict()
    alike(exported, load(out).state_dict())


def test_a_sharded_checkpoint_goes_on_without_sharding(shares: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(shares / "fsdp-LlamaGen", tmp_path / "run")
    out = train(recipe(shares, "LlamaGen", 1, steps=STEPS + 1), tmp_path / "run", resume=True)
    whole = train(recipe(shares, "LlamaGen", 1, steps=STEPS + 1), tmp_path / "whole")
    assert out is not None and whole is not None
    alike(load(out).state_dict(), load(whole).state_dict())


@pytest.mark.parametrize("name", ["two-machines", "two-machines-fsdp"])
def test_the_launcher_reads_our_files(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    file = Path(__file__).parents[2] / "assets" / "accelerate" / f"{name}.yaml"
    config = load_config_from_file(str(file))
    assert (config.num_machines, config.num_processes, config.machine_rank) == (2, 16, 0)
    sharded = name.endswith("fsdp")
    assert config.distributed_type.value == ("FSDP" if sharded else "MULTI_GPU")
    assert config.fsdp_config == ({"fsdp_version": 2} if sharded else {})


def test_one_process_has_nothing_to_shard(folder: Path, tmp_path: Path) -> None:
    assert not sharding.sharding_asked(True)
    assert train(recipe(folder, "LlamaGen", 1, fsdp=True, steps=1), tmp_path) is not None


def test_what_cannot_be_sharded_is_said(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    with pytest.raises(ConfigError, match="fp16.*does not scale"):
        sharding.sharding_plugin("fp16")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert sharding.sharding_asked(True) and not sharding.sharding_asked(False)
    monkeypatch.setenv(sharding.LAUNCHER, "true")
    assert sharding.sharding_asked(False)
    with pytest.raises(ConfigError, match="VQGAN names no blocks"):
        sharding.name_blocks(None, load(folder / "grid"))  # type: ignore[arg-type]
