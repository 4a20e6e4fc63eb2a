"""Dimension-wise quantization: tables, round trips, ties, clipping, settings."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tok_core.dimension_wise import DimensionWiseQuantizer
from tok_core.dimension_wise_config import DimensionWiseConfig
from tok_core.errors import ConfigError, TesseraError
from tok_core.gaussian_levels import MOST_BITS, gaussian_levels, gaussian_table
from tok_core.gaussian_posterior import GaussianPosterior

BITS = st.integers(1, 8)
VALUES = st.floats(-30, 30, width=32)


def quantizer(**changes: Any) -> DimensionWiseQuantizer:
    return DimensionWiseQuantizer(DimensionWiseConfig(**changes))


# -- tables --------------------------------------------------------------------------------------


def test_levels_are_the_means_of_equal_shares() -> None:
    table = gaussian_table(3, 3.0)
    x = torch.randn(400_000, generator=torch.Generator().manual_seed(0)).clamp(-3, 3)
    inside = torch.bucketize(x, table.boundaries[1:-1])
    assert torch.bincount(inside).float().std() / len(x) < 1e-3
    means = torch.stack([x[inside == i].mean() for i in range(8)])
    # The truncated mean knows nothing of what the clamp heaps up at the ends.
    assert torch.allclose(means[1:-1], table.centroids[1:-1], atol=6e-3)
    assert table.empty == 0 and table.boundaries[0] == -3


@pytest.mark.parametrize("bits, empty", [(9, 0), (10, 2), (11, 4), (12, 10)])
def test_bins_without_values_are_refused_or_dropped(bits: int, empty: int) -> None:
    table = gaussian_table(bits, 3.0)
    assert table.empty == empty == int((table.centroids == 0).sum())
    if empty:
        with pytest.raises(ConfigError, match=f"{empty} of {1 << bits} levels.*'drop'"):
            quantizer(bits=bits)
    kept = quantizer(bits=bits, empty_bins="drop")
    assert kept.num_levels == (1 << bits) - empty
    assert bool((kept.levels.diff() > 0).all()) and kept.levels.abs().max() < 3


def test_the_finest_tables_still_rise() -> None:
    for bits in range(1, MOST_BITS + 1):
        for std_range in (2.0, 3.0, 6.0):
            levels = gaussian_levels(bits, std_range, True)
            assert bool((levels.diff() > 0).all()) and levels.dtype == torch.float32
            assert (levels + levels.flip(0)).abs().max() < 1e-3


def test_tables_survive_inference_mode_and_foreign_devices() -> None:
    with torch.inference_mode(), torch.device("meta"):
        levels = gaussian_levels(5, 2.5)
    assert not levels.is_inference() and levels.device.type == "cpu"
    x = torch.randn(4, requires_grad=True)
    (x * quantizer(bits=5, std_range=2.5).values[:4]).sum().backward()
    assert x.grad is not None


def test_error_and_entropy_on_a_standard_normal_are_the_known_ones() -> None:
    x = torch.randn(200_000, generator=torch.Generator().manual_seed(1))
    for bits, error, entropy in ((3, 4.04e-2, 2.70), (4, 1.03e-2, 3.72), (6, 6.58e-4, 5.72)):
        made = quantizer(bits=bits)
        codes = made.encode(x)
        assert float((made.lookup(codes) - x).square().mean()) == pytest.approx(error, rel=0.02)
        share = torch.bincount(codes).double() / len(x)
        found = float(-(torch.special.xlogy(share, share)).sum()) / math.log(2)
        assert found == pytest.approx(entropy, abs=0.01)


# -- properties ----------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(BITS, st.floats(0.5, 6), st.lists(VALUES, min_size=1, max_size=40))
def test_the_nearest_level_wins_and_the_lower_one_of_two(
    bits: int, std_range: float, values: list[float]
) -> None:
    made = quantizer(bits=bits, std_range=std_range, empty_bins="drop")
    levels, r = made.levels, std_range
    x = torch.tensor(values)
    inside = ((x + 5) / 10 * 2 * r - r).clamp(-r, r)
    assert torch.equal(made.encode(x), (inside[:, None] - levels).abs().argmin(1))


@settings(max_examples=30, deadline=None)
@given(BITS, st.integers(0, 10**6))
def test_midpoints_and_rounded_ties_take_the_lower_level(bits: int, seed: int) -> None:
    made = quantizer(bits=bits, low=-3.0, high=3.0)
    levels = made.levels
    middle = (levels[1:] + levels[:-1]) / 2
    noise = torch.randn(len(middle), generator=torch.Generator().manual_seed(seed)) * 1e-7
    for x in (middle, middle + noise):
        inside = ((x + 3) / 6 * 2 * 3.0 - 3.0).clamp(-3, 3)
        assert torch.equal(made.encode(x), (inside[:, None] - levels).abs().argmin(1))
    assert int(quantizer(bits=1).encode(torch.zeros(1))) == 0


@settings(max_examples=60, deadline=None)
@given(BITS, st.floats(0.1, 20), st.floats(-5, 5), st.booleans())
def test_codes_and_values_are_a_round_trip(
    bits: int, width: float, low: float, drop: bool
) -> None:
    made = quantizer(
        bits=bits, low=low, high=low + width, empty_bins="drop" if drop else "refuse"
    )
    codes = torch.arange(made.num_levels).expand(2, 3, -1)
    values = made.lookup(codes)
    assert torch.equal(made.encode(values), codes)
    assert bool((values >= low - 1e-5).all()) and bool((values <= low + width + 1e-5).all())


@settings(max_examples=40, deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=30))
def test_clipping_is_counted_and_goes_to_the_ends(values: list[float]) -> None:
    made, x = quantizer(bits=4, low=-2.0, high=3.0), torch.tensor(values)
    outside = made.outside(x)
    assert int(outside.sum()) == sum(v < -2 or v > 3 for v in values)
    codes = made.encode(x)
    assert bool((codes[x > 3] == 15).all()) and bool((codes[x < -2] == 0).all())
    step = float(made.values.diff().max())
    assert bool(((made.lookup(codes) - x.clamp(-2, 3)).abs() <= max(step, 1.0)).all())


def test_values_that_are_not_numbers_give_legal_codes() -> None:
    codes = quantizer().encode(torch.tensor([float("nan"), float("inf"), -float("inf")]))
    assert codes.tolist()[1:] == [63, 0] and 0 <= int(codes[0]) < 64


# -- scale ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 7)], ids=["pictures", "sound"])
@pytest.mark.parametrize(
    "factors",
    [{}, {"scale": 0.5}, {"scale": 2.0, "shift": -1.0},
     {"scale": (1.0, 2.0, 4.0), "shift": (0.0, 1.0, -1.0)}, {"shift": (0.5, 0.0, 0.0)}],
)  # fmt: skip
def test_normalising_is_undone(shape: tuple[int, ...], factors: dict[str, Any]) -> None:
    made, z = quantizer(**factors), torch.randn(shape)
    x = made.normalise(z)
    assert torch.allclose(made.restore(x), z, atol=1e-6)
    channel = 1
    scale, shift = factors.get("scale", 1.0), factors.get("shift", 0.0)
    scale = scale[channel] if isinstance(scale, tuple) else scale
    shift = shift[channel] if isinstance(shift, tuple) else shift
    assert torch.allclose(x[:, channel], (z[:, channel] - shift) * scale)
    assert made.normalise(z.bfloat16()).dtype == torch.float32


# -- settings ------------------------------------------------------------------------------------


def test_settings_survive_json_and_files(tmp_path: Path) -> None:
    config = DimensionWiseConfig(
        bits=5, scale=(0.1, 0.2), shift=(0.0, 1.0), low=-4.0, channel_order=(1, 0)
    )
    assert DimensionWiseConfig.from_json(config.to_json()) == config
    config.save(tmp_path / "a.json")
    assert DimensionWiseConfig.load(tmp_path / "a.json") == config
    with pytest.raises(TesseraError, match="a.json"):
        config.save(tmp_path / "a.json")
    (tmp_path / "b.json").write_text('{"bitz": 3}')
    with pytest.raises(ConfigError, match="bitz.*did you mean 'bits'"):
        DimensionWiseConfig.load(tmp_path / "b.json")
    (tmp_path / "b.json").write_text("[1")
    with pytest.raises(ConfigError, match="cannot read"):
        DimensionWiseConfig.load(tmp_path / "b.json")
    with pytest.raises(ConfigError, match="cannot read"):
        DimensionWiseConfig.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"bits": 0}, "bits is 0; give 1 to 16"),
        ({"bits": 2.5}, "bits is 2.5"),
        ({"bits": True}, "bits is True"),
        ({"std_range": 0.0}, "std_range is 0.0"),
        ({"std_range": float("nan")}, "std_range is nan"),
        ({"std_range": 0.5}, "raise std_range"),
        ({"low": 5.0}, "clip range"),
        ({"high": float("inf")}, "clip range"),
        ({"scale": -1.0}, "above 0"),
        ({"scale": "wide"}, "give a number"),
        ({"scale": ()}, "give a number"),
        ({"shift": (0.0, None)}, "give a number"),
        ({"channel_order": (0, 2)}, "every number from 0 to 1 once"),
        ({"channel_order": "abc"}, "every number from 0 to D - 1"),
        ({"channel_order": (0, True)}, "every number"),
        ({"empty_bins": "ignore"}, "refuse and drop"),
    ],
)
def test_illegal_settings_are_one_sentence(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        DimensionWiseConfig(**changes)
    assert str(caught.value).count("\n") == 0


def test_sizes_of_another_autoencoder_are_refused() -> None:
    DimensionWiseConfig(scale=(1.0, 2.0), channel_order=tuple(range(8))).check_sizes(2, 8)
    with pytest.raises(ConfigError, match="scale has 2 numbers.*3 channels"):
        DimensionWiseConfig(scale=(1.0, 2.0)).check_sizes(3, 3)
    with pytest.raises(ConfigError, match="2 entries.*belongs to another one"):
        DimensionWiseConfig(channel_order=(1, 0)).check_sizes(4, 4)


# -- the posterior -------------------------------------------------------------------------------


def test_the_posterior_splits_clamps_draws_and_diverges() -> None:
    moments = torch.cat([torch.full((2, 3, 5), 0.5), torch.full((2, 3, 5), 100.0)], 1)
    posterior = GaussianPosterior.of(moments.bfloat16(), axis=1)
    assert posterior.mean.shape == (2, 3, 5) and float(posterior.log_variance.max()) == 20
    standard = GaussianPosterior(torch.zeros(4, 6), torch.zeros(4, 6))
    assert torch.equal(standard.kl(), torch.zeros(4))
    noise = torch.randn(4, 6)
    assert torch.equal(standard.sample(noise), noise)
    drawn = [standard.sample(generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    shifted = GaussianPosterior(torch.full((1, 2), 3.0), torch.zeros(1, 2))
    assert float(shifted.kl()) == pytest.approx(9.0)
