"""Sound files to token files and back: lengths, rates, channels, budgets, checks, figures."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_audio import HOP, RATE, make_sound, tiny_codec, write_sound

from audio_tok.audio_codec import AudioCodec, DecodedSound, EncodedSound
from audio_tok.audio_file import read_audio
from audio_tok.chunked import Chunks
from audio_tok.wav_tokenizer import WavTokenizer
from tok_core.errors import ConfigError, MediaError, TokenError
from tok_core.resample import resample
from tok_core.token_file import TokenFile, dumps, loads

soundfile = pytest.importorskip("soundfile")


@pytest.fixture(scope="module")
def model() -> WavTokenizer:
    return tiny_codec()


def encode(codec: AudioCodec, path: Path) -> EncodedSound:
    (encoded,) = codec.encode([codec.read(path)])
    assert isinstance(encoded, EncodedSound)
    codec.check(encoded.file)
    return encoded


def decode(codec: AudioCodec, file: TokenFile) -> DecodedSound:
    (decoded,) = codec.decode([file])
    assert isinstance(decoded, DecodedSound)
    return decoded


@pytest.mark.parametrize("rate", [8000, 11025, 44100, 44101, 48000, 192000])
@pytest.mark.parametrize("samples", [1, 2, 79, 80, 81, 5001])
def test_length_and_rate_come_back(
    model: WavTokenizer, tmp_path: Path, rate: int, samples: int
) -> None:
    codec = AudioCodec(model)
    path = write_sound(tmp_path / "a.wav", samples / rate, rate)
    encoded = encode(codec, path)
    assert (encoded.file.extent, encoded.file.sample_rate) == ((samples,), rate)
    assert codec.write(tmp_path / "b.wav", decode(codec, encoded.file), force=False) > 0
    back = read_audio(tmp_path / "b.wav")
    assert (back.samples.shape, back.rate) == ((1, samples), rate)


def test_the_codes_are_those_of_the_model(model: WavTokenizer, tmp_path: Path) -> None:
    codec = AudioCodec(model)
    path = write_sound(tmp_path / "a.wav", 1.0, 24000, subtype="FLOAT")
    x = resample(torch.from_numpy(make_sound(1.0, 24000)), 24000, RATE)[None]
    expected = model.encode(x)
    file = loads(dumps(encode(codec, path).file))
    assert np.array_equal(file.codes, expected.codes[0].numpy())
    assert file.bits == (5,)
    assert file.fits(model.code_hash())
    sound = decode(codec, file)
    torch.testing.assert_close(
        sound.store.read(0, RATE), model.decode(expected)[0], atol=1e-6, rtol=0
    )


def test_channels(model: WavTokenizer, tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.wav", 0.5, 16000, 2)
    mixed, streams = AudioCodec(model), AudioCodec(model, channels="streams")
    one, two = encode(mixed, path), encode(streams, path)
    assert one.file.codes.shape == (2, 50)
    assert two.file.codes.shape == (2, 2, 50)
    assert one.facts == {
        "notes": ["2 channels: mixed down to one (--channels streams keeps them)"]
    }
    assert two.facts == {}
    each = []
    for channel in range(2):
        single = tmp_path / f"{channel}.wav"
        soundfile.write(single, read_audio(path).samples[channel].numpy(), 16000, subtype="FLOAT")
        each.append(encode(mixed, single).file.codes)
    assert np.array_equal(two.file.codes, np.stack(each))
    # What decodes them needs no option: the shape says how many there are.
    mixed.check(two.file)
    mixed.write(tmp_path / "b.flac", decode(mixed, two.file), force=False)
    assert read_audio(tmp_path / "b.flac").samples.shape == (2, 8000)
    assert mixed.rate(two.file, 100)["channels"] == 2


def test_a_batch_is_what_its_items_are_alone(model: WavTokenizer, tmp_path: Path) -> None:
    codec = AudioCodec(model, channels="streams")
    facts = [(1.0, 8000, 1), (0.3, 8000, 2), (1.0, 16000, 1), (1.0, 8000, 3), (0.3, 8000, 1)]
    sounds = [
        codec.read(write_sound(tmp_path / f"{i}.wav", *fact, seed=i))
        for i, fact in enumerate(facts)
    ]
    batch = [e for e in codec.encode(sounds) if isinstance(e, EncodedSound)]
    for sound, together in zip(sounds, batch, strict=True):
        (alone,) = codec.encode([sound])
        assert isinstance(alone, EncodedSound)
        assert alone.file == together.file
    decoded = codec.decode([e.file for e in batch])
    for encoded, both in zip(batch, decoded, strict=True):
        assert isinstance(both, DecodedSound)
        one = decode(codec, encoded.file)
        assert one.store.length == both.store.length
        torch.testing.assert_close(
            one.store.read(0, 9000), both.store.read(0, 9000), atol=1e-5, rtol=0
        )


def test_long_sound_in_chunks_is_the_same(model: WavTokenizer, tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.flac", 6.3, 44100, 2)
    cut = AudioCodec(
        model, channels="streams", chunks=Chunks(whole=1.0, chunk=2.0, context=0.5)
    )
    at_once = AudioCodec(model, channels="streams")
    file = encode(at_once, path).file
    assert encode(cut, path).file == file
    torch.testing.assert_close(
        decode(cut, file).store.read(0, 60000), decode(at_once, file).store.read(0, 60000),
        atol=1e-5, rtol=0,
    )  # fmt: skip


def test_budgets(model: WavTokenizer, tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.wav", 1.0)
    full = encode(AudioCodec(model), path).file
    one = encode(AudioCodec(model, tokens=1), path).file
    assert np.array_equal(one.codes, full.codes[:1])
    assert decode(AudioCodec(model), one).store.length == RATE
    fitting = encode(AudioCodec(model, target_bytes=full.num_bytes - 1), path).file
    assert fitting == one
    assert encode(AudioCodec(model, target_bytes=full.num_bytes), path).file == full
    codec = AudioCodec(model, target_bytes=30)
    (error,) = codec.encode([codec.read(path)])
    assert isinstance(error, TokenError)
    assert f"{one.num_bytes} bytes" in str(error)


def test_illegal_options(model: WavTokenizer) -> None:
    for options in ({"tokens": 3}, {"tokens": 0}, {"tokens": 1, "target_bytes": 5},
                    {"channels": "left"}):  # fmt: skip
        with pytest.raises(ConfigError):
            AudioCodec(model, **options)  # type: ignore[arg-type]


def test_a_bad_file_is_a_media_error(model: WavTokenizer, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("no sound")
    with pytest.raises(MediaError, match="a.wav"):
        AudioCodec(model).read(tmp_path / "a.wav")


WRONG = {
    "picture": {"extent": (80, 100), "sample_rate": None, "policy": "resize"},
    "frames": {"codes": np.zeros((2, 99), dtype=np.int64)},
    "levels": {"codes": np.zeros((3, 100), dtype=np.int64)},
    "flat": {"codes": np.zeros(100, dtype=np.int64)},
    "code": {"codes": np.full((2, 100), 32), "bits": (6,)},
    "rate": {"sample_rate": 40},
    "length": {"extent": (1 << 35,)},
    "channels": {"codes": np.zeros((65, 2, 100), dtype=np.int64)},
}


@pytest.mark.parametrize("name", WRONG)
def test_tokens_that_do_not_fit(model: WavTokenizer, name: str) -> None:
    codec = AudioCodec(model)
    good = TokenFile(np.zeros((2, 100), dtype=np.int64), (5,), model.code_hash(), (100 * HOP,),
                     sample_rate=RATE)  # fmt: skip
    codec.check(good)
    bad = dataclasses.replace(good, **WRONG[name])
    with pytest.raises(TokenError) as caught:
        codec.check(bad)
    assert "\n" not in str(caught.value)


def test_figures(model: WavTokenizer, tmp_path: Path) -> None:
    codec = AudioCodec(model)
    sound = codec.read(write_sound(tmp_path / "a.wav", 2.0, 16000))
    same = codec.compare(sound, DecodedSound(sound.store, 16000, 32000))
    assert same["mel_distance"] == 0.0
    assert same["si_sdr"] == 100.0
    other = codec.read(write_sound(tmp_path / "b.wav", 2.0, 16000, seed=3))
    worse = codec.compare(sound, DecodedSound(other.store, 16000, 32000))
    assert worse["mel_distance"] > 0.05
    assert worse["si_sdr"] < 20
    if "stoi" in same:
        assert same["stoi"] > 0.99 > worse["stoi"]
    file = encode(codec, tmp_path / "a.wav").file
    row = codec.rate(file, 1000)
    assert row["tokens"] == 400
    assert row["tokens_per_second"] == 200.0
    assert row["kbit_per_second"] == 4.0
    assert row["size"] == "2.00 s at 16000 Hz"
