"""Calibration against whole-data statistics, the frequency order, bounded memory, bad input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tok_core.dimension_calibration import LatentStatistics, calibrate
from tok_core.dimension_wise_config import DimensionWiseConfig
from tok_core.errors import ConfigError, MediaError
from tok_core.frequency_order import FrequencyPower

WIDTHS = torch.tensor([1.0, 0.1, 3.0, 20.0])
MEANS = torch.tensor([0.0, 0.3, -2.0, 5.0])


def latents(batch: int, *sizes: int, seed: int = 0) -> Tensor:
    ones = [1] * len(sizes)
    noise = torch.randn(batch, 4, *sizes, generator=torch.Generator().manual_seed(seed))
    return noise * WIDTHS.view(1, 4, *ones) + MEANS.view(1, 4, *ones)


def rows(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.transpose(0, 1).flatten(1) for part in parts], 1).double()


PARTS = {
    "pictures": [latents(3, 9, 12, seed=1), latents(1, 40, 31, seed=2), latents(5, 4, 4, seed=3)],
    "sound": [latents(3, 100, seed=1), latents(1, 777, seed=2)],
}


@pytest.mark.parametrize("sense", PARTS)
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("centre", [False, True])
def test_statistics_are_those_of_all_data(sense: str, per_channel: bool, centre: bool) -> None:
    parts = PARTS[sense]
    config = calibrate(lambda x: x, parts, per_channel=per_channel, centre=centre, bits=5)
    whole = rows(parts) if per_channel else rows(parts).reshape(1, -1)
    scale, shift = (torch.tensor(v).double().reshape(-1, 1) for v in (config.scale, config.shift))
    assert torch.allclose(scale[:, 0], 1 / whole.std(1, correction=0), rtol=1e-6)
    expected = whole.mean(1, keepdim=True) if centre else torch.zeros(1, 1).double()
    assert torch.allclose(shift.expand_as(expected), expected, atol=1e-6)
    size = ((rows(parts) - shift) * scale).abs().flatten()
    exact = float(size.quantile(0.9999, interpolation="higher"))
    assert exact <= config.high <= exact * 1.01 and config.low == -config.high
    assert config.bits == 5 and isinstance(config.scale, tuple) is per_channel
    assert DimensionWiseConfig.from_json(config.to_json()) == config


def test_batches_do_not_matter() -> None:
    whole = latents(12, 8, 8)
    settings: dict[str, Any] = {"per_channel": True}
    at_once = calibrate(lambda x: x, [whole], **settings)
    one_by_one = calibrate(lambda x: x, whole.split(1), **settings)
    assert at_once.channel_order == one_by_one.channel_order
    for name in ("scale", "shift", "high"):
        a, b = (torch.tensor(getattr(c, name)) for c in (at_once, one_by_one))
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)


def test_memory_does_not_grow_with_the_data() -> None:
    statistics = LatentStatistics()

    def held() -> int:
        found = [v for v in vars(statistics).values() if isinstance(v, Tensor)]
        found += [v for v in vars(statistics.power).values() if isinstance(v, Tensor)]
        return sum(t.numel() * t.element_size() for t in found)

    statistics.add(latents(1, 4, 4))
    first = held()
    for seed in range(5):
        statistics.add(latents(4, 16, 16, seed=seed))
    assert held() == first <= 4 * 1.1e6 and statistics.count == 16 + 5 * 4 * 256


def test_extreme_scales_are_measured_as_well() -> None:
    for factor in (1e-6, 1e6):
        config = calibrate(lambda x, f=factor: x * f, [latents(4, 16, 16)])
        plain = calibrate(lambda x: x, [latents(4, 16, 16)])
        assert float(config.scale) * factor == pytest.approx(float(plain.scale), rel=1e-5)
        assert config.high == pytest.approx(plain.high, rel=0.01)


# -- the order -----------------------------------------------------------------------------------


def smooth(steps: int, *sizes: int) -> Tensor:
    """Noise averaged over neighbours ``steps`` times along every axis; (2, 1, ...)."""
    z = torch.randn(2, 1, *sizes, generator=torch.Generator().manual_seed(steps))
    for _ in range(steps):
        for axis in range(2, z.dim()):
            z = (z + z.roll(1, axis)) / 2
    return z


def order_of(z: torch.Tensor) -> tuple[int, ...]:
    power = FrequencyPower()
    power.add(z)
    return power.order()


@pytest.mark.parametrize("sizes", [(16, 24), (64,)], ids=["pictures", "sound"])
def test_smooth_dimensions_come_first(sizes: tuple[int, ...]) -> None:
    smoothness = [1, 8, 0, 3]
    z = torch.cat([smooth(steps, *sizes) for steps in smoothness], 1)
    assert order_of(z) == (1, 3, 0, 2)
    scaled = z * torch.tensor([5.0, 0.1, 30.0, 1.0]).view(1, 4, *[1] * len(sizes)) + 7
    assert order_of(scaled) == (1, 3, 0, 2)


def test_single_tones_are_low_up_to_a_quarter() -> None:
    time = torch.arange(32.0)
    for cycles, low in ((4, 1.0), (8, 1.0), (9, 0.0), (16, 0.0)):
        power = FrequencyPower()
        power.add(torch.cos(2 * torch.pi * cycles / 32 * time)[None, None])
        assert float(power.ratio) == pytest.approx(low, abs=1e-6)
    # In the plane the radius counts: 6/32 along both axes is beyond a quarter.
    wave = torch.cos(2 * torch.pi * 6 / 32 * (time[:, None] + time))
    power = FrequencyPower()
    power.add(wave[None, None])
    assert float(power.ratio) == pytest.approx(0.0, abs=1e-6)


def test_constant_and_equal_dimensions_keep_their_place() -> None:
    same = smooth(2, 8, 8)
    z = torch.cat([torch.ones_like(same), same, same], 1)
    assert order_of(z) == (1, 2, 0)
    assert order_of(torch.randn(2, 3, 1, 1)) == (0, 1, 2)


def test_packed_positions_are_ordered_by_their_own_dimensions() -> None:
    z = latents(2, 9, 12)
    statistics = LatentStatistics(patch_size=2)
    statistics.add(z)
    packed = torch.nn.functional.pixel_unshuffle(z[:, :, :8], 2)
    assert statistics.power.order() == order_of(packed)
    assert len(statistics.config().channel_order or ()) == 16 and statistics.count == 2 * 9 * 12


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data, settings, kind, words",
    [
        ([], {}, MediaError, "no latents came in"),
        ([latents(1, 4, 4)[0]], {"percentile": 0}, ConfigError, "percentile is 0"),
        ([torch.zeros(4)], {}, MediaError, "shape"),
        ([torch.zeros(1, 2, 0, 4)], {}, MediaError, "shape"),
        ([torch.full((1, 2, 4, 4), float("nan"))], {}, MediaError, "not finite"),
        ([torch.ones(1, 2, 4, 4)], {}, MediaError, "never vary"),
        ([torch.randn(2, 1, 4, 4) * torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)],
         {"per_channel": True}, MediaError, "channel 1 never vary"),
        ([latents(1, 4, 4), torch.randn(1, 3, 4, 4)], {}, MediaError, "3 channels came after"),
        ([(latents(1, 4, 4), 3)], {}, MediaError, "a batch is a tuple"),
        ([latents(1, 3, 3)], {"patch_size": 4}, MediaError, "no patch of 4 x 4"),
        ([latents(1, 4, 4)], {"bits": 40}, ConfigError, "bits is 40"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_one_sentence(
    data: list[Any], settings: dict[str, Any], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        calibrate(lambda x: x, data, **settings)


def test_only_what_gives_latents_is_calibrated() -> None:
    with pytest.raises(ConfigError, match="a str came in to calibrate"):
        calibrate("some/vae", [latents(1, 4, 4)])
