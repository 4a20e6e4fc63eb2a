"""How floats in [-1, 1] become bytes: three rules are in use, and scores depend on which.

    round       round(255 (x + 1) / 2), halves to even            this suite, TiTok
    truncate    the same without rounding, half a grey level darker
    adm         clamp(127.5 x + 128, 0, 255) truncated            guided-diffusion, LlamaGen
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from tok_core.errors import ConfigError, nearest
from tok_core.image_measures import to_uint8, without_nan


def to_uint8_truncated(x: Tensor) -> Tensor:
    """Turn a picture in [-1, 1] into bytes by cutting off, as an unguarded cast does."""
    return ((without_nan(x) + 1) / 2).clamp(0, 1).mul(255.0).to(torch.uint8)


def to_uint8_adm(x: Tensor) -> Tensor:
    """Turn a picture in [-1, 1] into bytes as guided-diffusion does."""
    return (without_nan(x) * 127.5 + 128).clamp(0, 255).to(torch.uint8)


BYTE_RULES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "round": to_uint8,
    "truncate": to_uint8_truncated,
    "adm": to_uint8_adm,
}


def byte_rule(name: str) -> Callable[[Tensor], Tensor]:
    """Return the rule of that name: float in [-1, 1], any shape, to uint8.

    Raises:
        ConfigError: no such rule.

    Example:
        >>> byte_rule("adm")(torch.tensor([-1.0, 0.0, 1.0])).tolist()
        [0, 128, 255]
    """
    if name not in BYTE_RULES:
        legal = ", ".join(BYTE_RULES) + nearest(name, BYTE_RULES)
        raise ConfigError(f"byte rule '{name}' is unknown; legal are {legal}")
    return BYTE_RULES[name]
