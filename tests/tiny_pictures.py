"""Random pictures, and weights that tell them apart, for the tests of image tokenizers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def spread(model: nn.Module, leave: str | None = None) -> Any:
    """Give every parameter weight enough that latents differ from each other; set eval mode.

    Args:
        leave: beginning of the names of parameters that stay as they are.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if leave is None or not name.startswith(leave):
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def pictures(batch: int, height: int = 16, width: int | None = None) -> Tensor:
    """Return (B, 3, H, W) in [-1, 1], always the same; square where no width is given."""
    generator = torch.Generator().manual_seed(1)
    size = (batch, 3, height, height if width is None else width)
    return torch.rand(*size, generator=generator) * 2 - 1
