"""Training sounds: shapes, levels, reading of segments, skipping of bad files, fixed validation."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from audio_tok.audio_data import AudioDataConfig, open_audio
from audio_tok.audio_sources import normalise_peak, read_segment
from audio_tok.held_out_speech import HeldOutSpeech
from tok_core.errors import ConfigError, MediaError
from tok_core.training.data_order import batches


def _tone(seconds: float, rate: int, pitch: float = 300.0) -> np.ndarray:
    return 0.4 * np.sin(2 * math.pi * pitch * np.arange(int(seconds * rate)) / rate)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three good files of several rates and one that is no sound."""
    soundfile.write(tmp_path / "a.wav", _tone(2.0, 24000), 24000)
    stereo = np.stack([_tone(1.5, 44100), np.zeros(int(1.5 * 44100))], axis=1)
    (tmp_path / "deep").mkdir()
    soundfile.write(tmp_path / "deep" / "b.flac", stereo, 44100)
    soundfile.write(tmp_path / "c.ogg", _tone(0.2, 16000), 16000)
    (tmp_path / "notes.txt").write_text("no sound\n")
    (tmp_path / "broken.wav").write_bytes(b"RIFF not a sound")
    return tmp_path


def test_a_folder_gives_levelled_segments_and_skips_what_is_broken(folder: Path) -> None:
    source = open_audio(AudioDataConfig(path=str(folder), segment=12000))
    stream = batches(source, seed=0, start=0, batch_size=8)
    skipped: list[str] = []
    peaks = []
    for _ in range(4):
        batch = next(stream)
        assert batch.samples.shape == (8, 1, 12000) and batch.samples.dtype == torch.float32
        peaks += [20 * math.log10(float(x.abs().max())) for x in batch.samples]
        skipped += batch.skipped
    assert -6.01 <= min(peaks) < max(peaks) <= -0.99 and max(peaks) - min(peaks) > 1.0
    assert skipped and all("broken.wav" in sentence for sentence in skipped)


def test_items_depend_on_config_and_index_alone(folder: Path) -> None:
    (folder / "broken.wav").unlink()
    config = AudioDataConfig(path=str(folder), segment=4000)
    one, two = open_audio(config), open_audio(config)
    forward = [one.item(i) for i in range(9)]
    backward = [two.item(i) for i in reversed(range(9))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(forward, backward, strict=True))
    other = open_audio(AudioDataConfig(path=str(folder), segment=4000, seed=1))
    assert any(not torch.equal(other.item(i), forward[i]) for i in range(9))


def test_a_list_names_files_beside_it(folder: Path) -> None:
    names = folder / "list.txt"
    names.write_text(f"a.wav\n\n{folder / 'deep' / 'b.flac'}\nmissing.wav\n")
    source = open_audio(AudioDataConfig(path=str(names), segment=1000))
    seen = {"good": 0, "bad": 0}
    for index in range(12):
        try:
            assert source.item(index).shape == (1, 1000)
            seen["good"] += 1
        except MediaError as error:
            assert "missing.wav" in str(error)
            seen["bad"] += 1
    assert seen == {"good": 8, "bad": 4}


@pytest.mark.parametrize("at", [0.0, 0.3, 0.77, 0.999999])
@pytest.mark.parametrize("there", [24000, 44100, 8000])
def test_a_segment_equals_the_same_part_of_the_whole_file(
    at: float, there: int, tmp_path: Path
) -> None:
    from tok_core.resample import resample

    generator = np.random.default_rng(0)
    sound = np.convolve(generator.standard_normal(3 * there), np.hanning(32), "same")
    sound *= 0.5 / np.abs(sound).max()
    soundfile.write(tmp_path / "x.wav", sound, there, subtype="FLOAT")
    part = read_segment(tmp_path / "x.wav", 12000, 24000, at)[0]
    whole = resample(torch.from_numpy(sound).float(), there, 24000)
    start = round(int(at * (len(sound) - 12000 * there // 24000 + 1)) * 24000 / there)
    # The segment begins at a sample of the file, which may lie between two of the whole.
    errors = [
        float((part[50:-50] - whole[start + shift + 50 : start + shift + 11950]).abs().max())
        for shift in (-1, 0, 1) if 0 <= start + shift <= len(whole) - 11950
    ]
    assert min(errors) < (1e-6 if there == 24000 else 0.12)


def test_channels_are_averaged_and_short_files_repeated(tmp_path: Path) -> None:
    left = _tone(0.1, 24000)
    soundfile.write(tmp_path / "s.wav", np.stack([left, 0.5 * left], axis=1), 24000, "FLOAT")
    sound = read_segment(tmp_path / "s.wav", 6000, 24000, 0.9)
    expected = np.resize(0.75 * left, 6000)
    assert np.allclose(sound[0].numpy(), expected, atol=1e-6)


def test_only_the_segment_of_a_long_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soundfile.write(tmp_path / "long.wav", np.zeros(24000 * 60), 24000)
    asked: list[int] = []
    real = soundfile.SoundFile.read

    def read(self: soundfile.SoundFile, frames: int = -1, **options: object) -> np.ndarray:
        asked.append(frames)
        return real(self, frames, **options)

    monkeypatch.setattr(soundfile.SoundFile, "read", read)
    read_segment(tmp_path / "long.wav", 24000, 24000, 0.5)
    assert len(asked) == 1 and 24000 <= asked[0] < 26000


@pytest.mark.parametrize(
    ("content", "word"), [("nan", "NaN"), ("empty", "no samples"), ("text", "cannot be read")]
)
def test_bad_files_are_one_sentence(content: str, word: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.wav"
    if content == "text":
        path.write_text("hello")
    else:
        samples = np.array([0.0, np.nan] * 50) if content == "nan" else np.zeros(0)
        soundfile.write(path, samples, 24000, subtype="FLOAT")
    with pytest.raises(MediaError, match=word) as caught:
        read_segment(path, 100, 24000, 0.0)
    assert "bad.wav" in str(caught.value) and "\n" not in str(caught.value)


def test_peak_levels() -> None:
    assert float(normalise_peak(torch.tensor([[0.1, -0.2]]), -6.0).abs().max()) == pytest.approx(
        0.5012, abs=1e-3
    )
    assert not normalise_peak(torch.zeros(1, 5), -1.0).any()


@pytest.mark.parametrize("source", ["speech", "music", "noise", "mixed"])
@pytest.mark.parametrize("rate", [24000, 16000])
def test_synthetic_sources(source: str, rate: int) -> None:
    config = AudioDataConfig(source=source, segment=8001, sample_rate=rate)
    training, validation = open_audio(config), open_audio(config, validation=True)
    for index in range(3):
        for sounds in (training, validation):
            x = sounds.item(index)
            assert x.shape == (1, 8001) and float(x.abs().max()) <= 0.9
        assert float(validation.item(index).abs().max()) > 0.05
    assert not torch.equal(training.item(0), validation.item(0))


def test_a_mixture_takes_its_shares(folder: Path) -> None:
    (folder / "broken.wav").unlink()
    mixture = {"folder": 3.0, "noise": 1.0}
    config = AudioDataConfig(source="mixture", mixture=mixture, path=str(folder), segment=500)
    source = open_audio(config)
    parts = [source._part(i) for i in range(400)]  # type: ignore[attr-defined]
    share = sum(part is source.parts["folder"] for part in parts) / 400  # type: ignore[attr-defined]
    assert 0.68 < share < 0.82 and source.item(3).shape == (1, 500)
    speech = AudioDataConfig(source="mixture", mixture={"speech": 2, "noise": 1}, segment=500)
    assert isinstance(open_audio(speech, validation=True), HeldOutSpeech)


def test_validation_of_files_is_their_beginnings(folder: Path) -> None:
    (folder / "broken.wav").unlink()
    source = open_audio(AudioDataConfig(path=str(folder), segment=1000), validation=True)
    assert source.length == 3
    peaks = [float(source.item(i).abs().max()) for i in range(3)]
    assert peaks == pytest.approx([10 ** (-3 / 20)] * 3, abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"source": "speach"}, "did you mean 'speech'"),
        ({"source": "auto"}, "--data"),
        ({"path": "/no/such"}, "/no/such"),
        ({"source": "speech", "segment": 0}, "at least 1 sample"),
        ({"source": "speech", "segment": 10**8}, "60 seconds"),
        ({"source": "speech", "sample_rate": 5}, "100 to"),
        ({"source": "speech", "peak_decibels": (0.0, 3.0)}, "-60 to 0"),
        ({"source": "mixture"}, "mixture is empty"),
        ({"source": "mixture", "mixture": {"auto": 1.0}}, "instead of 'auto'"),
    ],
)
def test_mistakes_are_one_sentence(arguments: dict, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        open_audio(AudioDataConfig(**arguments))


def test_folders_without_sound_and_single_files_are_refused(folder: Path) -> None:
    (folder / "none").mkdir()
    for path, word in ((folder / "none", "holds no sound"), (folder / "a.wav", "its folder")):
        with pytest.raises(ConfigError, match=word):
            open_audio(AudioDataConfig(path=str(path)))
