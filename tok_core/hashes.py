"""The two hashes: which weights decide the codes, and which weights there are at all."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from itertools import count

import torch
from torch import Tensor


def tensor_hash(named: Iterable[tuple[str, Tensor]], context: str) -> str:
    """Return 64 hex digits over names, shapes and float32 (or integer) values.

    Values are cast to float32 first, so a model stored in float16 keeps its hash when it is loaded
    in float32; the device does not matter.

    Args:
        named: (name, tensor) pairs; the order does not matter.
        context: text that belongs to the identity, such as the code-relevant config.
    """
    digest = hashlib.sha256(context.encode())
    for name, tensor in sorted(named, key=lambda pair: pair[0]):
        digest.update(f"|{name}|{tuple(tensor.shape)}|".encode())
        plain = tensor.detach().cpu()
        plain = plain.float() if plain.is_floating_point() else plain.to(torch.int64)
        digest.update(plain.contiguous().numpy().tobytes())
    return digest.hexdigest()


# Tensors made in inference mode count no writes; what is never equal is hashed anew.
_uncounted = count(-1, -1)


def version_key(named: Iterable[tuple[str, Tensor]]) -> tuple[tuple[str, int, int], ...]:
    """Return a cheap key that changes whenever one of the tensors is written or replaced."""
    return tuple(
        (name, t.data_ptr(), next(_uncounted) if t.is_inference() else t._version)
        for name, t in named
    )
