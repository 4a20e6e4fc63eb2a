"""Spectral distances by their formulas, and the mel filters below them."""

from __future__ import annotations

import math

import pytest
import torch

from eval.sound_metric import build_at
from eval.spectral_distance import ENTRIES, MelDistance, MultiResolutionSTFT, WindowedDistance
from tests.eval.tiny_sound_networks import noise, tone
from tok_core.errors import ConfigError
from tok_core.mel import MelSpectrogram, mel_bands

RATE = 16_000
BY_NAME = {entry.name: entry for entry in ENTRIES}


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_a_copy_is_at_distance_zero_and_gain_is_heard(name: str) -> None:
    x = (tone(200) + noise(8000, level=0.01))[None]
    values = []
    for gain in (1.0, 0.9, 0.5, 0.0):
        metric = build_at(BY_NAME[name], RATE)
        metric.update(gain * x, x)
        values.append(float(metric.compute()))
    assert values[0] == 0.0
    assert values == sorted(values)


def test_the_log_of_a_gain() -> None:
    """Where nothing is floored, a gain moves every logarithm by its own."""
    x = noise(16_000, level=0.3)[None]
    natural = MelDistance(RATE)
    natural.update(0.5 * x, x)
    assert float(natural.compute()) == pytest.approx(math.log(2), rel=1e-4)
    windowed = WindowedDistance(RATE, windows=(512,), bands=(20,), linear=0.0)
    windowed.update(0.5 * x, x)
    assert float(windowed.compute()) == pytest.approx(2 * math.log10(2), rel=1e-4)
    both = WindowedDistance(RATE, windows=(512,), linear=1.0)
    both.update(0.5 * x, x)
    spectrum = torch.stft(
        x, 512, 128, window=torch.hann_window(512), pad_mode="reflect", return_complex=True
    )
    expected = 2 * math.log10(2) + 0.5 * float(spectrum.abs().mean())
    assert float(both.compute()) == pytest.approx(expected, rel=1e-3)
    resolution = MultiResolutionSTFT(RATE)
    resolution.update(0.5 * x, x)
    assert float(resolution.compute()) == pytest.approx(0.5 + math.log(2), rel=1e-2)


def test_slaney_bands() -> None:
    bands = mel_bands(24_000, 2048, 80, "slaney")
    assert bands.shape == (1025, 80)
    # Every triangle has area one over frequency in Hz, as far as bins can tell.
    area = bands.sum(0) * 24_000 / 2048
    assert float((area[20:] - 1).abs().max()) < 0.05
    assert not torch.allclose(bands, mel_bands(24_000, 2048, 80))
    # 15 mels of 200 / 3 Hz up to 1 kHz: equal steps there.
    peaks = bands.argmax(0)[:10].diff().float()
    assert float(peaks.max() - peaks.min()) <= 1
    with pytest.raises(ConfigError, match="'bark'"):
        MelSpectrogram(24_000, 1024, 256, 80, "bark")


def test_any_rate_and_wrong_settings() -> None:
    for rate in (8000, 24_000, 44_100):
        for entry in ENTRIES:
            metric = build_at(entry, rate)
            metric.update(noise(3000)[None], noise(3000, 1)[None])
            assert metric.sample_rate == rate and float(metric.compute()) > 0
    with pytest.raises(ConfigError, match="one number of bands for each"):
        WindowedDistance(RATE, windows=(512, 64), bands=(20,))
