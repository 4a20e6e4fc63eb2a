"""The fast group norm with SiLU computes what torch's two layers compute."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tok_core import fast_group_norm as module
from tok_core.fast_group_norm import group_norm_silu


@pytest.mark.parametrize("shape", [(1, 32, 1, 1), (2, 32, 5, 3), (3, 64, 7, 9)])
@pytest.mark.parametrize("overwrite", [True, False])
def test_it_equals_norm_then_silu(
    shape: tuple[int, ...], overwrite: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SMALLEST", 1)
    monkeypatch.setattr(module, "BLOCK", 256)  # several blocks, the last one short
    torch.manual_seed(0)
    norm = nn.GroupNorm(16, shape[1], eps=1e-6).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = (2 * torch.randn(shape) + 3).contiguous(memory_format=torch.channels_last)
    expected = F.silu(norm(x.double())).float().detach()
    norm.float()
    kept = x.clone()
    with torch.no_grad():
        out = group_norm_silu(norm, x, overwrite=overwrite)
    assert torch.allclose(out, expected, atol=1e-4)
    assert (out.data_ptr() == x.data_ptr()) == overwrite
    if not overwrite:
        assert torch.equal(x, kept)


def test_nothing_is_overwritten_where_gradients_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SMALLEST", 1)
    x = torch.randn(2, 32, 4, 4).contiguous(memory_format=torch.channels_last)
    kept = x.clone()
    norm = nn.GroupNorm(4, 32)
    group_norm_silu(norm, x, overwrite=True).sum().backward()  # torch's own kernel crashes here
    assert torch.equal(x, kept)
    frozen = norm.bias.grad.clone()
    norm.zero_grad()
    group_norm_silu(norm, x.requires_grad_(), overwrite=True).sum().backward()
    assert torch.equal(x.detach(), kept) and x.grad is not None
    assert torch.allclose(norm.bias.grad, frozen, atol=1e-5)
