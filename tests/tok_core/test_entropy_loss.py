"""The entropy loss block by block is the one of the whole matrix, in flat memory."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from tok_core import entropy_loss as module
from tok_core.entropy_loss import entropy_loss


def whole(z: Tensor, vectors: Tensor, temperature: float) -> Tensor:
    distance = (z[:, None] - vectors).square().sum(2)
    p = torch.softmax(-distance / temperature, 1)
    log_p = torch.log_softmax(-distance / temperature, 1)
    mean = p.mean(0)
    return -(p * log_p).sum(1).mean() + (mean * (mean + 1e-5).log()).sum()


def sample(n: int, k: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n + k)
    z, vectors = (torch.randn(rows, 6, generator=generator) for rows in (n, k))
    return F.normalize(z).requires_grad_(), F.normalize(vectors).requires_grad_()


@pytest.mark.parametrize("temperature", [0.01, 1.0])
@pytest.mark.parametrize("block", [1, 70, 1 << 22])
def test_equals_the_whole_matrix(
    monkeypatch: pytest.MonkeyPatch, block: int, temperature: float
) -> None:
    monkeypatch.setattr(module, "_BLOCK", block)
    z, vectors = sample(50, 30)
    ours, theirs = entropy_loss(z, vectors, temperature=temperature), whole(z, vectors, temperature)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    found = torch.autograd.grad(ours, (z, vectors))
    expected = torch.autograd.grad(theirs, (z, vectors))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_sure_and_spread_is_best() -> None:
    codes = torch.eye(4)
    spread, collapsed = entropy_loss(codes, codes), entropy_loss(codes[:1].repeat(4, 1), codes)
    torch.testing.assert_close(spread, -torch.tensor(4.0).log(), rtol=1e-3, atol=1e-4)
    assert abs(collapsed) < 1e-4


def test_no_allocation_grows_with_n_times_k(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", 1 << 14)
    z, vectors = sample(1024, 1024)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        entropy_loss(z, vectors).backward()
    largest = max(event.self_cpu_memory_usage for event in record.events())
    assert 0 < largest < 4 * 1024 * 1024 / 4


def test_autocast_has_no_say() -> None:
    z, vectors = sample(40, 20)
    expected = entropy_loss(z, vectors)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(entropy_loss(z, vectors), expected)
