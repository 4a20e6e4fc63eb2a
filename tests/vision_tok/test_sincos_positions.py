"""Sine and cosine positions: neighbours alike, far cells not, and where a tower puts them."""

from __future__ import annotations

import pytest
import torch

from vision_tok.sincos_positions import sincos_positions
from vision_tok.vision_tower import TowerSizes, VisionTower


@pytest.mark.parametrize(("grid", "width"), [(8, 128), (16, 768), (3, 10)])
def test_likeness_falls_with_distance(grid: int, width: int) -> None:
    table = sincos_positions(grid, width)
    assert table.shape == (grid * grid, width)
    first_row = table[:grid]
    likeness = first_row @ first_row[0]
    assert bool((likeness[:-1] - likeness[1:])[: grid // 2].gt(0).all())
    # Rows and columns are told apart, but alike in kind.
    columns = table.view(grid, grid, width)[:, 0]
    torch.testing.assert_close(columns @ columns[0], likeness)
    assert torch.unique(table.round(decimals=4), dim=0).shape[0] == grid * grid


def test_a_tower_starts_from_them() -> None:
    sizes = TowerSizes(
        patch_size=4, grid=4, width=32, layers=1, heads=2, mlp_width=32, class_token=True
    )
    tower = VisionTower(sizes, position_start="sincos")
    assert torch.equal(tower.position_table[1:], sincos_positions(4, 32))
    assert not torch.equal(VisionTower(sizes).position_table[1:], sincos_positions(4, 32))


def test_one_cell() -> None:
    assert bool(sincos_positions(1, 8).isfinite().all())
