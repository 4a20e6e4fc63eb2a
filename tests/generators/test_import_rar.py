"""Importing RAR's published layout: sizes, keys, files, bad files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from generators.import_rar import import_rar, natural_spec, official_names, rar_from_state
from generators.llamagen import LlamaGen
from generators.rar import RAR
from tok_core.errors import ConfigError, WeightsError
from tok_core.token_spec import Axis, TokenSpec

SIZES: dict[str, Any] = {"width": 24, "layers": 2, "heads": 3, "hidden": 40, "classes": 5}
LENGTH, CODES = 9, 11


def made() -> RAR:
    torch.manual_seed(0)
    network = RAR(natural_spec(LENGTH, CODES).to_json(), **SIZES)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_()
    return network.eval()


def official(network: RAR) -> dict[str, Tensor]:
    """Return the state as the authors store it, with rows that are never read."""
    ours, width = network.state_dict(), network.settings.width

    def filled(rows: int) -> Tensor:
        return torch.full((rows, width), 7.0)

    state = {
        theirs: ours[name].clone()
        for name, (theirs,) in official_names(network).items() if theirs != name
    }  # fmt: skip
    state["cls_token"] = ours["start"].view(1, 1, -1)
    parts = (ours["tokens.weight"], filled(1), ours["condition.table.weight"])
    state["embeddings.weight"] = torch.cat(parts)
    state["pos_embed"] = torch.cat((ours["positions"], filled(1022)))[None]
    targets = (filled(2), ours["target_positions"], filled(1022))
    state["target_aware_pos_embed"] = torch.cat(targets)[None]
    state["timesteps_embeddings"] = torch.cat((ours["slots"], filled(98)))[None]
    return state


@pytest.fixture
def state() -> dict[str, Tensor]:
    return official(made())


def test_a_flat_pickle(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "rar_b.bin")
    network = import_rar(tmp_path / "rar_b.bin", code_hash="cd" * 32)
    assert not network.training and network.config["code_hash"] == "cd" * 32
    assert network.weights_hash() == made().weights_hash()
    assert network.spec.grid == (3, 3) and network.settings == made().settings
    again = RAR.from_pretrained(str(tmp_path / "rar_b.bin"))
    assert again.weights_hash() == network.weights_hash()


def test_it_can_be_saved(state: dict[str, Tensor], tmp_path: Path) -> None:
    rar_from_state(state).save_pretrained(tmp_path)
    assert RAR.from_pretrained(tmp_path).weights_hash() == made().weights_hash()


def test_a_folder_with_official_options(state: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(state, tmp_path / "weights.safetensors")
    options = {"hidden_size": 24, "image_seq_len": 9, "dropout": 0.2, "attn_drop": 0.3}
    (tmp_path / "config.json").write_text(json.dumps(options))
    settings = import_rar(tmp_path).settings
    assert (settings.dropout, settings.attention_dropout) == (0.2, 0.3)
    with pytest.raises(WeightsError, match="num_hidden_layers 3 but the weights say 2"):
        import_rar(tmp_path, {"num_hidden_layers": 3})


def test_the_tokenizer_s_own_spec(state: dict[str, Tensor]) -> None:
    spec = TokenSpec(
        modality="image", axes=(Axis(name="token", size=9),), vocabulary=(11,), image_size=(48, 48)
    )
    assert rar_from_state(state, spec=spec).spec == spec
    for wrong in (natural_spec(16, 11), natural_spec(9, 12)):
        with pytest.raises(ConfigError, match="9 codes of 11 but the spec has"):
            rar_from_state(state, spec=wrong)


def test_a_number_that_is_no_square() -> None:
    spec = natural_spec(10, 4)
    assert [(axis.name, axis.size) for axis in spec.axes] == [("token", 10)] and spec.grid is None


def test_half_precision_files(state: dict[str, Tensor]) -> None:
    network = rar_from_state({key: tensor.half() for key, tensor in state.items()})
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_keys_left_over_on_either_side(state: dict[str, Tensor]) -> None:
    with pytest.raises(WeightsError, match=r"unknown blocks\.0\.attn\.extra"):
        rar_from_state(state | {"blocks.0.attn.extra": torch.zeros(1)})
    key = "blocks.1.adaLN_modulation.1.bias"
    with pytest.raises(WeightsError, match=r"lacks blocks\.1\.adaLN_modulation\.1\.bias"):
        rar_from_state({k: v for k, v in state.items() if k != key})
    with pytest.raises(WeightsError, match=r"no RAR \(no target_aware_pos_embed\)"):
        rar_from_state({k: v for k, v in state.items() if k != "target_aware_pos_embed"})


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("pos_embed", (1, 1030, 24)), ("pos_embed", (1033, 24)),
        ("timesteps_embeddings", (1, 5, 24)), ("timesteps_embeddings", (1, 110, 24)),
        ("target_aware_pos_embed", (1, 12, 24)), ("target_aware_pos_embed", (1, 1033, 25)),
        ("embeddings.weight", (12, 24)), ("embeddings.weight", (18,)), ("cls_token", (1, 1, 23)),
        ("blocks.0.attn.k_norm.weight", (7,)), ("blocks.0.attn.k_norm.weight", ()),
        ("blocks.1.attn.qkv.weight", (24, 24)), ("lm_head.weight", (11,)),
    ],
)  # fmt: skip
def test_other_shapes(state: dict[str, Tensor], key: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(WeightsError, match=f"{key.partition('.')[0]}|start|target"):
        rar_from_state(state | {key: torch.zeros(shape)})


def test_tables_of_unusual_length(state: dict[str, Tensor]) -> None:
    for key in ("pos_embed", "target_aware_pos_embed", "timesteps_embeddings"):
        state[key] = state[key][:, :30]
    with pytest.raises(WeightsError, match="give image_seq_len"):
        rar_from_state(state)
    network = rar_from_state(state, {"image_seq_len": 9})
    assert network.weights_hash() == made().weights_hash()
    with pytest.raises(WeightsError, match="for L codes"):
        rar_from_state(state, {"image_seq_len": 29})


def test_no_such_file_and_no_such_class(state: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no official checkpoint"):
        import_rar(tmp_path / "rar_b.bin")
    with pytest.raises(WeightsError, match="holds a RAR, not a LlamaGen"):
        rar_from_state(state, cls=LlamaGen)
