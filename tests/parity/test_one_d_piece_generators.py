"""RAR over MaskGIT-VQGAN's codes against outputs of the official code, through the importer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from generators.random_order import permuted, restored
from generators.rar_presets import PRESETS, rar_preset
from tests.parity.rar_vectors import (
    check_published,
    condition_of,
    drawn,
    forced,
    published,
    rar_folders,
    rar_of,
    raster_of,
    rows_in_official_table,
    shaped,
    tokens_of,
)
from tests.parity.vectors import Kinds, Tolerance, close, keys_of, parity_folder, tensors_of

FOLDER = parity_folder("one-d-piece")
FOLDERS = rar_folders(FOLDER)
LOGITS = Tolerance(peak=1e-5, floor=1.0)
KINDS = Kinds(FOLDERS, LOGITS, elsewhere=re.compile(r"class_ids|token_ids|\w+/orders"))
kind = KINDS.kind


def _orders(folder: Path, name: str) -> Tensor:
    given = tensors_of(folder).get(f"{name}/orders")
    return raster_of(folder) if given is None else given


@kind("condition ids", r"(null_)?condition_ids")
def _condition_ids(folder: Path, null: str | None) -> Tensor:
    model, condition = rar_of(folder), condition_of(folder)
    batch = len(tokens_of(folder))
    vectors = model.condition.null(batch) if null else model.condition(condition, batch)
    return rows_in_official_table(folder, vectors[:, 0])


@kind("guidance schedule", r"cfg_schedule/scale_by_step_for_rar_(\w+)")
def _schedule(folder: Path, sizes: str) -> Tensor:
    steps = tokens_of(folder).shape[1]
    presets = [PRESETS[f"rar_{size}"] for size in sizes.split("_")]
    return torch.tensor([[p.guidance.at(t, steps) for t in range(steps)] for p in presets])


@kind("labels", r"(\w+)/labels")
def _labels(folder: Path, name: str) -> Tensor:
    return permuted(tokens_of(folder), _orders(folder, name))


@kind("logits", r"(?!incremental)(\w+)/logits")
def _logits(folder: Path, name: str) -> Tensor:
    return forced(folder, tokens_of(folder), _orders(folder, name))


@kind("losses", r"(\w+)/(loss|correct_tokens)")
def _loss(folder: Path, name: str, what: str) -> Tensor:
    codes = shaped(folder, tokens_of(folder))
    out = rar_of(folder)(codes, condition=condition_of(folder), orders=_orders(folder, name))
    return out.losses["loss/tokens"] if what == "loss" else out.statistics["accuracy"]


@kind("incremental logits", r"incremental/logits")
def _incremental(folder: Path) -> Tensor:
    codes, seen = tokens_of(folder), []
    out = drawn(
        folder, rar_preset(0.0, 0.0), given=shaped(folder, codes), keep=torch.ones_like(codes) > 0,
        watch=lambda logits, places, factor: seen.append(logits),
    )  # fmt: skip
    assert torch.equal(out, codes)
    return torch.cat(seen, dim=1)


@kind("greedy", r"greedy_cfg/scale([\d.]+)_pow([\d.]+)_temp([\d.]+)/ids")
def _greedy(folder: Path, scale: str, power: str, temperature: str) -> Tensor:
    preset = rar_preset(float(scale), float(power), float(temperature))
    return drawn(folder, preset, choose=lambda shares, places, factor: shares.argmax(-1))


@pytest.mark.parametrize(("folder", "key"), KINDS.cases())
def test_official_outputs(folder: Path, key: str) -> None:
    KINDS.check(folder, key)


def test_every_kind_is_found() -> None:
    assert FOLDERS and not KINDS.unused()
    assert not [key for folder in FOLDERS for key in KINDS.unknown(folder)]


@pytest.mark.parametrize(
    ("folder", "name"),
    [(f, key.partition("/")[0]) for f in FOLDERS for key in keys_of(f) if key.endswith("/orders")],
)
def test_forward_returns_logits_in_raster_order(folder: Path, name: str) -> None:
    orders = _orders(folder, name)
    codes = shaped(folder, tokens_of(folder))
    out = rar_of(folder)(codes, condition=condition_of(folder), orders=orders)
    expected = restored(tensors_of(folder)[f"{name}/logits"][:, :-1], orders)
    close(out.logits[:, :, 0], expected, LOGITS)


@pytest.mark.parametrize(("name", "rows"), published(FOLDER).items())
def test_published_files_map_onto_the_model(name: str, rows: list[Any]) -> None:
    check_published(name, rows)
