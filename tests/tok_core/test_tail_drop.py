"""Tail drop's draws."""

from __future__ import annotations

import pytest
import torch

from tok_core.errors import ConfigError
from tok_core.tail_drop import DRAWS, TailDrop, prefix_mask


def test_the_official_draw_uses_the_generator_once() -> None:
    torch.manual_seed(7)
    expected = [int(torch.randint(1, 257, (1,))) for _ in range(20)]
    drop = TailDrop(256)
    torch.manual_seed(7)
    assert [int(drop.draw_lengths(4)[0]) for _ in range(20)] == expected
    torch.manual_seed(7)
    assert [drop.draw_length() for _ in range(20)] == expected


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("n", [1, 2, 16, 256])
def test_every_draw_stays_in_range_and_reaches_both_ends(draw: str, n: int) -> None:
    generator = torch.Generator().manual_seed(0)
    k = TailDrop(n, draw=draw, per_sample=True).draw_lengths(20000, generator)
    assert k.dtype == torch.int64 and int(k.min()) == 1 and int(k.max()) == n


def test_the_draws_have_the_distributions_they_name() -> None:
    def half(draw: str, **options: float) -> float:
        generator = torch.Generator().manual_seed(0)
        drop = TailDrop(256, draw=draw, per_sample=True, **options)  # type: ignore[arg-type]
        return float((drop.draw_lengths(40000, generator) <= 16).float().mean())

    assert half("uniform") == pytest.approx(16 / 256, abs=0.01)
    assert half("power", power=2.0) == pytest.approx((16 / 256) ** 0.5, abs=0.01)
    # floor(257 ** u) <= 16 when u < log(17) / log(257)
    assert half("log_uniform") == pytest.approx(0.5106, abs=0.01)


def test_a_probability_keeps_all_tokens_otherwise() -> None:
    generator = torch.Generator().manual_seed(0)
    drop = TailDrop(1000, probability=0.5)
    full = [int(drop.draw_lengths(2, generator)[0]) == 1000 for _ in range(2000)]
    assert sum(full) / 2000 == pytest.approx(0.5, abs=0.05)
    assert TailDrop(8, probability=0.0).draw_lengths(3).tolist() == [8, 8, 8]


def test_masks_are_prefixes() -> None:
    mask = prefix_mask(torch.tensor([1, 3]), 3)
    assert mask.tolist() == [[True, False, False], [True, True, True]]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"draw": "uniforn"}, "uniform"),
        ({"probability": -0.1}, "0 to 1"),
        ({"power": 0.0}, "power"),
    ],
)
def test_bad_options_are_one_sentence(options: dict, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        TailDrop(8, **options)
    with pytest.raises(ConfigError):
        TailDrop(0)
