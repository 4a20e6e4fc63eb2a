"""The search equals the whole matrix, breaks ties downward, and never holds N x K."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.profiler import ProfilerActivity, profile

from tok_core import nearest_code as module
from tok_core.errors import ConfigError
from tok_core.full_float32 import full_float32
from tok_core.nearest_code import nearest_code


def brute_force(z: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    z, vectors = z.double(), vectors.double()
    if z.shape[1] == 2:  # for whole numbers, where ties have to stay ties
        return (z[:, None] - vectors).square().sum(2).argmin(1)
    return torch.cdist(z, vectors, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)


@pytest.fixture(params=["shipped blocks", "tiny blocks"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "tiny blocks":
        monkeypatch.setattr(module, "_CPU_BLOCK", (16, 8))
        monkeypatch.setattr(module, "_DIRECT_SCORES", 0)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("d", [1, 3, 8, 64, 257])
@pytest.mark.parametrize("n, k", [(1, 1), (5, 7), (1031, 600), (200, 1025), (33, 4096)])
def test_equals_the_whole_matrix(n: int, k: int, d: int) -> None:
    generator = torch.Generator().manual_seed(n * k + d)
    z, vectors = torch.randn(n, d, generator=generator), torch.randn(k, d, generator=generator)
    codes, expected = nearest_code(z, vectors), brute_force(z, vectors)
    assert codes.dtype == torch.int64
    assert codes.shape == (n,)
    chosen = (z.double() - vectors[codes].double()).square().sum(1)
    best = (z.double() - vectors[expected].double()).square().sum(1)
    # Different only where the two best differ by less than float32 products can tell.
    sizes = z.double().square().sum(1) + vectors[expected].double().square().sum(1)
    assert (chosen - best <= 1e-6 * sizes).all()
    if d >= 8:
        assert torch.equal(codes, expected)


@pytest.mark.usefixtures("blocks")
# Whole numbers are exact in float32, so ties are real ties.
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 300), k=st.integers(1, 900))
def test_lowest_index_on_ties(seed: int, n: int, k: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randint(-2, 3, (n, 2), generator=generator).float()
    vectors = torch.randint(-2, 3, (k, 2), generator=generator).float()
    assert torch.equal(nearest_code(z, vectors), brute_force(z, vectors))


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("d", [2, 8, 12, 31, 64])
def test_a_code_stored_twice_is_found_at_its_first_place(d: int) -> None:
    once = torch.randn(700, d)
    twice = torch.cat((once, once, once[:100]))
    codes = nearest_code(torch.randn(3000, d), twice)
    assert codes.max() < 700


def test_cosine_ignores_lengths() -> None:
    z, vectors = torch.randn(500, 6), torch.randn(900, 6)
    scaled = vectors * torch.rand(900, 1).add(0.1)
    expected = brute_force(z / z.norm(dim=1, keepdim=True), vectors / vectors.norm(dim=1)[:, None])
    assert (nearest_code(z * 50, scaled, metric="cosine") == expected).float().mean() > 0.999
    assert (nearest_code(z * 50, scaled) != expected).any()


@pytest.mark.usefixtures("blocks")
def test_unusual_input() -> None:
    vectors = torch.randn(900, 4)
    assert nearest_code(torch.empty(0, 4), vectors).shape == (0,)
    assert nearest_code(torch.empty(9, 4, device="meta"), vectors.to("meta")).is_meta
    for value in (float("nan"), float("inf"), -float("inf")):
        codes = nearest_code(torch.full((600, 4), value), vectors)
        assert codes.min() >= 0
        assert codes.max() < 900
    half = torch.randn(50, 4).bfloat16()
    assert torch.equal(nearest_code(half, vectors), nearest_code(half.float(), vectors))


def test_autocast_and_gradient_have_no_say() -> None:
    z, vectors = torch.randn(400, 16, requires_grad=True), torch.randn(900, 16, requires_grad=True)
    expected = nearest_code(z, vectors)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(nearest_code(z, vectors), expected)
    assert not expected.requires_grad


def test_reduced_matmul_precision_is_lifted_and_put_back() -> None:
    switch = torch.backends.mkldnn.matmul
    if not hasattr(switch, "fp32_precision"):
        torch.set_float32_matmul_precision("medium")
        with full_float32("cpu"):
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "medium"
        torch.set_float32_matmul_precision("highest")
        return
    torch.set_float32_matmul_precision("medium")
    try:
        with full_float32("cpu"):
            assert switch.fp32_precision == "ieee"
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    with full_float32("cpu"):
        pass
    assert torch.get_float32_matmul_precision() == "highest"


def test_no_allocation_grows_with_n_times_k() -> None:
    n, k = 4096, 4096
    z, vectors = torch.randn(n, 8), torch.randn(k, 8)
    nearest_code(z, vectors)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        nearest_code(z, vectors)
    events = [e for e in record.events() if e.name == "[memory]" or e.self_cpu_memory_usage > 0]
    largest = max(event.self_cpu_memory_usage for event in events)
    assert 0 < largest < 4 * n * k / 7


def test_errors_say_what_is_legal() -> None:
    with pytest.raises(ConfigError, match="did you mean 'cosine'"):
        nearest_code(torch.randn(2, 3), torch.randn(4, 3), metric="cosin")
    for z, vectors in [((2, 3), (4, 5)), ((3,), (4, 3)), ((2, 3), (0, 3))]:
        with pytest.raises(ConfigError, match="flatten the leading axes"):
            nearest_code(torch.randn(*z), torch.randn(*vectors))
