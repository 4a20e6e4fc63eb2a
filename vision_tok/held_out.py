"""The score of a small image tokenizer: native tiles of the photographs nobody trains on.

The tiles are every whole S x S square, edge to edge from the upper left corner, at the photographs'
own resolution.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tok_core.contract import Tokens
from tok_core.image_measures import psnr, ssim
from vision_tok.image_validation_data import HeldOutTiles
from vision_tok.validation import budgets

CHUNK = 32  # tiles decoded at once


def held_out_scores(model: Any, *, most: int | None = None) -> dict[str, Any]:
    """Score a fixed-size image tokenizer on the held-out tiles, per budget.

    Args:
        model: a tokenizer of pictures of one size.
        most: score only the first so many tiles, which show all photographs; None takes all.

    Returns:
        ``tiles``, ``tile_size``, ``flat_colour_psnr`` (each tile as its own mean colour, the best
        flat one) and ``budgets``: number of tokens -> mean PSNR (dB), mean SSIM, over tiles; and
        ``codes_used``, how many codes the tiles used at the full budget.

    Example:
        >>> held_out_scores(model)["budgets"]["256"]["psnr"]  # doctest: +SKIP
        27.1
    """
    size = model.spec.image_size[0]
    source = HeldOutTiles(size)
    tiles = torch.stack([source.item(i) for i in range(source.length)[:most]])
    flat = tiles.mean(dim=(2, 3), keepdim=True).expand_as(tiles)
    codes = torch.cat([model.encode(chunk).codes for chunk in tiles.split(CHUNK)])
    result: dict[str, dict[str, float]] = {}
    for budget in budgets(model):
        kept = codes if budget is None else codes[..., :budget]
        decoded = torch.cat([model.decode(Tokens(chunk)) for chunk in kept.split(CHUNK)])
        result[str(budget or codes[0].numel())] = {
            "psnr": _mean(psnr(decoded, tiles)), "ssim": _mean(ssim(decoded, tiles)),
        }  # fmt: skip
    return {
        "tiles": len(tiles),
        "tile_size": size,
        "flat_colour_psnr": _mean(psnr(flat, tiles)),
        "codes_used": int(np.unique(codes.numpy()).size),
        "budgets": result,
    }


def _mean(values: Tensor) -> float:
    return round(float(values.double().mean()), 4)
