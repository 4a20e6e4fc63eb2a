"""CREPE, decoding, loudness and the three scores against the reference software."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import soundfile
import torch
from torch import Tensor

from eval.crepe import CrepeNetwork, crepe_frames
from eval.pitch import PeriodicityError, PitchRMSE, VoicingF1, voicing_counts
from eval.pitch_decoding import (
    PitchTrack,
    a_weighting,
    bin_hz,
    loudness,
    viterbi_bins,
    voiced_track,
)
from tests.parity.vectors import config_of, parity_folder, tensors_of

FOLDER = parity_folder("metrics/pitch", holds="io.safetensors")

IO, CONFIG = tensors_of(FOLDER), config_of(FOLDER)
SETTINGS: dict[str, Any] = CONFIG.get("settings", {})
RESULTS: dict[str, Any] = CONFIG.get("results", {})
ENDING = ".probabilities_Tx360"
TRACKS = sorted(key.removesuffix(ENDING) for key in IO if key.endswith(ENDING))
WAVES = {
    name: FOLDER.parent / "speech" / "{}_16k_{}.wav".format(*name.split(".")) for name in TRACKS
}
HEARD = [name for name in TRACKS if WAVES[name].is_file() and f"{name}.loudness_db" in IO]
LOW, HIGH = SETTINGS.get("fmin_hz", 50), SETTINGS.get("fmax_hz", 550)
# Results of a degraded file whose own track and whose original's are both stored.
PAIRS = [
    (f"{user}.ref", f"{user}.{kind}", f"{user}_{kind}")
    for user, kind in (name.split(".") for name in TRACKS)
    if kind != "ref" and f"{user}.ref" in TRACKS and f"{user}_{kind}" in RESULTS
]


@cache
def network() -> CrepeNetwork:
    return CrepeNetwork.from_state(tensors_of(FOLDER, "weights"))


@cache
def path(name: str) -> Tensor:
    return viterbi_bins(IO[name + ENDING], LOW, HIGH)


@cache
def stored_track(name: str) -> PitchTrack:
    """Our decoding of the stored probabilities; loudness as stored."""
    strength = IO[name + ENDING].gather(1, path(name)[:, None])[:, 0]
    return voiced_track(
        bin_hz(path(name)), strength, IO[f"{name}.loudness_db"].view(-1),
        silence=SETTINGS.get("silence_threshold_db", -60),
        unvoiced=SETTINGS.get("unvoiced_threshold", 0.21),
    )  # fmt: skip


def test_every_kind_is_there() -> None:
    assert TRACKS and HEARD and PAIRS
    assert "crepe.probabilities" in IO


# -- network -------------------------------------------------------------------------------------


def test_frames() -> None:
    wave = IO["crepe.wave"].view(-1)
    for key in [key for key in IO if key.startswith("crepe.frames_")]:
        ours = crepe_frames(wave, pad="padded" in key, hop=SETTINGS.get("hop", 160))
        chosen = [int(word) for word in key.split("_") if word.isdigit()]
        first = ours[: chosen[0]] if chosen else ours
        ours = torch.cat([first, ours[-1:]]) if key.endswith("_and_last") else first
        assert float((ours - IO[key]).abs().max()) <= 1e-5, key
    for name, pad in (("frames_without_padding", False), ("frames_with_padding", True)):
        if name in RESULTS:
            assert len(crepe_frames(wave, pad=pad)) == RESULTS[name]


def test_probabilities() -> None:
    ours = network()(crepe_frames(IO["crepe.wave"].view(-1)))
    assert float((ours - IO["crepe.probabilities"]).abs().max()) <= 1e-5


@pytest.mark.parametrize("key", [k for k in IO if k.startswith("crepe.embedding_first_")])
def test_embedding(key: str) -> None:
    """The stage before the last layer, as torchcrepe's embedding is."""
    expected = IO[key].squeeze(-1)
    ours = network().embedding(crepe_frames(IO["crepe.wave"].view(-1))[: len(expected)], 5)
    assert float((ours - expected).abs().max()) <= 1e-5 * max(1.0, float(expected.abs().max()))


# -- decoding ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRACKS)
def test_pitch(name: str) -> None:
    key = f"{name}.pitch_hz_viterbi_no_dither"
    if key in IO:
        expected = IO[key].view(-1)
        assert float((1200 * (bin_hz(path(name)) / expected).log2()).abs().max()) < 0.01
    if f"{name}.periodicity_raw" in IO:
        strength = IO[name + ENDING].gather(1, path(name)[:, None])[:, 0]
        assert torch.equal(strength, IO[f"{name}.periodicity_raw"].view(-1))


@pytest.mark.parametrize("name", HEARD)
def test_loudness(name: str) -> None:
    sound, rate = soundfile.read(WAVES[name], dtype="float32")
    ours = loudness(torch.from_numpy(sound), rate)
    assert float((ours - IO[f"{name}.loudness_db"].view(-1)).abs().max()) <= 1e-3


@pytest.mark.parametrize("key", [key for key in IO if key.startswith("a_weighting_db_")])
def test_a_weighting(key: str) -> None:
    count = len(IO[key])
    hz = torch.arange(count).double() * SETTINGS.get("sample_rate", 16_000) / 2 / (count - 1)
    assert float((a_weighting(hz) - IO[key]).abs().max()) <= 1e-4


@pytest.mark.parametrize("name", HEARD)
def test_voicing(name: str) -> None:
    ours = stored_track(name)
    if f"{name}.periodicity_after_silence" in IO:
        expected = IO[f"{name}.periodicity_after_silence"].view(-1)
        assert torch.equal(ours.periodicity, expected)
    if f"{name}.pitch_hz_thresholded" in IO:
        assert torch.equal(ours.voiced, ~IO[f"{name}.pitch_hz_thresholded"].view(-1).isnan())
    stored = RESULTS.get(name.replace(".", "_"), {})
    if "voiced_frames" in stored:
        assert (len(ours.hz), int(ours.voiced.sum())) == (stored["frames"], stored["voiced_frames"])


# -- scores --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("original", "degraded", "result"), PAIRS)
def test_scores(original: str, degraded: str, result: str) -> None:
    expected = RESULTS[result]
    test, reference = stored_track(degraded), stored_track(original)
    counts = voicing_counts(test, reference)
    assert list(counts) == [expected[key] for key in ("tp", "fp", "fn", "tn")]
    for metric, key in (
        (VoicingF1("yin"), "vuv_f1"), (PeriodicityError("yin"), "periodicity_rmse"),
        (PitchRMSE("yin"), "pitch_rmse_cents_no_dither"),
    ):  # fmt: skip
        value = metric.compare(test, reference).value
        assert value == pytest.approx(expected[key], rel=1e-4), key
