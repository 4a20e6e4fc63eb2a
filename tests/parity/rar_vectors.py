"""What both sets of RAR vectors share: the model of a folder, its inputs, teacher forcing."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from generators.contract import Condition
from generators.import_rar import TABLE, TARGETS, import_rar, rar_from_state
from generators.random_order import permuted
from generators.rar import RAR
from generators.rar_presets import SamplingPreset
from generators.sampling import sample
from tests.parity.vectors import (
    config_of,
    folders_with,
    keys_of,
    manifest_of,
    meta_state,
    tensors_of,
)


def rar_folders(root: Path) -> list[Path]:
    """Return the folders of a set that hold a RAR."""
    return [
        folder for folder in folders_with("io.safetensors", root)
        if TARGETS in keys_of(folder, "weights")
    ]  # fmt: skip


@cache
def rar_of(folder: Path) -> RAR:
    return import_rar(folder, config_of(folder))


def tokens_of(folder: Path) -> Tensor:
    """Return the codes (B, L)."""
    return tensors_of(folder)["tokens" if "tokens" in keys_of(folder) else "token_ids"]


def shaped(folder: Path, sequence: Tensor) -> Tensor:
    """Return (B, L) as codes in the spec's layout."""
    return rar_of(folder).spec.from_sequence(sequence[..., None])


def condition_of(folder: Path) -> Condition:
    return Condition(labels=tensors_of(folder)["class_ids"])


def raster_of(folder: Path) -> Tensor:
    batch, length = tokens_of(folder).shape
    return torch.arange(length).expand(batch, length)


@torch.no_grad()
def forced(folder: Path, codes: Tensor, orders: Tensor, *, null: bool = False) -> Tensor:
    """Return logits (B, L + 1, V) in the order of prediction, the last of them behind all codes."""
    model, batch = rar_of(folder), len(codes)
    rows = model.condition(condition_of(folder), batch)
    rows = model.condition.null(batch) if null else rows
    return model.predict(permuted(codes[..., None], orders), orders, rows)[:, :, 0]


def drawn(folder: Path, preset: SamplingPreset, **options: Any) -> Tensor:
    """Sample codes (B, L); ``options`` are those of `sample`."""
    model, seeds = rar_of(folder), range(len(tokens_of(folder)))
    codes = sample(model, condition_of(folder), seeds=seeds, **preset._asdict(), **options)
    return model.spec.to_sequence(codes)[..., 0]


def rows_in_official_table(folder: Path, vectors: Tensor) -> Tensor:
    """Return the ids that the official table of embeddings has for (B, W)."""
    table = tensors_of(folder, "weights")[TABLE]
    return (vectors[:, None] == table).all(-1).int().argmax(1)


def published(root: Path) -> dict[str, list[Any]]:
    """Return the manifest's rows of every published RAR by name."""
    return {
        name: rows for name, rows in manifest_of(root).items()
        if isinstance(rows, list) and any(row[0] == TARGETS for row in rows)
    }  # fmt: skip


def check_published(name: str, rows: list[Any]) -> None:
    """Map a published file onto a model on meta, and count what is left out of it."""
    model = rar_from_state(meta_state(rows), name=name)
    length, width = model.settings.length, model.settings.width
    assert model.spec.grid == (16, 16) and model.classes == 1000 and model.settings.heads == 16
    # The mask's row; of the tables those for other lengths, and of the targets' the prefix.
    unread = 1 + (1024 - 2) + 1024 + (100 - 2)
    official = sum(math.prod(shape) for _, shape, _ in rows)
    ours = sum(parameter.numel() for parameter in model.parameters())
    assert official - ours == unread * width and length == 256
