"""MaskGIT generators of the TiTok family against outputs of the official code.

Folders are found by their weights (a table of embeddings, positions and a head, no ``cls_token``),
traces by their keys: schedule, scale, annealing and temperature stand there, steps and special ids
in the ``config.json``.  The masked-token loss lies with the losses.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from generators.contract import Condition
from generators.import_maskgit import (
    CLASS_ROWS,
    DEAD,
    LAYOUTS,
    import_maskgit,
    maskgit_from_state,
    official_names,
)
from generators.masked_presets import official_guidance
from generators.masked_sampling import sample_masked
from generators.masked_token_loss import masked_token_losses
from generators.maskgit import MaskGIT
from generators.token_filter import TokenFilter
from tests.parity.vectors import (
    Kinds,
    Tolerance,
    config_of,
    folders_with,
    keys_of,
    manifest_of,
    meta_state,
    parity_folder,
    place,
    tensors_of,
)
from tok_core.errors import WeightsError

FOLDER = parity_folder("one-d-piece")
LOGITS = Tolerance(peak=1e-5, floor=1.0)
INPUTS = {"token_ids", "class_ids", "mask"}


def _is_maskgit(names: frozenset[str]) -> bool:
    layouts = ((layout.table, layout.positions, layout.head) for layout in LAYOUTS.values())
    return "cls_token" not in names and any(names >= set(needed) for needed in layouts)


FOLDERS = [
    folder for folder in folders_with("weights.safetensors", FOLDER)
    if _is_maskgit(keys_of(folder, "weights"))
]  # fmt: skip
MLM = [folder for folder in folders_with("io.safetensors", FOLDER) if "mlm/loss" in keys_of(folder)]


@cache
def _model(folder: Path) -> MaskGIT:
    return import_maskgit(folder)


def _given(folder: Path) -> tuple[Tensor, Tensor, Condition]:
    """Codes, masks and labels of a set."""
    io = tensors_of(folder)
    return io["token_ids"], io["mask"].bool(), Condition(labels=io["class_ids"])


NETWORKS = Kinds(FOLDERS, LOGITS)
LOSSES = Kinds(MLM, LOGITS)
kind, loss = NETWORKS.kind, LOSSES.kind


@kind("masked", r"masked_ids")
def _masked(folder: Path) -> Tensor:
    codes, masked, _ = _given(folder)
    return torch.where(masked, config_of(folder)["mask_token_id"], codes)


@kind("conditional", r"logits_conditional")
@torch.no_grad()
def _conditional(folder: Path) -> Tensor:
    codes, masked, condition = _given(folder)
    return _model(folder)(codes, condition=condition, masked=masked).logits[:, :, 0]


@kind("unconditional", r"logits_unconditional")
@torch.no_grad()
def _unconditional(folder: Path) -> Tensor:
    codes, masked, _ = _given(folder)
    model = _model(folder)
    return model.predict(codes[..., None], masked, model.condition.null(len(codes)))[0]


@kind(
    "trace",
    r"generate_temp([\d.]+)/([\w-]+)_scale([\d.]+)_annealing([01])/"
    r"(final_ids|ids_at_start_of_each_step)",
)
def _trace(
    folder: Path, temperature: str, schedule: str, scale: str, annealing: str, name: str
) -> Tensor:
    model, config = _model(folder), config_of(folder)
    seen: list[Tensor] = []

    def follow(codes: Tensor, masked: Tensor) -> None:
        seen.append(torch.where(masked, config["mask_token_id"], codes[..., 0]))

    condition = _given(folder)[2]
    assert condition.labels is not None
    codes = sample_masked(
        model, condition, seeds=range(len(condition.labels)),
        steps=config["sampling_steps_in_traces"], annealing=annealing == "1", follow=follow,
        guidance=official_guidance(schedule, float(scale), config["guidance_scale_pow"]),
        token_filter=TokenFilter(temperature=float(temperature)),
    )  # fmt: skip
    return codes if name == "final_ids" else torch.stack(seen)


@loss("masked-token loss", r"mlm/(loss|correct_tokens)")
def _mlm(folder: Path, name: str) -> Tensor:
    io, config = tensors_of(folder), config_of(folder)
    losses, statistics = masked_token_losses(
        [io["mlm/logits"]], io["mlm/targets"][..., None], io["mlm/mask"].bool(),
        smoothing=config["label_smoothing"],
        unmasked_weight=config["loss_weight_unmasked_token"],
    )  # fmt: skip
    return losses["loss/tokens"] if name == "loss" else statistics["accuracy"]


@pytest.mark.parametrize(("folder", "key"), NETWORKS.cases() + LOSSES.cases())
def test_vector(folder: Path, key: str) -> None:
    (NETWORKS if folder in NETWORKS.folders else LOSSES).check(folder, key)


def test_every_kind_of_case_is_there() -> None:
    assert not NETWORKS.unused() and not LOSSES.unused()
    assert {_model(folder).settings.network for folder in FOLDERS} == set(LAYOUTS)


@pytest.mark.parametrize("folder", FOLDERS, ids=place)
def test_every_tensor_is_covered(folder: Path) -> None:
    covered = {key for key in keys_of(folder) if NETWORKS.find(key)}
    assert keys_of(folder) - covered == INPUTS


@pytest.mark.parametrize("folder", FOLDERS, ids=place)
def test_sizes_read_off_the_shapes_are_the_config(folder: Path) -> None:
    config, settings = config_of(folder), _model(folder).settings
    ours = {
        "hidden_size": settings.width, "num_hidden_layers": settings.layers,
        "num_attention_heads": settings.heads, "intermediate_size": settings.hidden,
        "image_seq_len": settings.length, "codebook_size": settings.spec.vocabulary[0],
        "condition_num_classes": settings.classes, "dropout": settings.dropout,
        "attn_drop": settings.attention_dropout,
    }  # fmt: skip
    assert ours.keys() & config.keys()
    for name in ours.keys() & config.keys():
        assert ours[name] == config[name], name


@pytest.mark.parametrize("folder", FOLDERS, ids=place)
def test_import_is_strict_both_ways(folder: Path) -> None:
    state, config = load_file(folder / "weights.safetensors"), config_of(folder)
    for key in state:
        with pytest.raises(WeightsError):
            maskgit_from_state({k: v for k, v in state.items() if k != key}, config)
        with pytest.raises(WeightsError):
            maskgit_from_state(state | {f"{key}_more": state[key]}, config)
    numbers = {DEAD[0]: torch.arange(config["image_seq_len"] + 1)[None]}
    assert maskgit_from_state(state | numbers, config).spec == _model(folder).spec


# -- full-size checkpoints -----------------------------------------------------------------------

# Millions of parameters in the papers' tables.
PAPERS = {"bert": 177, "uvit": 295}


def _manifest() -> list[Any]:
    return [
        pytest.param(name, rows, id=name.split(" (")[0].rpartition("/")[2])
        for name, rows in manifest_of(FOLDER).items()
        if _is_maskgit(frozenset(key for key, *_ in rows))
    ]


@pytest.mark.parametrize(("name", "rows"), _manifest())
def test_full_size_checkpoints_map_completely(name: str, rows: list[Any]) -> None:
    state = meta_state(rows)
    model = maskgit_from_state(state, name=name)
    official = [part for parts in official_names(model).values() for part in parts]
    assert sorted(part for part in official if not part.endswith(CLASS_ROWS)) == sorted(state)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == sum(math.prod(shape) for _, shape, _ in rows)
    settings = model.settings
    assert (settings.classes, settings.spec.vocabulary, settings.heads) == (1000, (4096,), 16)
    assert round(count / 1e6) == PAPERS[settings.network]


def test_every_full_size_kind_is_there() -> None:
    assert _manifest()
