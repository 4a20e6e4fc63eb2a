"""The commands on sound: the same words as for pictures, and every kind of bad input."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_audio import RATE, make_sound, save_tiny, write_sound

from tests import warm_python

from .conftest import ROOT, Tessera, environment, make_picture, one_sentence

soundfile = pytest.importorskip("soundfile")


@pytest.fixture(scope="session")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random codec: 8 kHz, 100 frames a second, 2 levels of 5 bits."""
    return save_tiny(tmp_path_factory.mktemp("models") / "voice")


@pytest.fixture(scope="session")
def other_voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network with other weights: its tokens mean something else."""
    return save_tiny(tmp_path_factory.mktemp("models") / "other", seed=1)


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """A small tree of good sounds of several rates and formats."""
    root = tmp_path / "sounds"
    write_sound(root / "a.wav", 1.0, 8000)
    write_sound(root / "b.flac", 0.7, 44100, 2, seed=1)
    write_sound(root / "deep" / "c.ogg", 1.3, 24000, seed=2)
    write_sound(root / "deep" / "d.opus", 0.5, 48000, seed=3)
    write_sound(root / "e.mp3", 1.0, 16000, seed=4)
    return root


def test_folder_to_tokens_and_back(tessera: Tessera, voice: Path, sounds: Path) -> None:
    tokens, back = sounds.parent / "tokens", sounds.parent / "back"
    done = tessera("encode", sounds, "-o", tokens, "-m", voice, "--tokens", 1, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    names = [Path(row["source"]).name for row in report["files"]]
    assert sorted(names) == ["a.wav", "b.flac", "c.ogg", "d.opus", "e.mp3"]
    for row in report["files"]:
        size = Path(row["target"]).stat().st_size
        assert row["bytes"] == size
        assert row["kbit_per_second"] == pytest.approx(8e-3 * size / row["seconds"])
        assert row["tokens_per_second"] == 100.0
    assert "2 channels: mixed down to one" in done.stderr
    done = tessera("decode", tokens, "-o", back, "-m", voice)
    assert done.returncode == 0, done.stderr
    for path in sorted(p for p in sounds.rglob("*") if p.is_file()):
        there = soundfile.info(path)
        here = soundfile.info(back / path.relative_to(sounds).with_suffix(".wav"))
        assert (here.frames, here.samplerate) == (there.frames, there.samplerate)
        assert here.channels == 1


def test_streams_keep_the_channels(tessera: Tessera, voice: Path, sounds: Path) -> None:
    tok, out = sounds.parent / "b.tok", sounds.parent / "b.flac"
    done = tessera("encode", sounds / "b.flac", "-o", tok, "-m", voice, "--channels", "streams")
    assert done.returncode == 0, done.stderr
    assert tessera("decode", tok, "-o", out, "-m", voice).returncode == 0
    assert soundfile.info(out).channels == 2
    assert soundfile.info(out).frames == soundfile.info(sounds / "b.flac").frames


@pytest.mark.parametrize("format", ["wav", "flac", "ogg", "opus", "mp3"])
def test_the_extension_decides_the_format(
    tessera: Tessera, voice: Path, sounds: Path, format: str
) -> None:
    out = sounds.parent / "out"
    done = tessera("reconstruct", sounds, "-o", out, "-m", voice, "--format", format)
    assert done.returncode == 0, done.stderr
    made = sorted(p for p in out.rglob("*") if p.is_file())
    assert len(made) == 5
    assert {p.suffix for p in made} == {f".{format}"}
    kinds = {"opus": "OPUS", "ogg": "VORBIS", "mp3": "MPEG_LAYER_III"}
    assert soundfile.info(made[0]).subtype == kinds.get(format, "PCM_16")


def test_reconstruct_prints_figures(tessera: Tessera, voice: Path, sounds: Path) -> None:
    before = set(sounds.parent.rglob("*"))
    done = tessera("reconstruct", sounds, "-m", voice, "--json")
    assert done.returncode == 0, done.stderr
    for row in json.loads(done.stdout)["files"]:
        assert row["mel_distance"] > 0
        assert row["si_sdr"] < 30
    table = tessera("reconstruct", sounds, "-m", voice).stdout
    for word in ("kbit/s", "mel distance", "SI-SDR dB", "mean of 5"):
        assert word in table
    assert set(sounds.parent.rglob("*")) == before


def test_target_bytes(tessera: Tessera, voice: Path, sounds: Path) -> None:
    out = sounds.parent / "x.tok"
    done = tessera("encode", sounds / "a.wav", "-o", out, "-m", voice, "--target-bytes", 100)
    assert done.returncode == 0, done.stderr
    assert out.stat().st_size <= 100
    done = tessera("encode", sounds / "a.wav", "-o", out, "-m", voice, "--target-bytes", 9, "-f")
    assert done.returncode == 1
    assert "9 bytes are not enough" in done.stderr


@pytest.mark.parametrize("options", [("--target-psnr", 20), ("--policy", "tile")])
def test_options_of_pictures_are_refused(
    tessera: Tessera, voice: Path, sounds: Path, options: tuple[str, object]
) -> None:
    done = tessera("encode", sounds, "-o", "x", "-m", voice, *options)
    assert done.returncode == 1
    assert "does not apply to audio files" in one_sentence(done)


def test_channels_are_refused_for_pictures(tessera: Tessera, tiny: Path, photos: Path) -> None:
    done = tessera("encode", photos, "-o", "x", "-m", tiny, "--channels", "streams")
    assert done.returncode == 1
    assert "does not apply to image files" in one_sentence(done)


def test_info(tessera: Tessera, voice: Path, sounds: Path) -> None:
    out = sounds.parent / "x.tok"
    tessera("encode", sounds / "a.wav", "-o", out, "-m", voice)
    file, model = json.loads(tessera("info", out, voice, "--json").stdout)
    assert file["codes"] == "2 x 100"
    assert (file["sample rate"], file["seconds"]) == (8000, 1.0)
    assert model["class"] == "WavTokenizer"
    assert model["code hash"].startswith(file["code hash"])


def test_import(tessera: Tessera, tmp_path: Path) -> None:
    parity = Path(os.environ.get("TESSERA_PARITY_DIR", ROOT.parent / "shared" / "parity"))
    source = parity / "wavtokenizer" / "hop320" / "weights.safetensors"
    if not source.is_file():
        pytest.skip("no official checkpoint at hand")
    out = tmp_path / "model"
    done = tessera("import", source, "-o", out, "--family", "wavtokenizer", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["class"] == "WavTokenizer"
    refused = tessera(
        "import", source, "-o", tmp_path / "x", "--family", "wavtokenizer",
        "--config", source.parent / "config.json",
    )  # fmt: skip
    assert "leave --config out" in one_sentence(refused)


def test_train_help_of_sound(tessera: Tessera) -> None:
    done = tessera("train", "--modality", "audio", "--help")
    assert done.returncode == 0
    assert "audio_tok.train" in done.stdout + done.stderr


# -- which model -------------------------------------------------------------------------------


def ships(monkeypatch: pytest.MonkeyPatch, **models: Path) -> None:
    """Let the installation ship these models and no others."""
    named = {name.replace("_", "-"): path for name, path in models.items()}
    monkeypatch.setattr("tessera.models.shipped_models", lambda: named)


def test_the_default_model_follows_the_files(
    tessera: Tessera, monkeypatch: pytest.MonkeyPatch, voice: Path, tiny: Path, sounds: Path,
    photos: Path,
) -> None:  # fmt: skip
    ships(monkeypatch, one_d_piece_tiny=tiny, wavtokenizer_tiny=voice)
    for folder, name in ((sounds, "wavtokenizer-tiny"), (photos, "one-d-piece-tiny")):
        tokens, back = folder.parent / f"tok_{folder.name}", folder.parent / f"back_{folder.name}"
        done = tessera("encode", folder, "-o", tokens, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["model"] == name
        done = tessera("decode", tokens, "-o", back, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["model"] == name


def test_pictures_and_sounds_together(
    tessera: Tessera, monkeypatch: pytest.MonkeyPatch, voice: Path, tiny: Path, photos: Path
) -> None:
    write_sound(photos / "a.wav")
    ships(monkeypatch, one_d_piece_tiny=tiny, wavtokenizer_tiny=voice)
    done = tessera("encode", photos, "-o", photos.parent / "tok", "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["files"]) == 3
    assert "the 1 audio files there are left" in done.stderr


def test_no_shipped_audio_model_is_one_sentence(
    tessera: Tessera, monkeypatch: pytest.MonkeyPatch, tiny: Path, sounds: Path
) -> None:
    ships(monkeypatch, one_d_piece_tiny=tiny)
    done = tessera("encode", sounds, "-o", "tok")
    assert done.returncode == 1
    sentence = one_sentence(done)
    assert "no model for audio files" in sentence
    assert "--model" in sentence


# -- bad and odd input -------------------------------------------------------------------------


def empty(path: Path) -> None:
    path.write_bytes(b"")


def no_samples(path: Path) -> None:
    soundfile.write(path, np.zeros((0, 1)), RATE)


def text(path: Path) -> None:
    path.write_text("these are words and no sound\n" * 30)


def truncated(path: Path) -> None:
    write_sound(path)
    path.write_bytes(path.read_bytes()[:9000])


def not_a_number(path: Path) -> None:
    sound = make_sound(1.0, RATE).T.copy()
    sound[77] = np.nan
    soundfile.write(path, sound, RATE, subtype="FLOAT")


BAD = (empty, no_samples, text, truncated, not_a_number)


@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
@pytest.mark.parametrize("verb", ["encode", "reconstruct"])
def test_one_bad_sound(
    tessera: Tessera, voice: Path, tmp_path: Path, make: Callable[[Path], None], verb: str
) -> None:
    make(tmp_path / "bad.wav")
    target = tmp_path / ("x.tok" if verb == "encode" else "x.wav")
    done = tessera(verb, tmp_path / "bad.wav", "-o", target, "-m", voice)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "bad.wav" in line]
    assert line.startswith("tessera: ")
    assert not target.exists()


def test_bad_sounds_in_a_folder_do_not_spoil_the_good(
    tessera: Tessera, voice: Path, sounds: Path
) -> None:
    for make in BAD:
        make(sounds / f"{make.__name__}.wav")
    out = sounds.parent / "out"
    done = tessera("encode", sounds, "-o", out, "-m", voice, "--json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert len(report["files"]) == 5
    failed = {Path(failure["source"]).stem for failure in report["failures"]}
    assert failed == {make.__name__ for make in BAD}
    assert len(list(out.rglob("*.tok"))) == 5
    for failure in report["failures"]:
        assert failure["source"] in done.stderr
        assert "\n" not in failure["error"]


def one_sample(path: Path) -> None:
    soundfile.write(path, [0.5], RATE)


def silent(path: Path) -> None:
    soundfile.write(path, np.zeros(5000), RATE)


def clipped(path: Path) -> None:
    soundfile.write(path, (9 * make_sound(1.0, RATE).T).clip(-1, 1), RATE)


def rate_8k(path: Path) -> None:
    write_sound(path, 0.5, 8000)


def rate_192k(path: Path) -> None:
    write_sound(path, 0.5, 192000, 2)


def channels_24(path: Path) -> None:
    write_sound(path, 0.5, 16000, 24)


ODD = {
    one_sample: "", silent: "silent: every sample is 0", clipped: "clipped: ", rate_8k: "",
    rate_192k: "2 channels", channels_24: "24 channels",
}  # fmt: skip


@pytest.mark.parametrize("make", ODD, ids=lambda make: make.__name__)
@pytest.mark.parametrize("channels", ["downmix", "streams"])
def test_odd_sounds_come_back_whole(
    tessera: Tessera, voice: Path, tmp_path: Path, make: Callable[[Path], None], channels: str
) -> None:
    path, out = tmp_path / "odd.wav", tmp_path / "out.wav"
    make(path)
    done = tessera("reconstruct", path, "-o", out, "-m", voice, "--channels", channels)
    assert done.returncode == 0, done.stderr
    there, here = soundfile.info(path), soundfile.info(out)
    assert (here.frames, here.samplerate) == (there.frames, there.samplerate)
    assert here.channels == (there.channels if channels == "streams" else 1)
    if channels == "downmix":
        assert ODD[make] in done.stderr


def test_five_hours_take_little_memory(tmp_path: Path) -> None:
    """Five hours of silence are a small flac file; as float64 at 24 kHz they would be 3.5 GB."""
    model = save_tiny(tmp_path / "slow", sample_rate=400, strides=[4, 4], encoder_width=2, layers=1)
    path = tmp_path / "long.flac"
    with soundfile.SoundFile(path, "w", 8000, 1) as file:
        for _ in range(5 * 60):
            file.write(np.zeros(60 * 8000, dtype=np.int16))
    code = (
        "import resource, sys; from tessera.cli import run\n"
        "code = run(sys.argv[1:])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)\n"
        "sys.exit(code)"
    )
    peaks = []
    for name in ("short", "long"):
        if name == "short":
            soundfile.write(tmp_path / "short.flac", np.zeros(8000), 8000)
        words = ["reconstruct", f"{name}.flac", "-o", f"{name}.wav", "-m", str(model), "--json"]
        done = warm_python.run("-c", code, *words, cwd=tmp_path, env=environment())
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stderr.splitlines()[-1]) * 1024)
    assert soundfile.info(tmp_path / "long.wav").frames == 5 * 3600 * 8000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert peaks[1] - peaks[0] < 400e6, f"{(peaks[1] - peaks[0]) / 1e6:.0f} MB more"


def test_a_flac_that_promises_more_than_a_day(
    tessera: Tessera, voice: Path, tmp_path: Path
) -> None:
    path = tmp_path / "day.flac"
    write_sound(path, 1.0)
    data = bytearray(path.read_bytes())
    data[21] |= 0x0F  # the highest bits of the number of samples, in the first metadata block
    path.write_bytes(data)
    done = tessera("encode", path, "-o", tmp_path / "x.tok", "-m", voice)
    assert done.returncode == 1
    assert "cut it into parts" in done.stderr


# -- tokens ------------------------------------------------------------------------------------


def test_tokens_of_another_codec(
    tessera: Tessera, voice: Path, other_voice: Path, tiny: Path, sounds: Path, photos: Path
) -> None:
    tokens = sounds.parent / "tokens"
    tessera("encode", sounds / "a.wav", "-o", tokens / "good.tok", "-m", voice)
    tessera("encode", sounds / "a.wav", "-o", tokens / "stranger.tok", "-m", other_voice)
    tessera("encode", photos / "a.png", "-o", tokens / "picture.tok", "-m", tiny)
    (tokens / "words.tok").write_text("no tokens")
    data = (tokens / "good.tok").read_bytes()
    (tokens / "cut.tok").write_bytes(data[:-3])
    out = sounds.parent / "out"
    done = tessera("decode", tokens, "-o", out, "-m", voice, "--json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert [Path(row["source"]).name for row in report["files"]] == ["good.tok"]
    failed = {Path(failure["source"]).stem for failure in report["failures"]}
    assert failed == {"stranger", "picture", "words", "cut"}
    assert [p.name for p in out.iterdir()] == ["good.wav"]


def test_codes_out_of_range(tessera: Tessera, voice: Path, sounds: Path) -> None:
    import dataclasses

    from tok_core.token_file import dumps, loads

    tok = sounds.parent / "x.tok"
    tessera("encode", sounds / "a.wav", "-o", tok, "-m", voice)
    file = loads(tok.read_bytes())
    wrong = {
        "vocabulary": {"bits": (7,), "codes": np.full((2, 100), 100)},
        "levels": {"codes": np.zeros((3, 100), dtype=np.int64)},
        "frames": {"codes": np.zeros((2, 101), dtype=np.int64)},
    }
    for changes in wrong.values():
        tok.write_bytes(dumps(dataclasses.replace(file, **changes)))  # type: ignore[arg-type]
        done = tessera("decode", tok, "-o", sounds.parent / "x.wav", "-m", voice)
        assert done.returncode == 1
        assert "x.tok" in done.stderr
        assert not (sounds.parent / "x.wav").exists()


def test_nothing_is_overwritten_without_force(
    tessera: Tessera, voice: Path, sounds: Path
) -> None:
    out = sounds.parent / "x.wav"
    out.write_bytes(b"precious")
    done = tessera("reconstruct", sounds / "a.wav", "-o", out, "-m", voice)
    assert done.returncode == 1
    assert "--force" in one_sentence(done)
    assert out.read_bytes() == b"precious"
    assert tessera("reconstruct", sounds / "a.wav", "-o", out, "-m", voice, "-f").returncode == 0


# -- demo --------------------------------------------------------------------------------------


def test_demo_on_own_sounds(tessera: Tessera, voice: Path, tmp_path: Path) -> None:
    sound = write_sound(tmp_path / "own.wav", 2.0, 16000)
    out = tmp_path / "demo"
    done = tessera("demo", sound, "-o", out, "-m", voice, "--json")
    assert done.returncode == 0, done.stderr
    results = json.loads((out / "results.json").read_text())["audio"]
    assert [row["budget"].split(",")[0] for row in results["mean"]] == ["Tessera"] + ["Opus"] * 3
    ours, opus = results["mean"][:2]
    assert ours["bytes"] == (out / "tokens" / "own.tok").stat().st_size
    for row in (ours, opus):
        assert row["mel_distance"] > 0
        assert row["real_time_factor"] > 0
    assert opus["kbit_per_second"] < results["mean"][3]["kbit_per_second"]
    assert soundfile.info(out / "sounds" / "own.wav").frames == 32000
    assert (out / "spectrogram_own.png").stat().st_size > 10_000
    assert "images" not in json.loads((out / "results.json").read_text())


def test_demo_of_both_senses(
    tessera: Tessera, monkeypatch: pytest.MonkeyPatch, voice: Path, tiny: Path, tmp_path: Path
) -> None:
    ships(monkeypatch, one_d_piece_tiny=tiny, wavtokenizer_tiny=voice)
    picture = make_picture(tmp_path / "own.png", 40, 40)
    sound = write_sound(tmp_path / "own.wav", 1.0)
    done = tessera("demo", picture, sound, "-o", tmp_path / "demo", "--tokens", "16")
    assert done.returncode == 0, done.stderr
    assert "SI-SDR dB" in done.stdout
    assert "PSNR dB" in done.stdout


def test_demo_without_a_model_for_sound(
    tessera: Tessera, monkeypatch: pytest.MonkeyPatch, tiny: Path, tmp_path: Path
) -> None:
    ships(monkeypatch, one_d_piece_tiny=tiny)
    picture = make_picture(tmp_path / "own.png", 40, 40)
    sound = write_sound(tmp_path / "own.wav", 1.0)
    done = tessera("demo", picture, sound, "-o", tmp_path / "demo", "--tokens", "16")
    assert done.returncode == 0, done.stderr
    assert "no sound in this demo" in done.stderr
    only = tessera("demo", sound, "-o", tmp_path / "other")
    assert only.returncode == 1
    assert "no sound in this demo" in one_sentence(only)
