"""Neighbours of the latents before quantization, for any tokenizer whose latents can be followed.

The contract gives latents as a whole, the neighbourhood needs what each factor's quantizer compared
with its codebook.  Three ways cover the quantizers that have one search per factor:

    one factor           the latent itself
    branch, dimension    the latent's channels, cut in order
    level                what the levels before left over of the latent

and quantizers over scales are asked (`tok_core.scale_residual.ScaleResidual.searches_of`).

Whether the way was right is not taken on trust: the nearest code of what was found must be the code
that the tokenizer chose.

Letters: B items, L positions, F factors, C channels, D dimensions of a code.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from tok_core.contract import Tokenizer, Tokens
from tok_core.errors import ConfigError
from tok_core.neighbour_table import nearest_neighbours
from tok_core.product_quantizer import ProductQuantizer
from tok_core.scale_residual import ScaleResidual

# Rounding decides between codes that are equally far; anything beyond is another quantity.
_AGREEMENT = 0.98


@torch.no_grad()
def latent_neighbours(
    tokenizer: Tokenizer, x: Tensor, tokens: Tokens, delta: int
) -> tuple[Tensor, ...]:
    """Return for each factor the codes nearest to its latents, int64 (B, L, min(delta, K)).

    Args:
        tokenizer: that made ``tokens`` of ``x``. x: images or sound as its ``encode`` takes them.
        tokens: clean tokens. delta: neighbours wanted, at least 1.

    Raises:
        ConfigError: the latents cannot be followed to the codes (bounded or normalised values...);
            the ``code`` neighbourhood is there for every tokenizer.
    """
    spec = tokenizer.spec
    sequence = spec.to_sequence(tokens.codes)
    z = tokenizer.latents(x)
    found = _search_scales(tokenizer, z, sequence, delta)
    if found is not None and _agrees(found, sequence, tokens.lengths):
        return found
    if spec.scales is None:
        for rows in _layouts(z, sequence.shape[1]):
            found = _search(tokenizer, rows, sequence, delta)
            if found is not None and _agrees(found, sequence, tokens.lengths):
                return found
    raise ConfigError(
        f"the latents of {type(tokenizer).__name__} do not lead to its codes by channels, by "
        "levels or by scales, so neighbourhood 'latent' is not defined here; use neighbourhood "
        "'code'."
    )


def _layouts(z: Tensor, length: int) -> Iterator[Tensor]:
    """Yield the views (B, L, C) of latents whose layout is not part of the contract."""
    if z.ndim == 4:
        for rows in (z.flatten(2).transpose(1, 2), z.flatten(1, 2)):
            if rows.shape[1] == length:
                yield rows
    elif z.ndim == 3:
        # A shorter budget keeps the first positions.
        for rows in (z, z.transpose(1, 2)):
            if rows.shape[1] >= length:
                yield rows[:, :length]


def _search(
    tokenizer: Tokenizer, rows: Tensor, sequence: Tensor, delta: int
) -> tuple[Tensor, ...] | None:
    books = tokenizer.codebooks[: sequence.shape[-1]]
    widths = [book.vectors.shape[1] for book in tokenizer.codebooks]
    levels = any(axis.name == "level" for axis in tokenizer.spec.axes)
    rows = rows.float()
    found = []
    if levels or len(widths) == 1:
        if rows.shape[-1] != widths[0]:
            return None
        for factor, book in enumerate(books):
            if book.metric == "cosine":
                rows = F.normalize(rows, dim=-1)
            found.append(nearest_neighbours(rows, book, delta))
            rows = rows - book.vectors.float()[sequence[..., factor]]
    else:
        if rows.shape[-1] != sum(widths):
            return None
        parts = rows.split(widths, -1)
        for part, book in zip(parts, books, strict=False):
            found.append(nearest_neighbours(part, book, delta))
    return tuple(found)


def _search_scales(
    tokenizer: Tokenizer, z: Tensor, sequence: Tensor, delta: int
) -> tuple[Tensor, ...] | None:
    """Search what every scale of every branch compares; a shorter budget keeps whole scales."""
    quantizer = getattr(tokenizer, "quantizer", None)
    branches = list(quantizer) if isinstance(quantizer, ProductQuantizer) else [quantizer]
    z = z[:, :, None] if z.ndim == 3 else z
    if z.ndim != 4 or len(branches) != sequence.shape[-1]:
        return None
    found = []
    parts = z.chunk(len(branches), 1)
    for branch, part, book in zip(branches, parts, tokenizer.codebooks, strict=True):
        if not isinstance(branch, ScaleResidual):
            return None
        rows = torch.cat([one.rows.flatten(1, 2) for one in branch.searches_of(part)], 1)
        found.append(nearest_neighbours(rows[:, : sequence.shape[1]], book, delta))
    return tuple(found)


def _agrees(found: tuple[Tensor, ...], sequence: Tensor, lengths: Tensor | None) -> bool:
    same = torch.stack([one[..., 0] for one in found], -1) == sequence
    if lengths is not None:
        inside = torch.arange(same.shape[1], device=same.device) < lengths[:, None].to(same.device)
        same = same[inside]
    return float(same.float().mean()) >= _AGREEMENT if same.numel() else True
