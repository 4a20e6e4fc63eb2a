"""`python -m audio_tok.train`: mistakes in one sentence, whole runs, resuming, recipes, card."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from audio_tok.audio_model_card import write_model_card
from audio_tok.spectrogram_picture import spectrogram_picture
from audio_tok.train import AudioRun, main
from audio_tok.validation import AudioMonitor
from audio_tok.wav_tokenizer import WavTokenizer
from tests import warm_python
from tok_core.loading import load
from tok_core.run_config import load_config
from tok_core.training.checkpoint import latest_checkpoint

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "assets" / "configs"
RECIPES = sorted(FOLDER.glob("wavtokenizer-*.yaml"))
SMOKE = str(FOLDER / "wavtokenizer-smoke.yaml")
QUICK = ["--set", "train.steps=2", "--set", "log.tracker=none", "--set", "validation_sounds=2",
         "--set", "train.accumulation=1", "--set", "train.device=cpu"]
# Millions of parameters: the published networks without their unused second decoder (whose 8.8 M
# nothing ever runs) and with the codebook of 2.1 M; ours as measured.
PARAMETERS = {
    "wavtokenizer-small-40": 74.2, "wavtokenizer-medium-40": 74.2, "wavtokenizer-large-40": 74.2,
    "wavtokenizer-small-75": 73.8, "wavtokenizer-medium-75": 73.8, "wavtokenizer-large-75": 73.8,
    "wavtokenizer-tiny": 3.0, "wavtokenizer-smoke": 0.1,
}


def _run(*arguments: str) -> int:
    return main(["--config", SMOKE, *QUICK, *arguments])


def test_every_recipe_is_pinned() -> None:
    assert {path.stem for path in RECIPES} == PARAMETERS.keys()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_builds_at_its_size(path: Path) -> None:
    config = load_config(AudioRun, path)
    assert config.name == path.stem and config.model.class_ == "WavTokenizer"
    with torch.device("meta"):
        model = WavTokenizer(**config.model.config)
    count = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert round(count, 1) == PARAMETERS[path.stem]
    assert model.sample_rate == config.data.sample_rate
    published = path.stem[-2:] in ("40", "75")
    assert model.spec.token_rate == (float(path.stem[-2:]) if published else 100.0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "/no/such/folder"], ["/no/such/folder", "folder"]),
        (["--set", "train.stepz=3"], ["train.stepz", "did you mean 'steps'"]),
        (["--set", "model.config.strids=3"], ["strids", "did you mean 'strides'"]),
        (["--set", "data.sample_rate=16000"], ["16000", "24000"]),
        (["--set", "data.source=speach"], ["did you mean 'speech'"]),
        (["--set", "data.segment=200"], ["segment is 200", "mel windows"]),
        (["--set", "objective.mel_wait=3"], ["objective.mel_wait"]),
        (["--set", "model.class=OneDPiece", "--set", "model.config={}"], ["OneDPiece"]),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: list[str], words: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert _run("--out", str(tmp_path / "run"), *arguments) == 2
    output = capfd.readouterr().err
    assert "Traceback" not in output
    message = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(message) == 1
    for word in words:
        assert word in message[0]


def test_folder_with_a_broken_file_then_resume(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for number, rate in enumerate((24000, 16000, 44100)):
        noise = 0.1 * np.random.default_rng(number).standard_normal(rate)
        soundfile.write(data / f"{number}.wav", noise, rate)
    (data / "broken.wav").write_bytes(b"not a sound")
    run = tmp_path / "run"
    arguments = ["--data", str(data), "--out", str(run), "--set", "train.batch_size=8"]
    assert _run(*arguments) == 0
    captured = capfd.readouterr().out
    assert "skipped" in captured and "broken.wav" in captured
    assert _run(*arguments) == 2
    assert "--resume" in capfd.readouterr().err
    assert _run(*arguments, "--resume", "--set", "train.steps=3") == 0
    captured = capfd.readouterr().out
    assert "resumed at step 2" in captured and "train.steps 2 -> 3" in captured
    model: Any = load(run / "model")
    x = torch.rand(1, 1, 5003) - 0.5
    assert model.decode(model.encode(x)).shape == x.shape


def test_a_resumed_run_ends_in_the_same_bits(tmp_path: Path) -> None:
    """Across the k-means start and a restart of dead codes."""
    more = ["--set", "train.steps=12", "--set", "log.save_every=3", "--set", "log.keep_last=9"]
    assert _run("--out", str(tmp_path / "whole"), *more) == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for step in (6, 9, 12):
        shutil.rmtree(tmp_path / "cut" / "checkpoints" / f"step_{step:08d}")
    assert _run("--out", str(tmp_path / "cut"), *more, "--resume") == 0
    whole, cut = (latest_checkpoint(tmp_path / n / "checkpoints") for n in ("whole", "cut"))
    assert whole is not None and cut is not None and cut.name == "step_00000012"
    _same(whole, cut)


def _same(a: Path, b: Path) -> None:
    for file in a.glob("*.safetensors"):
        ours, theirs = load_file(file), load_file(b / file.name)
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            assert torch.equal(tensor, theirs[name]), f"{file.name}: {name}"


def test_a_killed_run_ends_in_the_same_bits(tmp_path: Path) -> None:
    """SIGKILL at a random step, with all three kinds of discriminators on."""
    def start(folder: Path) -> warm_python.WarmProcess:
        return warm_python.WarmProcess(
            "-m", "audio_tok.train", "--config", SMOKE, *QUICK, "--resume", "--out", str(folder),
            "--set", "train.steps=12", "--set", "log.save_every=2", "--set", "log.every=1",
            cwd=ROOT,
        )  # fmt: skip

    assert start(tmp_path / "whole").wait(300) == 0
    folder, metrics = tmp_path / "killed", tmp_path / "killed" / "metrics.jsonl"
    last = random.randint(3, 9)
    process = start(folder)
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if metrics.exists() and len(metrics.read_bytes().splitlines()) >= last:
            break
        time.sleep(0.001)
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    assert start(folder).wait(300) == 0
    whole, killed = (latest_checkpoint(p / "checkpoints") for p in (tmp_path / "whole", folder))
    assert whole is not None and killed is not None and killed.name == whole.name
    _same(whole, killed)


def test_sounds_and_spectrograms_reach_the_tracker(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    assert _run("--out", str(run), "--set", "log.tracker=tensorboard") == 0
    found = EventAccumulator(str(run / "tracker"), size_guidance={"audio": 0, "images": 0})
    found.Reload()
    tags = found.Tags()
    assert {"original/0", "decoded/0", "original/1", "decoded/1"} <= set(tags["audio"])
    assert any(tag.startswith("spectrogram/0") for tag in tags["images"])
    assert found.Audio("decoded/0")[-1].sample_rate == 24000
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    scores = {key for line in lines for key in line if key.startswith("validation/")}
    assert {"validation/mel_distance", "validation/si_sdr"} <= scores


def test_two_processes_train_together(tmp_path: Path) -> None:
    done = warm_python.launch(
        "-m", "audio_tok.train", "--config", SMOKE, *QUICK, "--out", str(tmp_path / "run"),
        "--set", "train.steps=8", processes=2, cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert "on 2 x cpu" in done.stdout and load(tmp_path / "run" / "model")


class Perfect(torch.nn.Module):
    """A codec without loss, for the measures."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def decode(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens


def test_monitor_scores_a_perfect_copy_perfectly() -> None:
    sounds = 0.5 * torch.rand(3, 1, 24000) - 0.25
    monitor = AudioMonitor(sounds, 24000, shown=2)
    scores = monitor.scores(Perfect())
    assert scores["mel_distance"] == 0.0 and scores["si_sdr"] == 100.0
    assert set(monitor.sounds(Perfect())) == {"original/0", "decoded/0", "original/1", "decoded/1"}
    pictures = monitor.pictures(Perfect())
    assert set(pictures) == {"spectrogram/0", "spectrogram/1"}
    top, bottom = np.split(np.delete(pictures["spectrogram/0"], range(128, 132), axis=0), 2)
    assert np.array_equal(top, bottom)


def test_spectrogram_shows_a_tone_at_its_height() -> None:
    t = torch.arange(24000) / 24000
    heights = []
    for pitch in (500.0, 4000.0):
        picture = spectrogram_picture([torch.sin(2 * torch.pi * pitch * t)], 24000)
        assert picture.shape == (128, 101, 3) and picture.dtype == np.uint8
        brightest = int(picture[:, 50].astype(int).sum(axis=1).argmax())
        heights.append(127 - brightest)
    top = 2595 * np.log10(1 + 12000 / 700)
    for pitch, height in zip((500.0, 4000.0), heights, strict=True):
        assert height == pytest.approx(127 * 2595 * np.log10(1 + pitch / 700) / top, abs=1.5)


def test_card_of_a_finished_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from audio_tok import held_out_speech

    monkeypatch.setattr(
        held_out_speech, "held_out_utterances", lambda: held_out_speech_first(2)
    )
    assert _run("--out", str(tmp_path / "run")) == 0
    held_out_speech._spoken.cache_clear()
    scores = write_model_card(tmp_path / "run", tmp_path / "model", machine="a desk")
    held_out_speech._spoken.cache_clear()
    assert scores["sentences"] == 2 and scores["mel_distance"] > 0
    card = (tmp_path / "model" / "README.md").read_text()
    assert "a desk" in card and "100 tokens a second" in card and "{" not in card
    assert load(tmp_path / "model").code_hash()[:16] in card


def held_out_speech_first(count: int) -> tuple[Any, ...]:
    from tok_core.procedural_speech import held_out_utterances

    return held_out_utterances()[:count]
