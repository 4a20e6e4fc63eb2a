"""The one place where reduced precision is switched off for quantization and its statistics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def full_float32(device_type: str) -> Iterator[None]:
    """Run a block with autocast off and float32 products in real float32 (no TF32, no bfloat16).

    A code chosen in bfloat16 differs from the float32 one for several tokens in a hundred, so
    search, losses and codebook updates all run inside this block.

    Args:
        device_type: ``tensor.device.type`` of the tensors the block works on, such as ``"cuda"``.

    Example:
        >>> with full_float32(z.device.type):
        ...     codes = nearest_code(z.float(), vectors)
    """
    on_cpu: Any = getattr(torch.backends.mkldnn, "matmul", None)
    switches: tuple[Any, Any] = (torch.backends.cuda.matmul, on_cpu)
    # Older torch has one global precision instead of a switch per backend.
    new_style = all(hasattr(switch, "fp32_precision") for switch in switches)
    before = [switch.fp32_precision for switch in switches] if new_style else []
    overall = "" if new_style else torch.get_float32_matmul_precision()
    # Only what is reduced is touched: writing the value already there would mark the global
    # switch as "mixed", and torch's older getter then refuses to answer.
    reduced = [i for i, value in enumerate(before) if value not in ("none", "ieee")]
    try:
        for i in reduced:
            switches[i].fp32_precision = "ieee"
        if overall not in ("", "highest"):
            torch.set_float32_matmul_precision("highest")
        # Autocast knows no meta device; nothing is computed there anyway.
        known = device_type if torch.amp.is_autocast_available(device_type) else "cpu"
        with torch.autocast(known, enabled=False):
            yield
    finally:
        for i in reduced:
            switches[i].fp32_precision = before[i]
        if overall not in ("", "highest"):
            torch.set_float32_matmul_precision(overall)


@contextmanager
def full_float32_convolutions() -> Iterator[None]:
    """Run a block with GPU convolutions in real float32; torch has TF32 on for them by default.

    For quantizers whose codes hang on a convolution; inside `full_float32`, which leaves them be.

    Example:
        >>> with full_float32_convolutions():
        ...     z = conv(z)
    """
    backend: Any = torch.backends.cudnn
    kinds: list[Any] = [getattr(backend, kind, None) for kind in ("conv", "rnn")]
    new_style = all(hasattr(kind, "fp32_precision") for kind in kinds)
    before = [kind.fp32_precision for kind in kinds] if new_style else []
    reduced = before[0] == "tf32" if new_style else backend.allow_tf32
    if not reduced:
        yield
        return
    try:
        # The older switch moves both kinds: torch refuses to tell about one that was moved alone.
        backend.allow_tf32 = False
        yield
    finally:
        backend.allow_tf32 = True
        if new_style and kinds[1].fp32_precision != before[1]:
            kinds[1].fp32_precision = before[1]
