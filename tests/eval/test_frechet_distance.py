"""The Fréchet distance: closed forms, symmetry, and covariances that other routes stumble over."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.frechet_distance import frechet_distance, frechet_distance_of_features
from eval.moments import Moments, moments_of
from tests.eval.test_moments import vectors
from tok_core.errors import ConfigError, MediaError


def gaussian(mean: list[float], variances: list[float]) -> Moments:
    both = torch.tensor([mean, variances], dtype=torch.float64)
    return Moments(both[0], torch.diag(both[1]), None)


def test_closed_form_of_independent_dimensions() -> None:
    a, b = gaussian([0, 1, 2], [1, 4, 0]), gaussian([0, 1, 5], [9, 4, 16])
    # |shift|^2 + sum (sqrt(v_a) - sqrt(v_b))^2
    assert float(frechet_distance(a, b)) == pytest.approx(9 + 4 + 0 + 16, abs=1e-9)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("count", [(60, 70), (5, 70), (4, 6), (2, 2)])
def test_routes_agree(count: tuple[int, int], scale: float) -> None:
    a, b = vectors(count[0], 12, seed=1) * scale, (vectors(count[1], 12, seed=2) + 0.3) * scale
    features = float(frechet_distance_of_features(a, b))
    for first, second in ((a, b), (b, a)):
        found = float(frechet_distance(moments_of(first), moments_of(second)))
        assert found == pytest.approx(features, rel=1e-10)
    unknown = [moments_of(x)._replace(count=None) for x in (a, b)]
    assert float(frechet_distance(*unknown)) == pytest.approx(features, rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    dimension=st.integers(1, 12), rows=st.tuples(st.integers(2, 30), st.integers(2, 30)),
    spread=st.integers(0, 12), dead=st.integers(0, 3), seed=st.integers(0, 99),
)  # fmt: skip
def test_never_raises_and_never_far_below_zero(
    dimension: int, rows: tuple[int, int], spread: int, dead: int, seed: int
) -> None:
    scales = torch.logspace(0, -spread, dimension, dtype=torch.float64)
    scales[:dead] = 0
    a, b = (vectors(n, dimension, seed=seed + i) * scales for i, n in enumerate(rows))
    for known in (True, False):
        first, second = moments_of(a), moments_of(b)
        if not known:
            first, second = first._replace(count=None), second._replace(count=None)
        found = float(frechet_distance(first, second))
        assert found > -1e-6
        assert found == pytest.approx(float(frechet_distance_of_features(a, b)), abs=5e-6)
        assert abs(float(frechet_distance(first, first))) < 5e-6


def test_sets_that_never_change() -> None:
    still = torch.full((8, 4), 3.0)
    assert float(frechet_distance(moments_of(still), moments_of(still))) == 0.0
    moving = moments_of(vectors(50, 4))
    wanted = (moving.mean - 3).square().sum() + moving.covariance.diagonal().sum()
    assert float(frechet_distance(moments_of(still), moving)) == pytest.approx(float(wanted))


def test_what_cannot_be() -> None:
    a = moments_of(vectors(9, 3))
    with pytest.raises(ConfigError, match="3 and of 4 dimensions"):
        frechet_distance(a, moments_of(vectors(9, 4)))
    with pytest.raises(MediaError, match="NaN"):
        frechet_distance(a, a._replace(covariance=a.covariance * float("nan")))
