"""Linear: nn.Linear that takes the fastest of several equal forms on CPU at inference.

The same float32 product runs at very different speeds through different libraries: on an AMD
machine `F.linear` (MKL) reached 215 GFLOP/s and a 1x1 convolution over the same memory (oneDNN)
490, on an Intel machine MKL was already at its peak; with two rows `W @ x.T` streams weights 2.5 to
four times faster than `F.linear`.  Which one wins is measured once per process and size, never
assumed.

Letters: M rows of the product, K features in, N features out.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Below this many multiply-adds a product costs microseconds, less than choosing would.
SMALLEST_MEASURED = 1 << 22
# `W @ x.T` pays only while the weights, not the arithmetic, are what has to move.
FEW_ROWS = 16
# There even a megabyte of weights takes longer to read than a choice to look up.
SMALLEST_STREAMED = 1 << 18
# A form must beat F.linear by this factor, so that noise does not move the choice.
CLEAR_WIN = 1.05
REPEATS = 3
# Read between repeats of few rows: in a model all other weights come before the same ones again.
BETWEEN = 1 << 24

Form = Callable[[Tensor, Tensor, Tensor | None], Tensor]
Key = tuple[int, int, int, torch.dtype, int]


def _as_linear(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(rows, weight, bias)


def _as_convolution(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    # (M, K) in memory is a picture (1, K, M, 1) in channels-last order: no copy on either side.
    m, k = rows.shape
    picture = rows.view(1, m, 1, k).permute(0, 3, 1, 2)
    out = F.conv2d(picture, weight.view(*weight.shape, 1, 1), bias)
    return out.permute(0, 2, 3, 1).reshape(m, weight.shape[0])


def _as_transposed(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    # x.T must be a view with whole rows in memory: as a copy (which is also what one of these
    # products leaves to the next) it takes twice the time.
    out = (weight @ rows.contiguous().t()).t()
    return out if bias is None else out + bias


FORMS: dict[str, Form] = {
    "linear": _as_linear,
    "convolution": _as_convolution,
    "transposed": _as_transposed,
}
_chosen: dict[Key, str] = {}
_held: str | None = None  # the form of every product while it holds; nothing is measured


def _candidates(rows: int) -> tuple[str, ...]:
    return ("linear", "transposed") if rows <= FEW_ROWS else ("linear", "convolution")


def measured_choices() -> dict[Key, str]:
    """Return a copy of the choices so far: (M bucket, K, N, dtype, threads) -> name of the form."""
    return dict(_chosen)


def forget_choices() -> None:
    """Measure again from here on (after changing the number of threads, say)."""
    global _held
    _chosen.clear()
    _held = None


def hold_form(form: str = "linear") -> None:
    """Take one form for every product and measure nothing until `forget_choices`.

    Forms round differently, and which one a measurement prefers can be a matter of noise: work
    whose result must be the same bit for bit in every process and every run holds one of them.

    Args:
        form: one of `FORMS`.
    """
    global _held
    _held = form


def _best_form(rows: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> str:
    if _held is not None:
        return _held
    m, k = rows.shape
    # Neighbouring sizes share one measurement: the bucket is the power of two at or below M.
    key = (m.bit_length(), k, weight.shape[0], dtype, torch.get_num_threads())
    if key not in _chosen:
        between = torch.ones(BETWEEN if m <= FEW_ROWS else 0)
        seconds = {name: _seconds(name, rows, weight, bias, between) for name in _candidates(m)}
        best = min(seconds, key=seconds.__getitem__)
        _chosen[key] = best if seconds["linear"] > CLEAR_WIN * seconds[best] else "linear"
    return _chosen[key]


def _seconds(
    name: str, rows: Tensor, weight: Tensor, bias: Tensor | None, between: Tensor
) -> float:
    form, best = FORMS[name], float("inf")
    for _ in range(REPEATS + 1):  # the first call also prepares the kernel; it never is the best
        between.sum()
        start = time.perf_counter()
        form(rows, weight, bias)
        best = min(best, time.perf_counter() - start)
    return best


def fast_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute ``F.linear(x, weight, bias)``, equal to rounding, in the fastest measured form.

    Args:
        x: (..., K) on any device; anything but CPU inference takes F.linear.
        weight: (N, K).
        bias: (N,) or None.

    Returns:
        (..., N).
    """
    if not _may_choose(x, weight):
        return F.linear(x, weight, bias)
    rows = x.reshape(-1, x.shape[-1])
    autocast = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if autocast else x.dtype
    form = FORMS[_best_form(rows, weight, bias, dtype)]
    return form(rows, weight, bias).view(*x.shape[:-1], weight.shape[0])


def _may_choose(x: Tensor, weight: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and _worth_a_choice(x.numel() // x.shape[-1], weight.numel())
        and not torch.compiler.is_compiling()
        and not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
        and weight.is_contiguous()
    )


def _worth_a_choice(rows: int, weights: int) -> bool:
    if 0 < rows <= FEW_ROWS and weights >= SMALLEST_STREAMED:
        return True
    return rows * weights >= SMALLEST_MEASURED


class Linear(nn.Linear):
    """Drop-in `nn.Linear` (same keys, same numbers) that is fast on CPU at inference.

    Example:
        >>> layer = Linear(512, 2048)
        >>> with torch.inference_mode():
        ...     layer(torch.zeros(4, 513, 512)).shape
        torch.Size([4, 513, 2048])
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Linear's own name
        """Map (..., in_features) to (..., out_features)."""
        return fast_linear(input, self.weight, self.bias)
