"""Reading and writing sound files: formats, notes, every kind of bad file in one sentence."""

from __future__ import annotations

import contextlib
import math
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_audio import make_sound, write_sound

from audio_tok.audio_file import AudioFile, read_audio, write_audio
from audio_tok.block_resampler import BlockResampler, length_after
from audio_tok.sample_store import IN_MEMORY, SampleStore
from tok_core.errors import MediaError, TesseraError
from tok_core.resample import resample

soundfile = pytest.importorskip("soundfile")
FORMATS = [
    ("a.wav", {"subtype": "PCM_U8"}, 1 / 100), ("a.wav", {"subtype": "PCM_16"}, 1e-4),
    ("a.wav", {"subtype": "PCM_24"}, 1e-6), ("a.wav", {"subtype": "PCM_32"}, 1e-6),
    ("a.wav", {"subtype": "FLOAT"}, 0), ("a.wav", {"subtype": "DOUBLE"}, 0),
    ("a.wav", {"subtype": "ULAW"}, 0.03), ("a.flac", {"subtype": "PCM_S8"}, 1 / 100),
    ("a.flac", {"subtype": "PCM_24"}, 1e-6), ("a.aiff", {"subtype": "PCM_16"}, 1e-4),
    ("a.ogg", {"subtype": "VORBIS"}, 0.1), ("a.opus", {}, 0.2), ("a.mp3", {}, 0.2),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "tolerance"), FORMATS)
@pytest.mark.parametrize("channels", [1, 2])
def test_every_format_is_read(
    tmp_path: Path, name: str, options: dict[str, str], tolerance: float, channels: int
) -> None:
    path = write_sound(tmp_path / name, 1.01, 48000, channels, **options)
    found = read_audio(path)
    original = torch.from_numpy(make_sound(1.01, 48000, channels))
    assert found.samples.shape == original.shape
    assert found.samples.dtype == torch.float32
    assert (found.rate, found.notes) == (48000, ())
    assert float((found.samples - original).abs().max()) <= tolerance + 1e-7


@pytest.mark.parametrize("rate", [8000, 11025, 44100, 96000, 192000])
def test_every_rate_and_many_channels(tmp_path: Path, rate: int) -> None:
    found = read_audio(write_sound(tmp_path / "a.wav", 0.2, rate, 24))
    assert found.samples.shape == (24, round(0.2 * rate))
    assert found.rate == rate


def test_blocks_are_small_and_give_the_whole_file(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.wav", 30, 48000, 2, subtype="FLOAT")
    with AudioFile(path) as file:
        blocks = list(file.blocks())
    assert len(blocks) > 2
    assert max(block.nbytes for block in blocks) <= 4 << 20
    assert np.array_equal(np.concatenate(blocks).T, make_sound(30, 48000, 2))


# -- notes -------------------------------------------------------------------------------------


def test_silence_is_noted(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(100), 8000)
    assert read_audio(tmp_path / "a.wav").notes == ("silent: every sample is 0",)


def test_clipping_is_noted_and_a_loud_sine_is_not(tmp_path: Path) -> None:
    sine = np.sin(np.arange(48000) * 2 * np.pi * 440 / 48000)
    soundfile.write(tmp_path / "loud.wav", sine, 48000)
    soundfile.write(tmp_path / "clipped.wav", (3 * sine).clip(-1, 1), 48000)
    assert read_audio(tmp_path / "loud.wav").notes == ()
    (note,) = read_audio(tmp_path / "clipped.wav").notes
    assert note.startswith("clipped: 7")


def test_values_beyond_full_scale_are_cut_off_and_noted(tmp_path: Path) -> None:
    sound = make_sound(1, 8000).T.copy()
    sound[50] = 2.5
    soundfile.write(tmp_path / "a.wav", sound, 8000, subtype="FLOAT")
    found = read_audio(tmp_path / "a.wav")
    assert float(found.samples.abs().max()) == 1.0
    assert found.notes == ("values up to 2.5 lie beyond full scale: cut off at 1",)


# -- bad files ---------------------------------------------------------------------------------


def nothing(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_bytes(b"these are words and no sound\n" * 30)


def no_samples(path: Path) -> None:
    soundfile.write(path, np.zeros((0, 1)), 8000, format="WAV")


def not_a_number(path: Path) -> None:
    sound = make_sound(1, 8000).T.copy()
    sound[4000] = np.nan
    soundfile.write(path, sound, 8000, format="WAV", subtype="FLOAT")


def infinite(path: Path) -> None:
    sound = make_sound(1, 8000).T.copy()
    sound[4000] = -np.inf
    soundfile.write(path, sound, 8000, format="WAV", subtype="FLOAT")


def cut(path: Path, part: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    return path


def truncated(path: Path) -> None:
    cut(write_sound(path, format="WAV"), 0.6)


def a_strange_rate(path: Path) -> None:
    write_sound(path, format="WAV")
    data = bytearray(path.read_bytes())
    data[24:28] = struct.pack("<I", 7)
    path.write_bytes(data)


def a_folder(path: Path) -> None:
    path.mkdir()


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def missing(path: Path) -> None:
    pass


BAD = {
    nothing: "is empty (0 bytes)", text: "no sound in a known format", no_samples: "no samples",
    not_a_number: "NaN or infinite", infinite: "NaN or infinite", truncated: "truncated",
    a_strange_rate: "7 Hz", a_folder: "no regular file", a_pipe: "no regular file",
    missing: "cannot be opened",
}  # fmt: skip


def one_sentence(error: BaseException) -> str:
    sentence = str(error)
    assert "\n" not in sentence
    assert len(sentence) < 300
    return sentence


@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
def test_bad_files_are_one_sentence(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "bad.wav"
    make(path)
    with pytest.raises(MediaError) as caught:
        read_audio(path)
    sentence = one_sentence(caught.value)
    assert BAD[make] in sentence
    assert "bad.wav" in sentence


@pytest.mark.parametrize("part", [0.02, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.opus", "a.mp3", "a.aiff"])
def test_truncated_files_are_found_out(tmp_path: Path, name: str, part: float) -> None:
    path = cut(write_sound(tmp_path / name, 4.0, 24000), part)
    with pytest.raises(MediaError) as caught:
        read_audio(path)
    assert name in one_sentence(caught.value)


def test_a_wav_of_unknown_length_is_no_truncated_one(tmp_path: Path) -> None:
    """Programs that write to a pipe leave the largest number where the size belongs."""
    path = write_sound(tmp_path / "a.wav", 1.0)
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = data[4:8] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    assert read_audio(path).samples.shape == (1, 8000)


def test_a_chunk_behind_the_samples_is_legal(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.wav", 1.0)
    path.write_bytes(path.read_bytes() + b"LIST\x04\0\0\0note")
    assert read_audio(path).samples.shape == (1, 8000)


def test_the_longest_sound(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.wav", 2.0)
    assert read_audio(path, max_seconds=2.0).samples.shape == (1, 16000)
    with pytest.raises(MediaError, match="lasts 2 seconds"):
        read_audio(path, max_seconds=1.99)


# -- writing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff"])
@pytest.mark.parametrize("channels", [1, 2])
def test_what_is_written_is_read(tmp_path: Path, suffix: str, channels: int) -> None:
    original = torch.from_numpy(make_sound(2.0, 24000, channels))
    path = tmp_path / "deep" / f"a{suffix}"
    size = write_audio(path, original, 24000)
    assert size == path.stat().st_size
    found = read_audio(path)
    assert found.samples.shape == original.shape
    assert found.rate == 24000
    assert float((found.samples - original).abs().mean()) < 0.02
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(("suffix", "rate", "becomes"), [
    (".opus", 44100, 48000), (".opus", 96000, 48000), (".mp3", 50000, 48000),
    (".mp3", 9000, 11025), (".ogg", 44100, 44100), (".wav", 192000, 192000),
])  # fmt: skip
def test_formats_get_a_rate_that_they_can_have(
    tmp_path: Path, suffix: str, rate: int, becomes: int
) -> None:
    write_audio(tmp_path / f"a{suffix}", torch.from_numpy(make_sound(1.0, rate)), rate)
    found = read_audio(tmp_path / f"a{suffix}")
    assert found.rate == becomes
    assert found.samples.shape == (1, becomes)


def test_nothing_is_overwritten_without_force(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"precious")
    with pytest.raises(TesseraError, match="--force"):
        write_audio(path, torch.zeros(1, 10), 8000)
    assert path.read_bytes() == b"precious"
    write_audio(path, torch.zeros(1, 10), 8000, force=True)
    assert read_audio(path).samples.shape == (1, 10)


def test_formats_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="legal are .wav"):
        write_audio(tmp_path / "a.wma", torch.zeros(1, 10), 8000)
    with pytest.raises(MediaError, match="at most 2 channels"):
        write_audio(tmp_path / "a.mp3", torch.zeros(3, 10), 8000)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    """The error comes up inside a callback of libsndfile, where nothing may be raised."""
    from audio_tok.audio_writer import WRITABLE, _Guarded, _sound_file, _write

    with open("/dev/full", "wb", buffering=0) as file:
        guarded = _Guarded(file)
        sound = _sound_file(guarded, 8000, 1, WRITABLE[".wav"])
        with contextlib.suppress(RuntimeError):  # of libsndfile, which does not say why
            _write(sound, guarded, torch.zeros(1, 100_000))
        with contextlib.suppress(RuntimeError):
            sound.close()
    assert guarded.error is not None
    assert "Traceback" not in capfd.readouterr().err


# -- blocks ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("there", "here"), [
    (44100, 24000), (8000, 24000), (192000, 24000), (24000, 11025), (16000, 16000),
])  # fmt: skip
def test_resampling_in_blocks_is_resampling_at_once(there: int, here: int) -> None:
    x = torch.from_numpy(make_sound(2.0, there, 2))
    resampler = BlockResampler(there, here)
    parts = [resampler.push(part) for part in x.split([1, 70000 % x.shape[-1], 0]
             + [x.shape[-1] - 1 - 70000 % x.shape[-1]], -1)]  # fmt: skip
    y = torch.cat([*parts, resampler.finish()], -1) if there != here else torch.cat(parts, -1)
    assert y.shape[-1] == length_after(x.shape[-1], there, here)
    torch.testing.assert_close(y, resample(x, there, here), atol=1e-6, rtol=0)


def test_rates_without_a_common_measure_take_little_memory() -> None:
    x = torch.from_numpy(make_sound(1.0, 44101))
    resampler = BlockResampler(44101, 24000)
    assert resampler.p * resampler.q <= 1 << 20
    assert math.isclose(resampler.p / resampler.q, 24000 / 44101, rel_tol=2e-6)
    y = torch.cat([resampler.push(x), resampler.finish()], -1)
    assert y.shape[-1] == 24000
    expected = resample(x[:, : 44100], 44100, 24000)
    assert float((y - expected).abs().max()) < 0.05


def test_a_store_gives_back_what_it_took_beyond_its_memory() -> None:
    block = torch.from_numpy(make_sound(60.0, 24000, 2))
    store = SampleStore(2)
    for _ in range(4):
        store.append(block)
    assert store.length == 4 * block.shape[-1]
    assert 8 * store.length > IN_MEMORY
    at = 2 * block.shape[-1]
    assert torch.equal(store.read(at - 3, at + 7), torch.cat((block[:, -3:], block[:, :7]), -1))
    assert store.read(store.length - 2, store.length + 9).shape == (2, 2)


def test_several_threads_may_need_the_resampler_first() -> None:
    """Files are read in threads; the first import of torchaudio must not be seen half done."""
    pytest.importorskip("torchaudio")
    code = (
        "import threading, torch\n"
        "from tok_core.resample import resample\n"
        "gate, errors = threading.Barrier(6), []\n"
        "def work():\n"
        "    gate.wait()\n"
        "    try: resample(torch.zeros(1, 1000), 8000, 24000)\n"
        "    except BaseException as error: errors.append(repr(error))\n"
        "threads = [threading.Thread(target=work) for _ in range(6)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
        "print(errors)\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
