"""SI-SDR by its definition; STOI and PESQ fall with noise and say None where they cannot tell."""

from __future__ import annotations

import math

import pytest
import torch

from tok_core import audio_measures
from tok_core.audio_measures import pesq_wb, si_sdr, stoi
from tok_core.errors import ConfigError
from tok_core.procedural_speech import RATE, held_out_utterances, speak
from tok_core.resample import resample


@pytest.fixture(scope="module")
def speech() -> torch.Tensor:
    return torch.from_numpy(speak(held_out_utterances()[0]).copy())[None]


def test_si_sdr_is_the_level_of_independent_noise() -> None:
    t = torch.arange(24000) / 24000
    x = torch.sin(2 * math.pi * 100 * t)
    noise = torch.sin(2 * math.pi * 300 * t)
    for decibels in (-5.0, 0.0, 20.0):
        y = x + 10 ** (-decibels / 20) * noise
        assert si_sdr(x, y) == pytest.approx(decibels, abs=0.01)
        assert si_sdr(x, 0.3 * y + 0.1) == pytest.approx(decibels, abs=0.01)
    assert si_sdr(x, -x.double()) > 100  # a scaled copy
    assert si_sdr(x, torch.zeros(24000)) == -math.inf == si_sdr(torch.zeros(24000), x)
    with pytest.raises(ValueError, match="24000 and 5"):
        si_sdr(x, x[:5])


@pytest.mark.parametrize(("measure", "module", "best"), [(stoi, "pystoi", 1.0),
                                                         (pesq_wb, "pesq", 4.64)])
def test_speech_measures_fall_with_noise(
    measure: object, module: str, best: float, speech: torch.Tensor
) -> None:
    pytest.importorskip(module)
    noise = torch.randn(speech.shape, generator=torch.Generator().manual_seed(0))
    values = [measure(speech, speech + level * noise, RATE) for level in (0.0, 0.01, 0.1)]
    assert values[0] == pytest.approx(best, abs=0.02)
    assert values[0] > values[1] > values[2]


@pytest.mark.parametrize("measure", [stoi, pesq_wb])
def test_no_score_without_speech_or_package(
    measure: object, speech: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert measure(torch.zeros(1, 48000), torch.zeros(1, 48000), RATE) is None
    assert measure(speech[:, :100], speech[:, :100], RATE) is None
    monkeypatch.setattr(audio_measures, "_package", lambda name: None)
    assert measure(speech, speech, RATE) is None


def test_resample_keeps_a_tone_and_its_length() -> None:
    t = torch.arange(22050) / 22050
    y = resample(torch.sin(2 * math.pi * 440 * t)[None], 22050, 24000)
    assert y.shape == (1, 24000)
    expected = torch.sin(2 * math.pi * 440 * torch.arange(24000) / 24000)
    assert (y[0] - expected)[200:-200].abs().max() < 2e-3
    assert resample(y, 24000, 24000) is y
    assert resample(torch.zeros(1, 0), 8000, 24000).shape == (1, 0)
    with pytest.raises(ConfigError, match="0 Hz"):
        resample(y, 0, 24000)
