"""PSNR, SSIM, MS-SSIM and MSE as metrics: properties, failures, state, two processes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics.image import PeakSignalNoiseRatio

from eval.image_quality import ENTRIES, MSE, PSNR, SSIM, MultiScaleSSIM, PooledPSNR
from tok_core.errors import ConfigError, MediaError
from tok_core.image_measures import psnr


def images(count: int = 3, height: int = 24, width: int = 32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, height, width), generator=generator).to(torch.uint8)


def noisy(x: Tensor, step: int = 9, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randint(-step, step + 1, x.shape, generator=generator)
    return (x.long() + noise).clamp(0, 255).to(torch.uint8)


@settings(max_examples=8, deadline=None)
@given(height=st.integers(11, 40), width=st.integers(11, 40), seed=st.integers(0, 99))
def test_identical_pictures(height: int, width: int, seed: int) -> None:
    x = images(2, height, width, seed)
    for entry in ENTRIES:
        metric = entry.build(**entry.options)
        metric.update(x, x)
        value = float(metric.compute())
        if entry.name in ("psnr", "psnr/llamagen"):
            assert metric.infinite == 2
            assert math.isnan(value)
        elif entry.name == "psnr/pyiqa":
            assert value == pytest.approx(80)
        elif entry.name == "psnr/pooled":
            assert value == math.inf
        elif entry.name == "mse":
            assert value == 0
        elif entry.name == "ms_ssim":
            assert metric.collected()[1].tolist() == [1, 1]
            assert "176" in metric.reason(1)
        else:
            assert value == pytest.approx(1, abs=1e-9), entry.name


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 99))
def test_bounds_and_order(seed: int) -> None:
    """More noise is never better, and no similarity is above 1."""
    x = images(2, seed=seed)
    for entry in ENTRIES:
        values = []
        for step in (3, 60):
            metric = entry.build(**entry.options)
            metric.update(noisy(x, step, seed), x)
            values.append(float(metric.compute()))
        if entry.name != "ms_ssim":
            better, worse = values if entry.higher_is_better else reversed(values)
            assert better > worse, entry.name
        if entry.name.startswith("ssim"):
            assert max(values) <= 1


def test_values_of_each_picture_by_index() -> None:
    x, y = images(5), noisy(images(5))
    metric = PSNR()
    metric.update(y[[3, 1]], x[[3, 1]], indices=[3, 1])
    metric.update(y[[0, 4, 2]], x[[0, 4, 2]], indices=torch.tensor([0, 4, 2]))
    values, codes, indices = metric.collected()
    assert torch.equal(values, psnr(y, x))
    assert indices.tolist() == [0, 1, 2, 3, 4]
    assert not bool(codes.any())


def test_infinite_pictures_are_counted_and_left_out() -> None:
    x = images(3)
    y = noisy(x)
    y[1] = x[1]
    metric = PSNR()
    metric.update(y, x)
    assert metric.infinite == 1
    assert float(metric.compute()) == pytest.approx(float(psnr(y[[0, 2]], x[[0, 2]]).mean()))


def test_pooled_is_torchmetrics_own_and_below_the_mean() -> None:
    x = images(4)
    y = torch.cat([noisy(x[:2], 3), noisy(x[2:], 40)])
    ours, theirs, mean = PooledPSNR(), PeakSignalNoiseRatio(data_range=255.0), PSNR()
    for part in (slice(0, 1), slice(1, 4)):
        for metric in (ours, theirs, mean):
            a, b = (z[part] if metric is not theirs else z[part].float() for z in (y, x))
            metric.update(a, b)
    assert float(ours.compute()) == pytest.approx(float(theirs.compute()), abs=1e-4)
    assert float(ours.compute()) < float(mean.compute()) - 1


def test_batches_do_not_matter() -> None:
    for metric in (SSIM, MSE, MultiScaleSSIM, PSNR, PooledPSNR):
        count, height, width = (2, 176, 177) if metric is MultiScaleSSIM else (4, 20, 30)
        x, y = images(count, height, width), noisy(images(count, height, width))
        whole, parts = metric(), metric()
        whole.update(y, x)
        for part in (slice(0, 1), slice(1, None)):
            parts.update(y[part], x[part])
        torch.testing.assert_close(whole.compute(), parts.compute(), rtol=1e-12, atol=0)


def test_small_pictures_fail_with_a_reason_and_take_no_part() -> None:
    small, large = images(2, 6, 30), images(1)
    metric = SSIM("skimage")
    metric.update(noisy(small), small)
    assert metric.reason(int(metric.collected()[1][0])) == "a side is smaller than the window"
    metric.update(large, large)
    assert float(metric.compute()) == pytest.approx(1)
    at_the_edge = SSIM("torchmetrics")
    at_the_edge.update(noisy(small), small)
    assert math.isfinite(at_the_edge.compute())
    too_small = SSIM("luma")
    too_small.update(small[..., :5], small[..., :5])
    assert math.isnan(too_small.compute())


def test_flat_pictures_have_no_own_range() -> None:
    flat = torch.full((2, 3, 16, 16), 7, dtype=torch.uint8)
    metric = SSIM("torchmetrics-own-range")
    metric.update(flat, flat)
    assert metric.collected()[1].tolist() == [-1, -1]


def test_floats_go_through_the_byte_rule() -> None:
    x, y = images(2), noisy(images(2))
    for entry in ENTRIES:
        a, b = entry.build(**entry.options), entry.build(**entry.options)
        a.update(y, x)
        b.update(y.float() / 127.5 - 1, x.float() / 127.5 - 1)
        torch.testing.assert_close(a.compute(), b.compute(), rtol=1e-6, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", [entry.name for entry in ENTRIES])
def test_state_comes_back(name: str) -> None:
    entry = next(one for one in ENTRIES if one.name == name)
    side = 176 if name == "ms_ssim" else 12
    x, y = images(2, side, side), noisy(images(2, side, side))
    metric, resumed = entry.build(**entry.options), entry.build(**entry.options)
    metric.update(y[:1], x[:1])
    resumed.load_state_dict(metric.state_dict())
    for one in (metric, resumed):
        one.update(y[1:], x[1:])
    assert torch.equal(metric.compute(), resumed.compute())


def test_wrong_use_is_told() -> None:
    with pytest.raises(ConfigError, match="did you mean 'skimage'"):
        SSIM("skimages")
    with pytest.raises(ConfigError, match="bytes, llamagen, pyiqa"):
        PSNR("unit")
    for entry in ENTRIES:
        with pytest.raises(MediaError, match="cannot be"):
            entry.build(**entry.options).update(images(2), images(2, 24, 31))


def test_entries_say_what_they_are() -> None:
    names = [entry.name for entry in ENTRIES]
    assert len(set(names)) == len(names)
    for entry in ENTRIES:
        assert entry.build(**entry.options).higher_is_better == entry.higher_is_better
        assert (entry.sense, entry.kind) == ("image", "paired")
