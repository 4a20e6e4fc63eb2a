"""Which parameters decay: matrices do; norms, biases, tables and learned tokens do not.

A model whose paper says otherwise has a ``decays(name, parameter)`` of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

# Source: official One-D-Piece training script; "codebook" is our name of its quantize.embedding.
NO_DECAY = (
    "ln", "bias", "latent_tokens", "mask_token", "embedding", "norm", "gamma", "codebook",
)


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Return whether weight decay applies to a parameter of this name."""
    return parameter.ndim >= 2 and not any(part in name for part in NO_DECAY)


def decay_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]], weight_decay: float,
    rule: Callable[[str, nn.Parameter], bool] = decays,
) -> list[dict[str, Any]]:  # fmt: skip
    """Split the trainable parameters into optimizer groups with and without weight decay."""
    trained = [(name, p) for name, p in named_parameters if p.requires_grad]
    return [
        {"params": [p for name, p in trained if rule(name, p)], "weight_decay": weight_decay},
        {"params": [p for name, p in trained if not rule(name, p)], "weight_decay": 0.0},
    ]
