"""Stop at the first NaN or Inf, before it reaches the weights, and name the suspect."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from tok_core.errors import TesseraError
from tok_core.training.checkpoint import latest_checkpoint
from tok_core.training.sharding import whole


def clip_gradients(
    accelerator: Accelerator, optimizer: Any, module: nn.Module, largest: float
) -> Tensor:
    """Clip to norm ``largest`` (0 = never) and return the norm before clipping, a scalar."""
    accelerator.unscale_gradients(optimizer)
    trained = [p for p in module.parameters() if p.grad is not None]
    # Sharded gradients know the norm of their own part; the whole one decides for all.
    norm = whole(torch.nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None]))
    torch.nn.utils.clip_grads_with_norm_(trained, largest if largest > 0 else math.inf, norm)
    return norm


def check_finite(
    values: Mapping[str, float], module: nn.Module, x: Tensor | None, step: int, folder: Path,
    accelerator: Accelerator,
) -> None:
    """Raise `TesseraError` when a value of this step is NaN or Inf.

    Args:
        values: losses, statistics and gradient norm, averaged over processes.
        module: holds the gradients, searched when only their norm is bad.
        x: a batch of this step, searched first.
        step: steps done before this one.
        folder: run folder, to name the last good checkpoint.
        accelerator: with fp16 a bad gradient alone is normal: the scaler skips that step.
    """
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if accelerator.scaler is not None:
        bad = [name for name in bad if not name.endswith("gradient_norm")]
    if not bad:
        return
    last = latest_checkpoint(folder / "checkpoints")
    back = f"the last good checkpoint is {last}" if last else "no checkpoint was written yet"
    raise TesseraError(
        f"step {step + 1}: {_suspect(bad, values, module, x)}; {back}; lower optimizer.lr or "
        "train.clip, or train without mixed precision, then --resume"
    )


def _suspect(
    bad: list[str], values: Mapping[str, float], module: nn.Module, x: Tensor | None
) -> str:
    if x is not None and not torch.isfinite(x).all():
        return "the data hold NaN or Inf"
    # A single term says more than the sum, and a loss more than what follows from it.
    terms = [n for n in bad if n.startswith("loss/")]
    terms += [n for n in bad if n != "loss" and not n.endswith("gradient_norm") and n not in terms]
    if terms:
        return f"'{terms[0]}' is {values[terms[0]]}"
    for name, parameter in module.named_parameters():
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
            return f"'{bad[0]}' is {values[bad[0]]}, first in the gradient of '{name}'"
    return f"'{bad[0]}' is {values[bad[0]]}"
