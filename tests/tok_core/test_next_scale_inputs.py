"""Generator inputs of both multi-scale quantizers, whole and scale by scale."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tok_core.dual_codebook import DualCodebook
from tok_core.errors import TokenError
from tok_core.multi_scale_quantizer import MultiScaleQuantizer
from tok_core.next_scale_inputs import next_scale_inputs

SCALES = [1, 2, 3, 5]


def var(**options: object) -> MultiScaleQuantizer:
    torch.manual_seed(0)
    return MultiScaleQuantizer(20, 4, SCALES, **options).eval()


def dual(**options: object) -> DualCodebook:
    torch.manual_seed(0)
    return DualCodebook(20, {"semantic": 4, "pixel": 2}, scales=SCALES, **options).eval()


def drawn(tokens: int) -> Tensor:
    return torch.randint(20, (2, tokens), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("make", [var, dual])
@pytest.mark.parametrize("size", [None, (4, 6)])
def test_sampling_sees_what_training_saw(make, size: tuple[int, int] | None) -> None:
    quantizer = make()
    scales = quantizer.scales if size is None else quantizer.scales_for(size)
    codes = drawn(scales.num_tokens)
    whole = next_scale_inputs(quantizer, codes, size=size)
    assert whole.shape == (2, scales.num_tokens - scales.lengths[0], quantizer.code_dim)
    assert not whole.requires_grad
    for k in range(1, len(scales)):
        known = next_scale_inputs(quantizer, codes[:, : scales.offsets[k]], size=size)
        assert known.shape[1] == scales.offsets[k + 1] - scales.offsets[1]
        assert torch.equal(known, whole[:, : known.shape[1]])


def test_var_averages_the_sum_on_the_full_grid() -> None:
    quantizer, codes = var(), drawn(39)
    blocks = next_scale_inputs(quantizer, codes).split(quantizer.scales.lengths[1:], 1)
    for k, block in enumerate(blocks):
        total = quantizer.lookup(codes, upto=k + 1)
        expected = F.adaptive_avg_pool2d(total, quantizer.scales.sizes[k + 1])
        assert torch.allclose(block, expected.flatten(2).transpose(1, 2), atol=1e-6)


def test_token_flow_chains_from_grid_to_grid() -> None:
    quantizer, codes = dual(), drawn(39)
    maps = quantizer.maps(codes)
    blocks = next_scale_inputs(quantizer, codes).split(quantizer.scales.lengths[1:], 1)
    refined = next_scale_inputs(quantizer, codes, refine=[0, 2])
    again = refined.split(quantizer.scales.lengths[1:], 1)
    known = maps[0]
    for k, block in enumerate(blocks):
        known = F.interpolate(known, size=quantizer.scales.sizes[k + 1], mode="bicubic")
        assert torch.allclose(block, known.flatten(2).transpose(1, 2), atol=1e-6)
        known = known + maps[k + 1]
        seen = known.flatten(2).transpose(1, 2) if k in (0, 2) else block
        assert torch.allclose(again[k], seen, atol=1e-6)
    assert not torch.allclose(  # the chain is not the decoder's sum
        known, quantizer.lookup(codes), atol=1e-3
    )


def test_one_scale_has_no_inputs() -> None:
    single = DualCodebook(20, {"a": 4, "b": 2}, scales=[5])
    assert next_scale_inputs(single, drawn(25)).shape == (2, 0, 6)


def test_mistakes_are_one_sentence() -> None:
    with pytest.raises(TokenError, match="7 tokens came in"):
        next_scale_inputs(dual(), drawn(7))
    with pytest.raises(TokenError, match="input 1 was to be refined but the codes hold 2 scales"):
        next_scale_inputs(dual(), drawn(5), refine=[1])
    with pytest.raises(TokenError, match="only the codes of a dual codebook"):
        next_scale_inputs(var(), drawn(39), refine=[0])
