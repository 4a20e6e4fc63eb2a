"""Small UTMOS and CREPE weights under the published names, and voices to score."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

RATE = 16_000


def random_state(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    """Fill shapes so that a network of them neither dies nor saturates."""
    source = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        x = torch.randn(shape, generator=source)
        if name.endswith("num_batches_tracked"):
            state[name] = torch.zeros((), dtype=torch.int64)
        elif name.endswith("running_var"):
            state[name] = 0.5 + torch.rand(shape, generator=source)
        elif len(shape) > 1:
            state[name] = x * math.sqrt(2 / max(1, math.prod(shape[1:])))
        else:
            state[name] = 1 + 0.1 * x if name.endswith("weight") else 0.1 * x
    return state


def utmos_state(
    channels: int = 8, width: int = 16, layers: int = 2, inner: int = 24, seed: int = 0
) -> dict[str, Tensor]:
    """Return a state dict of UTMOS22-strong's layout."""
    shapes: dict[str, tuple[int, ...]] = {"domain_emb": (1, 3), "judge_emb": (1, 5)}
    shapes["wav2vec2.mask_emb"] = (width,)
    kernels = (10, 3, 3, 3, 3, 2, 2)
    for i, taps in enumerate(kernels):
        into = 1 if i == 0 else channels
        head = f"wav2vec2.feature_extractor.conv_layers.{i}"
        shapes[f"{head}.0.weight"] = (channels, into, taps)
        if i == 0:
            shapes[f"{head}.2.weight"] = shapes[f"{head}.2.bias"] = (channels,)
    _pair(shapes, "wav2vec2.layer_norm", (channels,))
    _pair(shapes, "wav2vec2.post_extract_proj", (width, channels))
    shapes["wav2vec2.encoder.pos_conv.0.bias"] = (width,)
    shapes["wav2vec2.encoder.pos_conv.0.weight_g"] = (1, 1, 6)
    shapes["wav2vec2.encoder.pos_conv.0.weight_v"] = (width, width // 2, 6)
    _pair(shapes, "wav2vec2.encoder.layer_norm", (width,))
    for i in range(layers):
        head = f"wav2vec2.encoder.layers.{i}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            _pair(shapes, f"{head}.self_attn.{part}", (width, width))
        _pair(shapes, f"{head}.fc1", (inner, width))
        _pair(shapes, f"{head}.fc2", (width, inner))
        for norm in ("self_attn_layer_norm", "final_layer_norm"):
            _pair(shapes, f"{head}.{norm}", (width,))
    for end in ("", "_reverse"):
        shapes[f"blstm.weight_ih_l0{end}"] = (4 * 6, width + 8)
        shapes[f"blstm.weight_hh_l0{end}"] = (4 * 6, 6)
        shapes[f"blstm.bias_ih_l0{end}"] = shapes[f"blstm.bias_hh_l0{end}"] = (4 * 6,)
    _pair(shapes, "projection.0", (10, 12))
    _pair(shapes, "projection.2", (1, 10))
    return random_state(shapes, seed)


def crepe_state(
    channels: tuple[int, ...] = (8, 4, 4, 4, 4, 8), seed: int = 0
) -> dict[str, Tensor]:
    """Return a state dict of CREPE's layout."""
    shapes: dict[str, tuple[int, ...]] = {}
    into = 1
    for i, out in enumerate(channels, start=1):
        shapes[f"conv{i}.weight"] = (out, into, 512 if i == 1 else 64, 1)
        shapes[f"conv{i}.bias"] = (out,)
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"conv{i}_BN.{part}"] = (out,)
        shapes[f"conv{i}_BN.num_batches_tracked"] = ()
        into = out
    _pair(shapes, "classifier", (360, 4 * into))
    return random_state(shapes, seed)


def tone(hz: float, seconds: float = 0.5, level: float = 0.4, harmonics: int = 5) -> Tensor:
    """Return a voice-like tone (T,) of 16 kHz."""
    t = torch.arange(round(seconds * RATE)) / RATE
    parts = [torch.sin(2 * math.pi * hz * k * t) / k for k in range(1, harmonics + 1)]
    return level * torch.stack(parts).sum(0) / 2


def noise(samples: int, seed: int = 0, level: float = 0.1) -> Tensor:
    """Return white noise (T,)."""
    return level * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


def _pair(shapes: dict[str, Any], name: str, weight: tuple[int, ...]) -> None:
    shapes[f"{name}.weight"], shapes[f"{name}.bias"] = weight, weight[:1]
