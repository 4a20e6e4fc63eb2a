"""What calibration programs of both senses share: batches of a user's data, weights to store.

    source --item 0, 1, 2, ...--> batches (B, ...) --autoencoder, `dimension_calibration`-->
    tokenizer --`stored_in`--> what is saved

Letters: B batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from tok_core.errors import ConfigError, MediaError

BATCH = 16
DTYPES = ("float32", "float16", "bfloat16")


def signal_batches(
    source: Any, *, count: int, batch: int = BATCH, what: str = "signal",
    progress: Callable[[int], None] = lambda signals: None,
) -> Iterator[Tensor]:  # fmt: skip
    """Yield batches (B, ...) of the first signals of a source; unreadable ones are passed over.

    Args:
        source: with ``length`` (None where it is endless) and ``item(index)``.
        count: of signals, or all there are. batch: B at most. what: a signal's name, for the error.
        progress: told how many more signals are done with.

    Raises:
        ConfigError: a count below 1. MediaError: no signal can be read.

    Example:
        >>> for x in signal_batches(open_images(data), count=1024):  # doctest: +SKIP
        ...     statistics.add(model.latents(x))
    """
    if count < 1:
        raise ConfigError(f"count is {count}; give at least 1 {what}.")
    total = count if source.length is None else min(count, source.length)
    kept: list[Tensor] = []
    found, problem = 0, "there are none"
    for index in range(total):
        try:
            kept.append(torch.as_tensor(source.item(index)))
            found += 1
        except MediaError as error:
            problem = str(error)
        progress(1)
        if len(kept) == batch:
            yield torch.stack(kept)
            kept = []
    if kept:
        yield torch.stack(kept)
    if not found:
        raise MediaError(f"no {what} to calibrate on can be read: {problem}")


def stored_in(model: Any, dtype: str) -> Any:
    """Return a copy of a model whose numbers are ``dtype``; loading makes them float32 again.

    Raises:
        ConfigError: another type than `DTYPES`.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"weights cannot be stored in '{dtype}'; legal are {', '.join(DTYPES)}.")
    stored = copy.deepcopy(model)
    for tensor in (*stored.parameters(), *stored.buffers()):
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(getattr(torch, dtype))
    return stored
