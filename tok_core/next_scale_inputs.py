"""Next-scale inputs: what a generator that predicts a whole scale at once sees of those before it.

    VAR        sum so far on the full grid --area--> next grid
    TokenFlow  f := rows of scale 1;  f := bicubic(f -> next grid) is the input;  f := f + its rows

TokenFlow's chain never goes to the full grid, unlike the sum that its decoder sees.  The first
scale has no input: it is predicted from the condition.  Branches stand side by side on the last
axis.  Letters: B batch, P branches, D channels, h w the grid of a scale, S scales, N tokens of all
scales, n_1 those of the first.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from tok_core.dual_codebook import DualCodebook
from tok_core.errors import TokenError
from tok_core.full_float32 import full_float32
from tok_core.phi_residual import PhiResidual
from tok_core.product_quantizer import ProductQuantizer
from tok_core.scale_residual import area, bicubic
from tok_core.scales import Scales, Size


def next_scale_inputs(
    quantizer: PhiResidual | DualCodebook | ProductQuantizer,
    codes: Tensor,
    *,
    size: Size | None = None,
    refine: Collection[int] = (),
) -> Tensor:
    """Return the inputs of all scales but the first, as far as codes for them are there.

    For training pass all codes (teacher forcing); while sampling, those drawn so far: the last
    block of the result is then the input of the scale to draw next.

    Args:
        quantizer: that the codes come from; decides which of the two forms is made.
        codes: int64 (B, n) of whole scales, (B, P, n) of a product quantizer.
        size: (H, W) of the latent; None is the native grid.
        refine: inputs, counted from 0, that hold the rows of their own scale as well: in a
            refinement pass a scale is drawn again from what it was. TokenFlow's form only.

    Returns:
        (B, M, D) float32, or (B, M, P D) the branches side by side: row by row, coarse to fine,
        n_1 tokens fewer than N for all codes.

    Raises:
        TokenError: codes that end inside a scale or are out of range, or a scale to refine whose
            own codes are not there.

    Source: Tian et al. 2024, arXiv 2404.02905, and Qu et al. 2024, arXiv 2412.03069, as released.

    Example:
        >>> next_scale_inputs(quantizer, tokens.codes).shape
        torch.Size([2, 679, 32])
    """
    if isinstance(quantizer, ProductQuantizer):
        each = quantizer.scaled(codes)
        return torch.cat(
            [next_scale_inputs(one, part, size=size, refine=refine) for one, part in each], -1
        )
    scales = quantizer.scales_of(codes, size)
    with torch.no_grad(), full_float32(codes.device.type):
        if isinstance(quantizer, DualCodebook):
            blocks = chained(quantizer.maps(codes, size=size), scales, refine)
        else:
            if refine:
                raise TokenError(
                    f"inputs {sorted(refine)} were to be refined; "
                    "only the codes of a dual codebook have a refinement pass."
                )
            sums = quantizer.cumulative(codes, size=size)
            blocks = [area(total, to) for total, to in zip(sums, scales.sizes[1:], strict=False)]
    if not blocks:
        return codes.new_zeros(len(codes), 0, quantizer.code_dim, dtype=torch.float32)
    return torch.cat([block.flatten(2) for block in blocks], 2).transpose(1, 2)


def chained(
    maps: Sequence[Tensor], scales: Scales, refine: Collection[int] = ()
) -> list[Tensor]:
    """Return TokenFlow's inputs (B, D, h, w) of scales 2 to S, one more than rows are there for.

    Args:
        maps: rows (B, D, h, w) of the scales known so far. scales, refine: see the function above.

    Raises:
        TokenError: a scale to refine whose own rows are not there.
    """
    legal = range(len(maps) - 1)
    for index in refine:
        if index not in legal:
            raise TokenError(
                f"input {index} was to be refined but the codes hold {len(maps)} scales; "
                f"legal are 0 to {len(maps) - 2}, each with its own scale's codes."
            )
    known, blocks = maps[0], []
    for index, grid in enumerate(scales.sizes[1 : len(maps) + 1]):
        known = bicubic(known, grid)
        shown = known
        if index + 1 < len(maps):
            known = known + maps[index + 1]
        blocks.append(known if index in refine else shown)
    return blocks
