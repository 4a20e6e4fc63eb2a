"""Scale lists: parsed, checked, cut and stretched."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tok_core.errors import ConfigError, TokenError
from tok_core.scales import Scales, fitting_scales


def test_sides_and_pairs_are_read() -> None:
    scales = Scales.parse([1, [2, 3], (4, 6)], grid=(4, 6))
    assert scales.sizes == ((1, 1), (2, 3), (4, 6)) and scales.grid == (4, 6)
    assert scales.lengths == (1, 6, 24) and scales.offsets == (0, 1, 7, 31)
    assert scales.num_tokens == 31 and len(scales) == 3


@pytest.mark.parametrize(
    ("values", "grid", "sentence"),
    [
        ([], None, "is empty"),
        ([1, 0], None, "each at least 1"),
        ([1, True], None, "holds True"),
        ([1, 2.0], None, r"holds 2\.0"),
        ([1, "33"], None, "holds 33"),
        ([1, [2, 3, 4]], None, "a pair of rows and columns"),
        ([2, 1], None, "1x1 follows 2x2"),
        ([[1, 4], [2, 3]], None, "2x3 follows 1x4"),
        ([1, 2, 4], (6, 6), "ends in 4x4 but the latent's grid is 6x6"),
        ([1, 2, 4], (4, 6), "ends in 4x4 but the latent's grid is 4x6"),
    ],
)
def test_illegal_lists_are_one_sentence(values: Any, grid: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Scales.parse(values, grid)


def test_a_prefix_is_whole_scales() -> None:
    scales = Scales.parse([1, 2, 3])
    assert [scales.prefix(n) for n in (1, 5, 14)] == [1, 2, 3]
    for length in (0, 2, 13, 15):
        with pytest.raises(TokenError, match=f"{length} tokens came in; .* 1, 5, 14 tokens"):
            scales.prefix(length)
    assert scales.upto(5, None) == 2 and scales.upto(5, 1) == 1
    for wanted in (0, 3):
        with pytest.raises(TokenError, match="from 1 to 2"):
            scales.upto(5, wanted)


def test_codes_are_cut_row_by_row() -> None:
    scales = Scales.parse([1, (2, 3)])
    maps = scales.split(torch.arange(14).view(2, 7))
    assert maps[0].tolist() == [[[0]], [[7]]]
    assert maps[1][1].tolist() == [[8, 9, 10], [11, 12, 13]]
    assert len(scales.split(torch.zeros(2, 1))) == 1
    with pytest.raises(TokenError, match=r"\(batch, tokens\)"):
        scales.split(torch.zeros(2, 1, 7))


@settings(max_examples=100, deadline=None)
@given(
    sides=st.lists(st.integers(1, 40), min_size=1, max_size=8).map(sorted),
    grid=st.tuples(st.integers(1, 60), st.integers(1, 60)),
)
def test_a_stretched_list_is_a_legal_list(sides: list[int], grid: tuple[int, int]) -> None:
    scales = Scales.parse(sides)
    stretched = scales.for_grid(grid)
    assert len(stretched) == len(scales)
    assert Scales.parse(stretched.sizes, grid) == stretched
    assert scales.for_grid(scales.grid) is scales


def test_a_list_of_its_own_goes_before_stretching() -> None:
    native, wide = Scales.parse([1, 2, 4]), Scales.parse([1, (3, 5), (4, 8)])
    assert fitting_scales([native, wide], (4, 8)) is wide
    assert fitting_scales([native, wide], (8, 8)).sizes == ((2, 2), (4, 4), (8, 8))
    with pytest.raises(ConfigError, match="0x4 came in"):
        native.for_grid((0, 4))
