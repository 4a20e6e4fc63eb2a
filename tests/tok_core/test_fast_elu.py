"""ELU in its fast form against torch's."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tok_core import fast_elu
from tok_core.fast_elu import elu


@pytest.mark.parametrize("block", [7, 1 << 18])
def test_it_is_elu(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_elu, "BLOCK", block)
    x = torch.randn(3, 5, 11) * 8
    x[0, 0, :4] = torch.tensor([0.0, -0.0, float("inf"), -float("inf")])
    expected = F.elu(x)
    before = x.clone()
    assert (elu(x)[1:] - expected[1:]).abs().max() <= 1.2e-7
    assert torch.equal(elu(x)[0, 0, :4], expected[0, 0, :4]) and torch.equal(x, before)
    assert torch.allclose(elu(x.transpose(0, 2)), expected.transpose(0, 2))
    assert elu(torch.full((9,), float("nan"))).isnan().all()
    assert elu(torch.empty(0)).shape == (0,)
    result = elu(x, overwrite=True)
    assert result.data_ptr() == x.data_ptr() and torch.allclose(result, expected, atol=1.2e-7)


def test_gradients_are_those_of_elu_and_overwriting_leaves_them_alone() -> None:
    x = torch.randn(50, requires_grad=True)
    y = elu(x * 1.0, overwrite=True)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    (expected,) = torch.autograd.grad(F.elu(x).sum(), x)
    assert torch.equal(gradient, expected)
