"""The hybrid network: cells, seeds, prefixes."""

from __future__ import annotations

import pytest
import torch

from vision_tok.grid_seed import bit_reversed_cells, cells_of_tokens, parent_cells
from vision_tok.hybrid_decoder import HybridDecoder
from vision_tok.hybrid_encoder import HybridEncoder

SIZES = {
    "image_size": 16, "channels": (16, 16), "width": 32, "layers": 1, "heads": 2, "num_tokens": 64,
}  # fmt: skip


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 2), (8, 8), (3, 5), (7, 2)])
def test_bit_reversed_order_visits_every_cell_once(rows: int, columns: int) -> None:
    assert sorted(bit_reversed_cells(rows, columns)) == list(range(rows * columns))


def test_prefixes_of_the_order_cover_the_picture_evenly() -> None:
    order = bit_reversed_cells(16, 16)
    for level, blocks in ((1, 2), (2, 4), (3, 8)):
        prefix = order[: 4**level]
        side = 16 // blocks
        hit = {(cell // 16 // side, cell % 16 // side) for cell in prefix}
        assert len(hit) == blocks**2  # one token per block of every dyadic division


def test_tokens_beyond_the_grid_start_over_and_parents_hold_four_cells() -> None:
    cells = cells_of_tokens(20, 4, 4)
    assert cells[16:] == cells[:4]
    parents = parent_cells(cells[:16], 4)
    assert [parents.count(p) for p in range(4)] == [4, 4, 4, 4]
    assert parent_cells([0, 1, 4, 5, 10], 4) == [0, 0, 0, 0, 3]


def test_a_kept_mask_equals_slicing() -> None:
    torch.manual_seed(0)
    decoder = HybridDecoder(**SIZES, token_size=4)
    z_q = torch.randn(3, 64, 4)
    lengths = torch.tensor([1, 17, 64])
    keep = torch.arange(64) < lengths[:, None]
    together = decoder(z_q, keep)
    for item, length in enumerate(lengths.tolist()):
        alone = decoder(z_q[item : item + 1, :length])
        assert torch.allclose(together[item], alone[0], atol=1e-5)


def test_latents_start_at_their_own_cells() -> None:
    torch.manual_seed(0)
    encoder = HybridEncoder(**SIZES, out_channels=4)
    image = torch.randn(1, 3, 16, 16, requires_grad=True)
    fine = encoder.stem(image)[1].index_select(1, encoder.cells)
    cell = int(encoder.cells[5])
    (gradient,) = torch.autograd.grad(fine[0, 5].sum(), image)
    seen = gradient.abs().sum((0, 1))
    row, column = divmod(cell, 8)
    assert seen[2 * row : 2 * row + 2, 2 * column : 2 * column + 2].min() > 0
    assert encoder(image).shape == (1, 64, 4)
