"""Published MaskGIT files in the forms they come in: pickles, nested configs, other networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from generators.import_maskgit import (
    CLASS_ROWS,
    import_maskgit,
    maskgit_from_state,
    official_names,
)
from generators.maskgit import MaskGIT
from generators.maskgit_config import NETWORKS
from tests.generators.test_maskgit import LABELS, SPECS, codes_of, model
from tok_core.errors import ConfigError, WeightsError

HEADS = {"num_attention_heads": 2}


def published(made: MaskGIT) -> dict[str, Tensor]:
    """Return a model's tensors as its authors would name them."""
    state: dict[str, Tensor] = {}
    tensors = made.state_dict()
    for ours, parts in official_names(made).items():
        pieces = tensors[ours].chunk(len(parts))
        state.update({part: piece.clone() for part, piece in zip(parts, pieces, strict=True)})
    table = next(name for name in state if name + CLASS_ROWS in state)
    state[table] = torch.cat((state[table], state.pop(table + CLASS_ROWS)))
    if "pos_embed" in state:
        state["pos_embed"] = state["pos_embed"][None]
    return state


def same(one: MaskGIT, other: MaskGIT) -> bool:
    codes = codes_of("sequence")
    return torch.equal(one(codes, condition=LABELS).logits, other(codes, condition=LABELS).logits)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_pickle_comes_back_and_is_saved_and_loaded(network: str, tmp_path: Path) -> None:
    made = model(network=network)
    torch.save(published(made), tmp_path / "pytorch_model.bin")
    read = import_maskgit(tmp_path / "pytorch_model.bin", HEADS, spec=SPECS["sequence"])
    assert read.settings.network == network and same(read, made)
    assert not read.training and read.spec == SPECS["sequence"]
    read.save_pretrained(tmp_path / "ours")
    assert same(MaskGIT.from_pretrained(tmp_path / "ours"), made)
    with pytest.raises(WeightsError, match="no official checkpoint"):
        import_maskgit(tmp_path / "ours")


def nested(**generator: Any) -> dict[str, Any]:
    return {
        "model": {
            "vq_model": {"codebook_size": 11, "num_latent_tokens": 8},
            "generator": {"model_type": "ViT", **HEADS, **generator},
        }
    }


def test_a_hub_folder_with_a_nested_config(tmp_path: Path) -> None:
    made = model()
    save_file(published(made), tmp_path / "model.safetensors")
    config = nested(attn_drop=0.2, class_label_dropout=0.3, image_seq_len=8)
    (tmp_path / "config.json").write_text(json.dumps(config))
    read = MaskGIT.from_pretrained(tmp_path)
    assert same(read, made) and read.settings.heads == 2
    assert (read.settings.attention_dropout, read.settings.condition_dropout) == (0.2, 0.3)
    assert read.spec.axes[0].minimum == 8


def test_what_does_not_belong_together_is_one_sentence() -> None:
    made = model()
    state = published(made)
    with pytest.raises(WeightsError, match="image_seq_len 9 but the weights say 8"):
        maskgit_from_state(state, nested(image_seq_len=9))
    with pytest.raises(WeightsError, match="codebook_size"):
        maskgit_from_state(state, {**HEADS, "codebook_size": 12})
    with pytest.raises(ConfigError, match="generates 8 codes of 11"):
        maskgit_from_state(state, HEADS, spec=SPECS["grid"])
    with pytest.raises(WeightsError, match="is no MaskGIT"):
        maskgit_from_state({"encoder.weight": torch.zeros(2, 2)})
    with pytest.raises(WeightsError, match="not a Linear"):
        maskgit_from_state(state, HEADS, cls=torch.nn.Linear)  # type: ignore[arg-type]
    short = dict(state)
    short["model.embeddings.word_embeddings.weight"] = torch.zeros(12, 32)
    with pytest.raises(WeightsError, match="a table holds"):
        maskgit_from_state(short, HEADS)
    bent = dict(state)
    bent["model.encoder.layer.1.output.dense.weight"] = torch.zeros(3, 3)
    with pytest.raises(WeightsError, match="shape"):
        maskgit_from_state(bent, HEADS)
