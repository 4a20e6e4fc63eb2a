"""Random orders and how their share falls."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from generators.random_order import (
    RandomnessAnnealing,
    check_orders,
    permuted,
    random_orders,
    restored,
)
from tok_core.errors import ConfigError, TokenError


def test_the_paper_s_annealing() -> None:
    annealing = RandomnessAnnealing()
    steps = (0, 125_000, 156_250, 171_875, 187_500, 250_000)
    assert [annealing.at(step, 250_000) for step in steps] == [1.0, 1.0, 0.5, 0.25, 0.0, 0.0]


def test_annealing_in_steps() -> None:
    annealing = RandomnessAnnealing(start=10, end=20, unit="steps")
    assert [annealing.at(step, 999) for step in (0, 10, 15, 20, 500)] == [1.0, 1.0, 0.5, 0.0, 0.0]


def test_a_sudden_end() -> None:
    annealing = RandomnessAnnealing(start=0.5, end=0.5)
    assert [annealing.at(step, 10) for step in (4, 5, 6)] == [1.0, 0.0, 0.0]
    assert RandomnessAnnealing(start=0, end=0).at(0, 0) == 0.0


@pytest.mark.parametrize(
    "options",
    [{"start": 0.8}, {"end": 2}, {"start": -1}, {"unit": "epochs"}, {"end": float("nan")}],
)
def test_impossible_annealing(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="give|legal"):
        RandomnessAnnealing(**options)


@given(st.integers(1, 5), st.integers(1, 9), st.floats(0, 1), st.integers(0, 99))
def test_orders_are_permutations_and_can_be_undone(
    batch: int, length: int, ratio: float, seed: int
) -> None:
    torch.manual_seed(seed)
    orders = random_orders(batch, length, ratio)
    check_orders(orders, batch, length)
    x = torch.randn(batch, length, 2)
    assert torch.equal(restored(permuted(x, orders), orders), x)
    assert torch.equal(permuted(x, orders)[:, 0], x[torch.arange(batch), orders[:, 0]])


def test_the_share_of_random_orders() -> None:
    torch.manual_seed(0)
    raster = torch.arange(12)
    for ratio in (0.0, 0.3, 1.0):
        orders = random_orders(4000, 12, ratio)
        assert abs((orders != raster).any(1).float().mean() - ratio) < 0.03
    with pytest.raises(ConfigError, match="from 0 to 1"):
        random_orders(1, 4, 1.5)


@pytest.mark.parametrize(
    "orders", [torch.tensor([[0, 1, 1]]), torch.tensor([[0, 1]]), torch.tensor([[0.0, 1.0, 2.0]])]
)
def test_what_is_no_order(orders: torch.Tensor) -> None:
    with pytest.raises(TokenError, match="each of 0 to 2 once"):
        check_orders(orders, 1, 3)
