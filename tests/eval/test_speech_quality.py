"""PESQ, STOI, SI-SDR, SDR, SNR and spectral distances as metrics: order, failures, shapes."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eval import spectral_distance, speech_quality
from eval.metric_entry import MetricEntry
from eval.sound_metric import SoundMetric, build_at, sound_batches
from eval.speech_quality import PESQ, SDR, SISDR, SNR, STOI
from tests.eval.tiny_sound_networks import noise, tone
from tok_core import audio_measures
from tok_core.audio_measures import NOT_FINITE, REASONS, TOO_SHORT
from tok_core.errors import ConfigError, MediaError
from tok_core.procedural_speech import RATE, held_out_utterances, speak
from tok_core.resample import resample

ENTRIES = [*speech_quality.ENTRIES, *spectral_distance.ENTRIES]
# Whatever a machine lacks is left to the tests of missing packages.
USABLE = [
    entry for entry in ENTRIES
    if all(audio_measures._package(name) is not None for name in entry.packages)
]  # fmt: skip
by_entry = pytest.mark.parametrize("entry", USABLE, ids=lambda entry: entry.name)


@pytest.fixture(scope="module")
def speech() -> torch.Tensor:
    sound = torch.from_numpy(speak(held_out_utterances()[0]).copy())[None]
    return resample(sound, RATE, 16_000)[:, :32_000]


def measured(entry: MetricEntry, *sounds: torch.Tensor) -> SoundMetric:
    metric = build_at(entry, 16_000)
    metric.update(*sounds)
    return metric


@by_entry
def test_the_decoded_sound_comes_first(entry: MetricEntry, speech: torch.Tensor) -> None:
    """Noise on the decoded one is worse than less noise, and not the same as on the original."""
    values = []
    for level in (0.003, 0.03):
        metric = measured(entry, speech + noise(speech.shape[1], level=level), speech)
        values.append(float(metric.compute()))
    assert (values[0] > values[1]) == entry.higher_is_better
    assert metric.higher_is_better == entry.higher_is_better
    assert metric.collected()[1].tolist() == [0]


@by_entry
def test_sounds_without_a_number_are_counted_and_left_out(
    entry: MetricEntry, speech: torch.Tensor
) -> None:
    good = speech + noise(speech.shape[1], level=0.01)
    metric = measured(entry, good, speech)
    alone = float(metric.compute())
    metric.update(torch.full_like(speech, math.nan), speech)
    metric.update(good, torch.full_like(speech, math.inf))
    metric.update(torch.zeros(1, 0), torch.zeros(1, 0))
    values, codes, _ = metric.collected()
    assert values[1:].isnan().all() and (codes[1:] > 0).all()
    assert float(metric.compute()) == alone
    reasons = [metric.reason(int(code)) for code in codes]
    assert reasons == ["", REASONS[NOT_FINITE], REASONS[NOT_FINITE], REASONS[TOO_SHORT]]


@by_entry
def test_silence_and_a_single_sample_do_not_stop_a_run(
    entry: MetricEntry, speech: torch.Tensor
) -> None:
    silence = torch.zeros_like(speech)
    metric = build_at(entry, 16_000)
    for test, reference in ((silence, speech), (speech, silence), (silence, silence)):
        metric.update(test, reference)
    metric.update(torch.ones(1, 1), torch.ones(1, 1))
    values, codes, _ = metric.collected()
    assert len(values) == 4
    assert ((codes > 0) == values.isnan()).all()
    if entry in speech_quality.ENTRIES:
        assert (codes[1:3] > 0).all()  # nothing can be a copy of silence


@by_entry
def test_a_batch_is_what_its_sounds_are_alone(entry: MetricEntry, speech: torch.Tensor) -> None:
    test = torch.stack([speech + noise(speech.shape[1], s, 0.01) for s in range(3)])  # (3, 1, T)
    reference = speech[None].expand(3, 1, -1)
    together = measured(entry, test, reference)
    alone = build_at(entry, 16_000)
    for i in (2, 0, 1):  # out of order, in shapes of one sound
        alone.update(test[i, 0], reference[i, 0], indices=[i])
    assert torch.allclose(together.collected()[0], alone.collected()[0], rtol=1e-6)
    again = copy.deepcopy(alone)
    again.reset()
    again.load_state_dict(alone.state_dict())
    assert torch.equal(again.collected()[0], alone.collected()[0])


@by_entry
def test_wrong_sounds_are_refused(entry: MetricEntry) -> None:
    metric = build_at(entry, 16_000)
    with pytest.raises(MediaError, match="shorter"):
        metric.update(torch.zeros(1, 100), torch.zeros(1, 99))
    with pytest.raises(MediaError, match="one first"):
        metric.update(torch.zeros(1, 2, 100), torch.zeros(1, 2, 100))
    with pytest.raises(MediaError, match="floats"):
        metric.update(torch.zeros(1, 100).short(), torch.zeros(1, 100).short())


def test_ratios_by_their_definition() -> None:
    t = torch.arange(16_000) / 16_000
    x = torch.sin(2 * math.pi * 100 * t)[None]
    error = torch.sin(2 * math.pi * 300 * t)[None]
    for decibels in (-5.0, 20.0):
        y = x + 10 ** (-decibels / 20) * error
        for metric in (SNR(16_000), SISDR(16_000), SISDR(16_000, "torchmetrics")):
            metric.update(y, x)
            assert float(metric.compute()) == pytest.approx(decibels, abs=0.01)
    for kind in (SNR, SISDR, SDR):
        perfect = kind(16_000)
        perfect.update(x, x)
        values, codes, _ = perfect.collected()
        assert (values > 200).all() and codes.tolist() == [0]
    finite = SISDR(16_000, convention="torchmetrics")
    finite.update(x, x)
    assert 100 < float(finite.compute()) < 250
    shifted = SISDR(16_000)
    shifted.update(0.3 * (x + 0.1 * error) + 0.2, x)
    assert float(shifted.compute()) == pytest.approx(20, abs=0.01)


def test_sdr_forgives_a_filter_that_snr_does_not() -> None:
    x = noise(16_000)[None]
    late = torch.nn.functional.pad(x, (40, 0))[:, :16_000]
    sdr, snr = SDR(16_000), SNR(16_000)
    for metric in (sdr, snr):
        metric.update(late, x)
    assert float(sdr.compute()) > 20 and float(snr.compute()) < 0


def test_stoi_knows_too_little_from_silent(speech: torch.Tensor) -> None:
    pytest.importorskip("pystoi")
    metric = STOI(16_000)
    metric.update(torch.zeros_like(speech), speech)  # a silent copy is understood as nothing
    metric.update(speech[:, :3200], speech[:, :3200])
    metric.update(speech, torch.zeros_like(speech))
    values, codes, _ = metric.collected()
    assert values[0] == pytest.approx(0, abs=1e-6) and codes[0] == 0
    assert [metric.reason(int(code)) for code in codes[1:]] == [
        REASONS[audio_measures.TOO_LITTLE], REASONS[audio_measures.SILENT_ORIGINAL],
    ]  # fmt: skip


def stand_in(answer: Any) -> SimpleNamespace:
    """Return what the package pesq looks like from outside, with one answer."""

    class PesqError(RuntimeError): ...

    class NoUtterancesError(PesqError): ...

    def pesq(rate: int, reference: Any, test: Any, mode: str) -> float:
        if isinstance(answer, str):
            raise {"none": NoUtterancesError, "other": PesqError, "nan": ValueError}[answer]
        return answer

    return SimpleNamespace(pesq=pesq, PesqError=PesqError, NoUtterancesError=NoUtterancesError)


def test_pesq_errors_are_counted_and_never_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    x = tone(200)
    answers: list[Any] = [3.0, "none", "other", "nan", math.nan, 2.0]
    now = {"answer": answers[0]}
    monkeypatch.setattr(audio_measures, "_package", lambda name: stand_in(now["answer"]))
    metric = PESQ()
    for now["answer"] in answers:
        metric.update(x, x)
    metric.update(torch.zeros_like(x), x)
    metric.update(x[:1000], x[:1000])
    values, codes, _ = metric.collected()
    assert float(metric.compute()) == 2.5
    assert torch.isfinite(values).sum() == 2
    reasons = [metric.reason(int(code)) for code in codes]
    assert "no speech" in reasons[1] and "undefined" in reasons[2] == reasons[3] == reasons[4]
    assert "decoded sound is silent" in reasons[6] and "too short" in reasons[7]


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio_measures, "_package", lambda name: None)
    with pytest.raises(ConfigError, match="pip install pesq"):
        PESQ()
    with pytest.raises(ConfigError, match="pip install pystoi"):
        STOI(16_000)


def test_wrong_settings_are_told() -> None:
    for mode, rate in (("wb", 8000), ("nb", 24_000), ("swb", 16_000)):
        with pytest.raises(ConfigError, match="legal are wb at 16000"):
            PESQ(mode, rate)
    with pytest.raises(ConfigError, match="any rate"):
        SNR()
    with pytest.raises(ConfigError, match="zero-mean"):
        SISDR(16_000, convention="scaled")
    assert {entry.name for entry in ENTRIES} >= {"pesq/wb", "stoi", "mel_distance"}
    assert len({entry.name for entry in ENTRIES}) == len(ENTRIES)


SHORT = [build_at(entry, 8000) for entry in ENTRIES if entry.name in ("snr", "si_sdr", "sdr")]


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(0, 3), samples=st.integers(0, 40), axes=st.sampled_from([2, 3]),
    gain=st.floats(-4, 4),
)  # fmt: skip
def test_any_short_batch_gives_a_number_or_a_reason(
    batch: int, samples: int, axes: int, gain: float
) -> None:
    x = noise(batch * samples).reshape((batch, samples) if axes == 2 else (batch, 1, samples))
    for metric in SHORT:
        metric.reset()
        metric.update(gain * x, x)
        values, codes, _ = metric.collected()
        assert len(values) == batch
        assert ((codes != 0) == values.isnan()).all()
    assert sound_batches(x)[0].shape == (batch, samples)
