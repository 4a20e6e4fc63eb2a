"""Which parameters of each generator decay, name by name, as its paper's scripts have it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from generators.contract import Generator
from generators.llamagen import LlamaGen
from generators.maskgit import MaskGIT
from generators.next_scale import NextScale
from generators.rar import RAR
from tok_core.token_spec import Axis, TokenSpec
from tok_core.training.weight_decay import decay_groups

GRID = TokenSpec(
    modality="image", axes=(Axis(name="row", size=4, minimum=4), Axis(name="column", size=4,
    minimum=4)), vocabulary=(16,), grid=(4, 4), image_size=(16, 16),
)  # fmt: skip
SCALES = TokenSpec(
    modality="image", axes=(Axis(name="scale_token", size=5, minimum=5),), vocabulary=(16,),
    scales=((1, 1), (2, 2)), grid=(2, 2), image_size=(16, 16),
)  # fmt: skip
SIZES: dict[str, Any] = {"width": 32, "layers": 2, "heads": 2, "classes": 3}
# Of matrices and tables, those that do not decay; vectors (norms, biases) never do.
KINDS: dict[str, tuple[type[Generator], dict[str, Any], set[str]]] = {
    # Sun et al.: 0.05 on all tensors of two axes and more, embeddings among them.
    "llamagen": (LlamaGen, {"spec": GRID.to_json(), "window": 2}, set()),
    "llamagen-captions": (
        LlamaGen, {"spec": GRID.to_json(), "caption_width": 8, "classes": 0}, set(),
    ),
    # Yu et al.: nothing with "embed" or "ln" in its official name.
    "rar": (RAR, {"spec": GRID.to_json()}, {
        "tokens.weight", "condition.table.weight", "positions", "slots", "target_positions",
        "trunk.modulation.weight",
    }),
    "bert": (MaskGIT, {"spec": GRID.to_json()}, {
        "token_embedding.weight", "condition.table.weight", "trunk.position_embedding",
        "trunk.type_embedding",
    }),
    "uvit": (MaskGIT, {"spec": GRID.to_json(), "network": "uvit"}, {
        "token_embedding.weight", "condition.table.weight", "trunk.position_embedding",
    }),
    "next-scale": (NextScale, {"spec": SCALES.to_json()}, {
        "condition.table.weight", "places", "levels",
    }),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_decays(kind: str) -> None:
    cls, options, still = KINDS[kind]
    with torch.device("meta"):
        model = cls(**SIZES | options)
    named = dict(model.named_parameters())
    names = {id(parameter): name for name, parameter in named.items()}
    decaying, resting = (
        {names[id(parameter)] for parameter in group["params"]}
        for group in decay_groups(named.items(), 0.1, model.decays)
    )
    matrices = {name for name, parameter in named.items() if parameter.ndim >= 2}
    assert still <= matrices
    # RAR's start is a vector here and (1, 1, W) in published files.
    assert decaying == (matrices - still) | ({"start"} if kind == "rar" else set())
    assert resting == set(named) - decaying


def test_the_engine_follows_the_model() -> None:
    from tok_core.training.config import OptimizerConfig
    from tok_core.training.engine import _adamw

    model = RAR(spec=GRID.to_json(), **SIZES)
    optimizer = _adamw(model, OptimizerConfig(weight_decay=0.03))
    decaying = {id(p) for p in optimizer.param_groups[0]["params"]}
    assert optimizer.param_groups[0]["weight_decay"] == 0.03
    assert id(model.start) in decaying and id(model.positions) not in decaying
