"""Importing TokenBridge's published layout: files, options, the command, what does not fit."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from generators.import_token_bridge import (
    LEVELS,
    import_token_bridge,
    natural_spec,
    official_names,
    token_bridge_from_state,
)
from generators.rar import RAR
from generators.token_bridge import TokenBridge
from tessera.cli import run
from tok_core.errors import ConfigError, WeightsError
from tok_core.frequency_order import KL16_ORDER
from tok_core.gaussian_levels import gaussian_levels
from tok_core.loading import load
from tok_core.token_spec import Axis, TokenSpec

SIZES: dict[str, Any] = {
    "width": 24, "layers": 1, "heads": 2, "decoder_width": 16, "decoder_layers": 2, "buffer": 3,
    "head_width": 12, "head_layers": 1, "head_heads": 3, "classes": 5,
}  # fmt: skip
HEADS = {"encoder_num_heads": 2, "decoder_num_heads": 2}


def made(dims: int = 3, levels: int = 8) -> TokenBridge:
    torch.manual_seed(0)
    model = TokenBridge(natural_spec(9, (levels,) * dims).to_json(), **SIZES)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model.eval()


def official(model: TokenBridge) -> dict[str, Tensor]:
    """Return the parameters as the authors store them."""
    state: dict[str, Tensor] = {}
    for ours, parts in official_names(model).items():
        whole = model.state_dict()[ours]
        if len(parts) == 1:
            tables = "places" in ours or "mask_token" in ours or ours == "head.steps"
            state[parts[0]] = whole.reshape(1, -1, whole.shape[-1]) if tables else whole.clone()
            continue
        sizes = [len(whole) // len(parts)] * len(parts)
        if ours.startswith("condition"):
            sizes = [len(whole) - 1, 1]
        state |= dict(zip(parts, (part.clone() for part in whole.split(sizes)), strict=True))
    return state


@pytest.fixture
def state() -> dict[str, Tensor]:
    return official(made())


def test_a_training_checkpoint(state: dict[str, Tensor], tmp_path: Path) -> None:
    """Settings and optimizer beside the weights are passed over, and nothing of them is run."""
    file = tmp_path / "checkpoint-last.pth"
    averages = {key: tensor + 1 for key, tensor in state.items()}
    torch.save(
        {"model": state, "model_ema": averages, "optimizer": {"state": {}}, "epoch": 9,
         "args": argparse.Namespace(model="tokenbridge_large"), "scaler": {"scale": 1.0}}, file,
    )  # fmt: skip
    model = import_token_bridge(file, HEADS, code_hash="ab" * 32)
    expected = made()
    with torch.no_grad():
        for parameter in expected.parameters():
            parameter.add_(1)
    assert model.weights_hash() == expected.weights_hash() and not model.training
    assert model.config["code_hash"] == "ab" * 32 and model.spec.grid == (3, 3)
    again = TokenBridge.from_pretrained
    with pytest.raises(ConfigError, match="give encoder_num_heads and decoder_num_heads"):
        again(str(file))


def test_the_command_finds_its_importer(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"model_ema": state}, tmp_path / "last.pth")
    (tmp_path / "options.json").write_text('{"encoder_num_heads": 2, "decoder_num_heads": 2}')
    words = ["import", tmp_path / "last.pth", "-o", tmp_path / "model"]
    assert run([str(w) for w in (*words, "--config", tmp_path / "options.json")]) == 0
    assert load(tmp_path / "model").weights_hash() == made().weights_hash()


def test_levels(state: dict[str, Tensor]) -> None:
    normal = gaussian_levels(3, 3.0)
    model = token_bridge_from_state(state, HEADS)
    torch.testing.assert_close(model.tables["values"], (normal * 5 / 3).expand(3, -1))
    options = HEADS | {"quant_min": -4.0, "quant_max": 4.0, "std_range": 2.0}
    model = token_bridge_from_state(state, options)
    found = gaussian_levels(3, 2.0) * 2
    torch.testing.assert_close(model.tables["values"], found.expand(3, -1))
    stored = state | {LEVELS: torch.linspace(-1, 1, 8), "boundaries": torch.zeros(9)}
    model = token_bridge_from_state(stored, HEADS)
    torch.testing.assert_close(model.tables["values"][0], torch.linspace(-1, 1, 8) * 5 / 3)
    with pytest.raises(ConfigError, match="6 levels per dimension and does not say which"):
        token_bridge_from_state(official(made(levels=6)), HEADS)


def test_channel_orders(state: dict[str, Tensor]) -> None:
    assert token_bridge_from_state(state, HEADS).settings.channel_order == (0, 1, 2)
    given = token_bridge_from_state(state, HEADS | {"channel_order": [2, 0, 1]})
    assert given.settings.channel_order == (2, 0, 1)
    of_kl16 = token_bridge_from_state(official(made(dims=16)), HEADS)
    assert of_kl16.settings.channel_order == KL16_ORDER
    with pytest.raises(ConfigError, match="these codes have 3 dimensions"):
        token_bridge_from_state(state, HEADS | {"channel_order": list(KL16_ORDER)})


def test_the_tokenizer_s_own_spec(state: dict[str, Tensor]) -> None:
    sizes = {"dimension": 3, "time": 9}
    axes = tuple(Axis(name=name, size=size, minimum=size) for name, size in sizes.items())
    sound = TokenSpec(modality="audio", axes=axes, vocabulary=(8,) * 3, token_rate=50.0)
    assert token_bridge_from_state(state, HEADS, spec=sound).spec == sound
    for wrong in (natural_spec(9, (8,) * 4), natural_spec(16, (8,) * 3), natural_spec(9, (4,) * 3)):
        with pytest.raises((ConfigError, WeightsError), match="the spec|levels"):
            token_bridge_from_state(state, HEADS, spec=wrong)
    with pytest.raises(ConfigError, match="10 positions are no square"):
        natural_spec(10, (8,))


@pytest.mark.parametrize(("change", "error"), [
    ({"channel_depth": 3}, "channel_depth 3 but the weights say 1"),
    ({"buffer_size": 64}, "buffer_size 64 but the weights say 3"),
    ({"patch_size": 2}, "patch_size 2 but the weights say 1"),
])  # fmt: skip
def test_options_that_contradict(state: dict[str, Tensor], change: Any, error: str) -> None:
    with pytest.raises(WeightsError, match=error):
        token_bridge_from_state(state, HEADS | change)


def test_other_files(state: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="holds a TokenBridge, not a RAR"):
        token_bridge_from_state(state, HEADS, cls=RAR)
    with pytest.raises(WeightsError, match="no TokenBridge generator"):
        token_bridge_from_state({"a": torch.zeros(1)})
    with pytest.raises(WeightsError, match="tables of shapes"):
        token_bridge_from_state(state | {"channel_embed": torch.zeros(3, 12)}, HEADS)
    with pytest.raises(WeightsError, match="no official checkpoint"):
        import_token_bridge(tmp_path / "nothing.pth")
    (tmp_path / "bad.pth").write_bytes(b"nonsense")
    with pytest.raises(WeightsError, match="cannot read"):
        import_token_bridge(tmp_path / "bad.pth")
