"""Token-Shuffle's conventions against vectors derived from the paper's words.

Grids, windows and schedules are read off the keys.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from generators.guidance import Guidance
from generators.token_shuffle import grid_windows, shuffled, unshuffled
from tests.parity.vectors import Kinds, Tolerance, folders_with, parity_folder, tensors_of

FOLDER = parity_folder("token-shuffle")
EXACT, SCHEDULE = Tolerance(), Tolerance(absolute=1e-6)
KINDS = Kinds(folders_with("io.safetensors", FOLDER), EXACT, re.compile(r".+\.input"))
GRID = r"grid(\d+)x(\d+)\.s(\d+)\."
Sizes = tuple[str, str, str]


def windows(*sizes: str) -> Tensor:
    return grid_windows(*map(int, sizes))


def given(folder: Path, sizes: Sizes) -> Tensor:
    rows, columns, s = sizes
    return tensors_of(folder)[f"grid{rows}x{columns}.s{s}.input"]


def kind(pattern: str, tolerance: Tolerance = EXACT) -> Callable[..., Callable[..., Tensor]]:
    return KINDS.kind(pattern, pattern, tolerance)


@kind(GRID + "raster_index_of_slot")
def _raster(_: Path, *sizes: str) -> Tensor:
    return windows(*sizes)


@kind(GRID + "fused_and_slot_of_raster")
def _inverse(_: Path, *sizes: str) -> Tensor:
    table = windows(*sizes)
    order = table.flatten().argsort()
    return torch.stack((order // table.shape[1], order % table.shape[1]), dim=1)


@kind(GRID + "shuffled")
def _shuffled(folder: Path, *sizes: str) -> Tensor:
    return shuffled(given(folder, sizes), windows(*sizes)).flatten(2)


@kind(GRID + "shuffled_channel_major")
def _channel_major(folder: Path, *sizes: str) -> Tensor:
    return shuffled(given(folder, sizes), windows(*sizes)).transpose(2, 3).flatten(2)


@kind(GRID + "visible_raster_tokens")
def _visible(_: Path, *sizes: str) -> Tensor:
    table = windows(*sizes)
    return table.flatten().argsort() // table.shape[1] * table.shape[1]


@kind(r"cfg\.(\w+)\.n(\d+)\.target([\d.]+)", SCHEDULE)
def _schedule(_: Path, schedule: str, steps: str, target: str) -> Tensor:
    guidance = Guidance(scale=float(target), schedule=schedule)
    return torch.tensor([guidance.at(step, int(steps)) for step in range(int(steps))])


@pytest.mark.parametrize(("folder", "key"), KINDS.cases())
def test_vector(folder: Path, key: str) -> None:
    KINDS.check(folder, key)


def test_every_kind_is_there() -> None:
    assert not KINDS.unused()


@pytest.mark.parametrize("key", [key for key in tensors_of(FOLDER) if key.endswith(".input")])
def test_unshuffle_is_the_inverse(key: str) -> None:
    x = tensors_of(FOLDER)[key]
    match = re.match(GRID, key)
    assert match is not None
    table = windows(*match.groups())
    assert torch.equal(unshuffled(shuffled(x, table), table), x)
