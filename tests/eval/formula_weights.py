"""The fill rule of shared/parity/metrics/README.md: big networks without stored weights."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def uniforms(count: int, counter: int, salt: int) -> np.ndarray:
    """Return u (count,) float64, strictly between 0 and 1, for the tensor of that counter."""
    with np.errstate(over="ignore"):
        x = np.arange(1, count + 1, dtype=np.uint32) * np.uint32(0x9E3779B1)
        x += np.uint32((counter + 1) * 0x85EBCA77 + salt & 0xFFFFFFFF)
        x ^= x >> np.uint32(16)
        x *= np.uint32(0x7FEB352D)
        x ^= x >> np.uint32(15)
        x *= np.uint32(0x846CA68B)
        x ^= x >> np.uint32(16)
    return (x + 0.5) / 2.0**32


def formula_tensor(name: str, shape: list[int], counter: int, salt: int) -> Tensor:
    """Return one tensor of the rule."""
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    u = uniforms(math.prod(shape), counter, salt)
    if name.endswith("running_var"):
        values = 0.5 + u
    elif name.endswith("running_mean"):
        values = 0.2 * (2 * u - 1)
    elif len(shape) >= 2:
        values = (2 * u - 1) * math.sqrt(3) * math.sqrt(2 / math.prod(shape[1:]))
    elif name.endswith("weight"):
        values = 0.75 + 0.5 * u
    else:
        values = 0.2 * (2 * u - 1)
    return torch.from_numpy(values.astype(np.float32)).view(shape)


def formula_state(manifest: Path, prefix: str, salt: int) -> dict[str, Tensor]:
    """Return a whole state dict: the manifest entry whose name starts with ``prefix``."""
    entries = json.loads(manifest.read_text())
    rows = next(rows for name, rows in entries.items() if name.startswith(prefix))
    state = {}
    for counter, row in enumerate(rows):
        name, shape = (row["key"], row["shape"]) if isinstance(row, dict) else (row[0], row[1])
        state[name] = formula_tensor(name, list(shape), counter, salt)
    return state


def formula_image(height: int, width: int, number: int, salt: int) -> Tensor:
    """Return uint8 (3, H, W): coarse blocks and noise."""
    rows, columns = -(-height // 8), -(-width // 8)
    blocks = np.floor(200 * uniforms(3 * rows * columns, number, salt)).reshape(3, rows, columns)
    blocks = blocks.repeat(8, 1).repeat(8, 2)[:, :height, :width]
    noise = np.floor(56 * uniforms(3 * height * width, number + 100, salt))
    return torch.from_numpy((blocks + noise.reshape(3, height, width)).astype(np.uint8))
