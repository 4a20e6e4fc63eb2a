"""Moments: batches, merging and order do not matter; means large against spreads lose nothing."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.moments import add_vectors, empty_moments, merge_moments, moments_of, unpack
from tok_core.errors import ConfigError, MediaError


def vectors(count: int, dimension: int, offset: float = 0.0, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, dimension, generator=generator, dtype=torch.float64) + offset


@settings(max_examples=30, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 40), max_size=5), dimension=st.integers(1, 6),
    offset=st.sampled_from([0.0, 1e4, -1e7]), merge=st.booleans(),
)  # fmt: skip
def test_any_split_gives_the_moments_of_the_whole(
    cuts: list[int], dimension: int, offset: float, merge: bool
) -> None:
    x = vectors(40, dimension, offset)
    edges = [0, *sorted(cuts), 40]
    parts = [x[a:b] for a, b in itertools.pairwise(edges)]
    if merge:
        shares = [add_vectors(empty_moments(dimension), part) for part in parts]
        found = unpack(merge_moments(torch.stack(shares)))
    else:
        packed = empty_moments(dimension)
        for part in parts:
            add_vectors(packed, part)
        found = unpack(packed)
    spread = x - x.mean(0)
    assert found.count == 40
    assert torch.allclose(found.mean, x.mean(0), rtol=1e-14, atol=1e-12)
    expected = spread.mT @ spread / 39
    assert torch.allclose(found.covariance, expected, rtol=1e-9, atol=1e-7 if offset else 1e-12)


def test_sums_of_squares_would_fail_here() -> None:
    x = vectors(200, 3, 1e7)
    plain = (x.mT @ x - 200 * torch.outer(x.mean(0), x.mean(0))) / 199
    exact = moments_of(x - 1e7).covariance
    assert float((plain - exact).abs().max()) > 1e-3
    assert float((moments_of(x).covariance - exact).abs().max()) < 1e-8


def test_merging_leaves_its_arguments_alone() -> None:
    shares = torch.stack([add_vectors(empty_moments(2), vectors(9, 2, seed=s)) for s in (1, 2)])
    before = shares.clone()
    merge_moments(shares)
    assert torch.equal(shares, before)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_damaged_features_are_named(bad: float) -> None:
    x = vectors(4, 2)
    x[1, 1] = bad
    with pytest.raises(MediaError, match="NaN or infinity"):
        moments_of(x)


def test_what_cannot_be() -> None:
    with pytest.raises(ConfigError, match="2 or more pictures and 1 came"):
        moments_of(vectors(1, 3))
    with pytest.raises(MediaError, match=r"\(N, 3\)"):
        add_vectors(empty_moments(3), vectors(4, 2))
