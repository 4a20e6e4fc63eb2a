"""Items of equal length together: how a batch of unequal lengths stays exact.

A codec's norms, attention and mirrored edges see the whole signal, so padding would change the
result.  Items of one length run together, each length by itself: exactly what each gives alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from tok_core.contract import Tokens
from tok_core.errors import MediaError, TokenError


def length_groups(lengths: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield (length, int64 indices of the items that have it) for (B,) ``lengths``.

    Example:
        >>> [(n, i.tolist()) for n, i in length_groups(torch.tensor([5, 3, 5]))]
        [(3, [1]), (5, [0, 2])]
    """
    for length in torch.unique(lengths).tolist():
        yield length, (lengths == length).nonzero()[:, 0]


def encode_by_length(
    x: Tensor, lengths: Tensor | None, hop: int, codes_of: Callable[[Tensor], Tensor]
) -> Tokens:
    """Encode a batch so that each item gives what it gives alone.

    Args:
        x: sound (B, 1, T). lengths: int64 (B,) valid samples, 1 to T; None for all.
        hop: samples per frame.
        codes_of: maps sound (b, 1, t) of one length to codes (b, q, ceil(t / hop)).

    Returns:
        codes (B, q, F), 0 behind an item's frames; lengths (B,) valid frames, given only where
        ``lengths`` was; extent (B, 1) samples.

    Raises:
        TokenError: lengths out of range. MediaError: see `checked_sound`.
    """
    checked_sound(x)
    if lengths is None:
        extent = torch.full((len(x), 1), x.shape[-1], device=x.device)
        return Tokens(codes_of(x).contiguous(), extent=extent)
    most = x.shape[-1]
    if lengths.shape != x.shape[:1] or int(lengths.min()) < 1 or int(lengths.max()) > most:
        raise TokenError(
            f"lengths are {lengths.tolist()} for sound of shape {tuple(x.shape)}; legal is one "
            f"number of samples from 1 to {most} for each item."
        )
    lengths = lengths.to(x.device)
    frames = -(-lengths // hop)
    codes = None
    for length, items in length_groups(lengths):
        part = codes_of(x[items, :, :length])
        if codes is None:
            codes = part.new_zeros(len(x), part.shape[1], int(frames.max()))
        codes[items, :, : part.shape[2]] = part
    assert codes is not None
    return Tokens(codes, frames, lengths[:, None])


def checked_sound(x: Tensor) -> Tensor:
    """Return sound (B, 1, T) as it came; MediaError for another shape or no samples."""
    if x.dim() != 3 or x.shape[1] != 1 or not x.shape[2] or not x.is_floating_point():
        raise MediaError(
            f"sound of shape {tuple(x.shape)} and type {x.dtype} came in; legal is float "
            "(batch, 1, samples) with at least one sample: encode channels one by one."
        )
    return x
