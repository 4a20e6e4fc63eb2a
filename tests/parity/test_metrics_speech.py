"""PESQ, STOI, SI-SDR, SDR and spectral distances of degraded speech against other software."""

from __future__ import annotations

import re
from functools import cache

import pytest
import soundfile
import torch
from torch import Tensor

from eval import spectral_distance, speech_quality
from eval.sound_metric import SoundMetric, build_at
from eval.speech_quality import PESQ
from tests.parity.vectors import config_of, parity_folder, tensors_of
from tok_core.audio_measures import _package
from tok_core.mel import MelSpectrogram
from tok_core.resample import resample

FOLDER = parity_folder("metrics/speech", holds="config.json")

IO, CONFIG = tensors_of(FOLDER), config_of(FOLDER)
SCORES: dict[str, dict[str, float]] = CONFIG.get("scores", {})
ENTRIES = {e.name: e for e in (*speech_quality.ENTRIES, *spectral_distance.ENTRIES)}
AFTER = re.compile(r"(.+)_after_resample_to_(\d+)k")
# Key of the vectors: our metric, absolute tolerance, the package it needs.
MEASURES = {
    "pesq_wb": ("pesq/wb", 1e-4, "pesq"), "pesq_nb": ("pesq/nb", 1e-4, "pesq"),
    "stoi": ("stoi", 1e-5, "pystoi"), "estoi": ("estoi", 1e-5, "pystoi"),
    "si_sdr_db": ("si_sdr/torchmetrics", 1e-3, ""), "si_sdr_zero_mean_db": ("si_sdr", 1e-3, ""),
    "snr_db": ("snr", 1e-3, ""), "sdr_bss_eval_512_db": ("sdr", 1e-3, ""),
}  # fmt: skip
DISTANCES = {
    "mel_default_150x2048_80x512_log10sq_plus_lin": "mel_distance/dac",
    "mel_training_7_scales": "mel_distance/dac-training",
    "stft_default_2048_512": "stft_distance/dac",
    "l1_of_natural_log_clipped_1e-7": "mel_distance",
}


def measure_of(key: str) -> str:
    match = AFTER.fullmatch(key)
    return match[1] if match else key


# A missing package leaves its scores out, as a missing file would.
CASES = [
    (name, key)
    for name, scores in SCORES.items()
    for key in scores
    if measure_of(key) in MEASURES
    and (not MEASURES[measure_of(key)][2] or _package(MEASURES[measure_of(key)][2]) is not None)
]
SPECTRAL = [
    (section, kind, key)
    for section in CONFIG
    if section.startswith(("mel_distance_", "distance_"))
    for kind, values in CONFIG[section].items()
    for key in values
    if key in DISTANCES
]
RESAMPLED = [key for key in IO if re.fullmatch(r"resample\.\d+_to_\d+", key)]


@cache
def sound(name: str) -> tuple[Tensor, int]:
    samples, rate = soundfile.read(FOLDER / f"{name}.wav", dtype="float64")
    return torch.from_numpy(samples)[None], rate


def pair(name: str) -> tuple[Tensor, Tensor, int]:
    """Return the degraded sound, its reference and their rate; ``_self`` is the reference twice."""
    user, rate_word, kind = name.split("_", 2)
    reference, rate = sound(f"{user}_{rate_word}_ref")
    test, _ = sound(f"{user}_{rate_word}_{'ref' if kind == 'self' else kind}")
    length = min(test.shape[1], reference.shape[1])
    return test[:, :length], reference[:, :length], rate


def built(name: str, rate: int) -> SoundMetric:
    if name == "pesq/nb" and rate == 8000:  # legal, but the entry is the one at 16 kHz
        return PESQ("nb", rate)
    return build_at(ENTRIES[name], rate)


def test_every_kind_is_there() -> None:
    assert CASES and SPECTRAL and RESAMPLED


@pytest.mark.parametrize(("name", "key"), CASES)
def test_score(name: str, key: str) -> None:
    test, reference, rate = pair(name)
    match = AFTER.fullmatch(key)
    wanted = int(match[2]) * 1000 if match else rate
    metric_name, tolerance, _ = MEASURES[measure_of(key)]
    metric = built(metric_name, wanted)
    metric.update(*(resample(x, rate, wanted) for x in (test, reference)))
    assert float(metric.compute()) == pytest.approx(SCORES[name][key], abs=tolerance)


@pytest.mark.parametrize(("section", "kind", "key"), SPECTRAL)
def test_spectral_distance(section: str, kind: str, key: str) -> None:
    rate_word = re.search(r"_(\d+k)_", section)
    user = next(iter(CONFIG["utterances"]))
    assert rate_word
    test, reference, rate = pair(f"{user}_{rate_word[1]}_{kind}")
    metric = built(DISTANCES[key], rate)
    metric.update(test, reference)
    assert float(metric.compute()) == pytest.approx(CONFIG[section][kind][key], rel=1e-4)


@pytest.mark.parametrize("key", RESAMPLED)
def test_resampler(key: str) -> None:
    rates = [int(rate) for rate in key.removeprefix("resample.").split("_to_")]
    source = next(k for k in IO if k.startswith("resample.input"))
    ours = resample(IO[source].float(), *rates)
    assert ours.shape == IO[key].shape
    assert float((ours - IO[key]).abs().max()) <= 1e-5


@pytest.mark.parametrize("key", [k for k in IO if k.startswith("mel_vocos.reference_first_")])
def test_mel_frames(key: str) -> None:
    user = next(iter(CONFIG["utterances"]))
    x, rate = sound(f"{user}_24k_ref")
    expected = IO[key]
    ours = MelSpectrogram(rate, 1024, 256, len(expected))(x.float())[0, :, : expected.shape[1]]
    assert float((ours - expected).abs().max()) <= 1e-4


@pytest.mark.parametrize("name", [name for name in ENTRIES if name in ("pesq/wb", "stoi")])
def test_edges_are_failures_with_a_reason(name: str) -> None:
    """What the libraries raise, warn of, or return as a code never becomes a number of ours."""
    if any(_package(package) is None for package in ENTRIES[name].packages):
        return
    reference, rate = sound(next(f"{n.rsplit('_', 1)[0]}_ref" for n in SCORES if "_16k_" in n))
    silence, short = torch.zeros_like(reference), reference[:, : rate // 5]
    metric = built(name, rate)
    for test, original in ((reference, silence), (silence, silence), (short, short)):
        metric.update(test, original)
    values, codes, _ = metric.collected()
    assert bool(values.isnan().all()) and bool((codes > 0).all())
    assert all(metric.reason(int(code)) for code in codes)
