"""Learning rate and average decay against vectors of the official training scripts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from tests.parity.vectors import PARITY, folders_with, tensors_of
from tok_core.training.ema import ema_decay
from tok_core.training.schedule import learning_rate

FOLDER = PARITY / "one-d-piece"
FOLDERS = folders_with("io.safetensors", FOLDER)
NAME = re.compile(r"lr/warmup(\d+)_total(\d+)_base([\d.e+-]+)_end([\d.e+-]+)")

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no parity folder {FOLDER}")


def _keys(beginning: str) -> list[tuple[Path, str]]:
    return [(f, key) for f in FOLDERS for key in tensors_of(f) if key.startswith(beginning)]


RATES = _keys("lr/")
DECAYS = _keys("ema/decay")


def test_each_kind_of_vector_is_found() -> None:
    assert RATES and DECAYS


@pytest.mark.parametrize(("folder", "key"), RATES, ids=[key for _, key in RATES])
def test_learning_rate(folder: Path, key: str) -> None:
    match = NAME.fullmatch(key)
    assert match, f"{key} does not state warm-up, total, base and end"
    warmup, total = int(match[1]), int(match[2])
    base, end = float(match[3]), float(match[4])
    expected = tensors_of(folder)[key].double() * 1e-4  # stored in units of 1e-4
    ours = torch.tensor(
        [learning_rate(s, base=base, end=end, warmup=warmup, total=total)
         for s in range(len(expected))], dtype=torch.float64,
    )
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-10)


@pytest.mark.parametrize(("folder", "key"), DECAYS, ids=[key for _, key in DECAYS])
def test_average_decay(folder: Path, key: str) -> None:
    tensors = tensors_of(folder)
    expected = tensors[key].double()
    steps = tensors[key.replace("decay", "steps")].tolist()
    limit = float(expected.max())
    ours = torch.tensor([ema_decay(step, limit) for step in steps], dtype=torch.float64)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-7)
