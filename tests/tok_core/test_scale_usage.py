"""Usage per scale, running averages of hits, and the window of recent codes."""

from __future__ import annotations

import torch

from tok_core.codebook_usage import codebook_statistics
from tok_core.scale_usage import AverageHits, RecentCodes, scale_statistics


def test_every_scale_has_its_own_figures() -> None:
    coarse, fine = torch.tensor([[3], [3]]), torch.tensor([[0, 1, 2, 3], [0, 0, 0, 0]])
    found = scale_statistics([coarse, fine], 8)
    assert found["codebook/counts"].tolist() == [[0, 0, 0, 2, *[0] * 4], [5, 1, 1, 1, *[0] * 4]]
    assert found["codebook/usage/scale0"] == 1 / 8 and found["codebook/usage/scale1"] == 4 / 8
    assert found["codebook/perplexity/scale0"] == 1
    whole = codebook_statistics(torch.cat((coarse, fine), 1), 8)
    for name in ("codebook/usage", "codebook/perplexity"):
        assert found[name] == whole[name]


def test_one_scale_looks_like_an_ordinary_codebook() -> None:
    codes = torch.randint(16, (3, 5))
    found, plain = scale_statistics([codes], 16), codebook_statistics(codes, 16)
    assert found.keys() == plain.keys()
    for name, value in plain.items():
        assert torch.equal(found[name], value)


def test_average_hits_copy_then_decay() -> None:
    average, counts = AverageHits(2, 4), torch.tensor([[8, 0, 0, 0], [2, 2, 2, 2]])
    average.update(counts)
    assert torch.equal(average.hits, counts.float())
    average.update(counts * 0)
    torch.testing.assert_close(average.hits, 0.9 * counts)
    average.updates.fill_(100)
    average.update(counts * 0)
    torch.testing.assert_close(average.hits, 0.9 * 0.99 * counts)


def test_a_code_counts_from_the_margin_on() -> None:
    average = AverageHits(2, 4)
    # 100 cells over 4 codes: 0.08 * 25 = 2 hits.
    average.hits.copy_(torch.tensor([[2.0, 1.9, 0, 98], [2, 2, 2, 2]]))
    assert average.usage(100).tolist() == [0.5, 1.0]


def test_the_window_forgets_the_oldest() -> None:
    recent = RecentCodes(5)
    recent.push([torch.tensor([[1], [2]]), torch.tensor([[-1, 3], [-1, 4]])])
    assert recent.codes.tolist() == [0, 1, 2, 3, 4]
    assert recent.usage(10) == 0.5
    recent.push([torch.arange(5, 12)])  # more than it holds
    assert recent.codes.tolist() == [7, 8, 9, 10, 11]
    assert "codes" in recent.state_dict()
