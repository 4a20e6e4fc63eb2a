"""Rates: formulas by hand, pooled and mean, what is left out, state."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.rates import (
    ENTRIES,
    RateMeter,
    nominal_bits,
    nominal_kbps,
    nominal_token_rate,
)
from tok_core.errors import ConfigError
from tok_core.token_spec import Axis, TokenSpec


def codec(levels: int, rate: float, codes: int) -> TokenSpec:
    axes = (Axis(name="level", size=levels), Axis(name="time"))
    return TokenSpec(modality="audio", axes=axes, vocabulary=(codes,) * levels, token_rate=rate)


PICTURES = TokenSpec(
    modality="image", axes=(Axis(name="token", size=256, minimum=1),), vocabulary=(4096,)
)


@pytest.mark.parametrize(
    ("levels", "rate", "codes", "in_use", "kbps"),
    [
        (1, 75.0, 4096, None, 0.9),  # WavTokenizer-75
        (1, 40.0, 4096, None, 0.48),
        (8, 75.0, 1024, None, 6.0),  # EnCodec at 24 kHz
        (32, 75.0, 1024, 2, 1.5),
        (8, 12.5, 2048, None, 1.1),  # Mimi
    ],
)
def test_nominal_rates(
    levels: int, rate: float, codes: int, in_use: int | None, kbps: float
) -> None:
    spec = codec(levels, rate, codes)
    assert nominal_kbps(spec, in_use) == pytest.approx(kbps)
    assert nominal_token_rate(spec, in_use) == rate * (in_use or levels)


def test_codebooks_of_different_size_and_no_power_of_two() -> None:
    axes = (Axis(name="level", size=2), Axis(name="time"))
    spec = TokenSpec(modality="audio", axes=axes, vocabulary=(1000, 64), token_rate=50.0)
    assert nominal_kbps(spec) == pytest.approx(50 * (math.log2(1000) + 6) / 1000)


def test_bits_of_pictures() -> None:
    assert nominal_bits(PICTURES, 256) == 3072
    assert nominal_bits(PICTURES, 32, variable=True) == 32 * 12 + 8


def test_pooled_and_mean() -> None:
    meter = RateMeter()
    meter.update(100, pixels=100, tokens=10)
    meter.update([300, 200], pixels=[1000, 400], tokens=torch.tensor([20, 30]))
    found = {key: float(value) for key, value in meter.compute().items()}
    assert found == {
        "items": 3, "bytes": 200, "tokens": 20,
        "bpp": pytest.approx(8 * 600 / 1500),
        "bpp/per_item": pytest.approx((8 + 2.4 + 4) / 3),
        "compression_ratio": pytest.approx(1500 * 3 / 600),
    }  # fmt: skip


def test_sounds() -> None:
    meter = RateMeter(sample_rate=16000)
    meter.update([900, 450], seconds=[8.0, 2.0], tokens=[600, 150])
    found = {key: float(value) for key, value in meter.compute().items()}
    assert found == {
        "items": 2, "bytes": 675, "tokens": 375, "token_rate": 75,
        "kbps": pytest.approx(1350 * 8 / 10 / 1000),
        "kbps/per_item": pytest.approx((0.9 + 1.8) / 2),
        "compression_ratio": pytest.approx(160000 * 2 / 1350),
    }  # fmt: skip
    without = RateMeter()
    without.update(900, seconds=8.0)
    assert without.compute().keys() == {"items", "bytes", "kbps", "kbps/per_item"}


def test_tokens_of_some_items_alone_are_no_mean() -> None:
    meter = RateMeter()
    meter.update(100, pixels=100, tokens=10)
    meter.update(100, pixels=100)
    assert "tokens" not in meter.compute()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 10**7)), min_size=1, max_size=8))
def test_one_by_one_is_all_at_once(items: list[tuple[int, int]]) -> None:
    singly, at_once = RateMeter(), RateMeter()
    for size, pixels in items:
        singly.update(size, pixels=pixels)
    at_once.update([s for s, _ in items], pixels=[p for _, p in items])
    a, b = singly.compute(), at_once.compute()
    assert all(float(a[key]) == pytest.approx(float(b[key]), rel=1e-12) for key in b)
    pooled = float(b["bpp"])
    each = [8 * size / pixels for size, pixels in items]
    assert min(each) * (1 - 1e-12) <= pooled <= max(each) * (1 + 1e-12)


def test_state_comes_back() -> None:
    meter, resumed = RateMeter(), RateMeter()
    meter.update(100, pixels=64, tokens=4)
    resumed.load_state_dict(meter.state_dict())
    for one in (meter, resumed):
        one.update(50, pixels=32, tokens=2)
    assert meter.compute() == resumed.compute()


def test_wrong_use_is_told() -> None:
    meter = RateMeter()
    with pytest.raises(ConfigError, match="pixels or seconds"):
        meter.update(10)
    with pytest.raises(ConfigError, match="pixels or seconds"):
        meter.update(10, pixels=1, seconds=1.0)
    with pytest.raises(ConfigError, match="2 and 1 numbers"):
        meter.update([10, 20], pixels=[5])
    with pytest.raises(ConfigError, match="more than 0"):
        meter.update(10, pixels=0)
    meter.update(10, pixels=5)
    with pytest.raises(ConfigError, match="one meter for each"):
        meter.update(10, seconds=1.0)
    with pytest.raises(ConfigError, match="audio tokenizer"):
        nominal_kbps(PICTURES)
    with pytest.raises(ConfigError, match="1 to 8"):
        nominal_kbps(codec(8, 75.0, 1024), 9)
    with pytest.raises(ConfigError, match="known most"):
        nominal_bits(codec(1, 75.0, 1024), 10, variable=True)


def test_the_entry_builds() -> None:
    meter = ENTRIES[0].build(**ENTRIES[0].options)
    meter.update(384, pixels=256 * 256, tokens=256)
    assert meter.compute().keys() <= set(ENTRIES[0].values)
