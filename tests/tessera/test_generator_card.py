"""A finished training becomes a shipped generator with its card; whose tokenizer is found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from eval.labelled_pictures import RECOGNISED, class_scores, real_pictures, seen
from eval.procedural_distance import NAME
from generators.train import main as train
from tessera import generator_card, generator_card_pictures, generator_card_sounds
from tessera.cli import run as tessera
from tessera.generator_pipeline import open_pipeline
from tok_core.errors import ConfigError
from tok_core.loading import load

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator of 2 x 2 tokens of the shipped VQGAN, trained for three steps."""
    folder = tmp_path_factory.mktemp("card") / "run"
    settings: dict[str, Any] = {
        "model.config.width": 32, "model.config.layers": 1, "model.config.heads": 2,
        "data.signals.size": 16, "train.steps": 3, "train.batch_size": 2, "train.device": "cpu",
        "schedule.warmup": 1, "log.tracker": "none", "validation_samples": 2, "shown": 0,
        "export.dtype": "float32",
    }  # fmt: skip
    recipe = ROOT / "assets/configs/generator-llamagen-tiny.yaml"
    words = ["--config", str(recipe), "--out", str(folder)]
    assert train([*words, *(f"--set={key}={value}" for key, value in settings.items())]) == 0
    return folder


def test_card_and_scores(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(generator_card_pictures, "PER_CLASS", 1)
    monkeypatch.setattr(generator_card_pictures.scored, "__defaults__", (1,))
    target = tmp_path / "shipped"
    assert generator_card.main([str(run), str(target), "--machine", "nothing much"]) == 0
    scores = json.loads((target / "scores.json").read_text())
    assert scores["scores"].keys() == {"real", "reconstructed", "1", "2", "4"}
    assert scores["pictures"] == 12 and scores["loss"] > 5
    card = (target / "README.md").read_text()
    assert "2 x 2 tokens of `vqgan-tiny`" in card and "pictures of 16 pixels" in card
    assert "examples/paint_pictures.py" in card and "on nothing much" in card
    assert load(target).config["code_hash"][:16] in card
    assert "reconstructed" in capsys.readouterr().out
    assert generator_card.main([str(tmp_path), str(target)]) == 2


def test_card_of_sounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {
        "model.config.width": 32, "model.config.layers": 1, "model.config.heads": 2,
        "data.signals.segment": 4800, "train.steps": 2, "train.batch_size": 2,
        "train.device": "cpu", "schedule.warmup": 1, "log.tracker": "none",
        "validation_samples": 2, "shown": 0,
    }  # fmt: skip
    recipe, run, target = (
        ROOT / "assets/configs/generator-speech-tiny.yaml", tmp_path / "run", tmp_path / "shipped",
    )  # fmt: skip
    words = ["--config", str(recipe), "--out", str(run)]
    assert train([*words, *(f"--set={key}={value}" for key, value in settings.items())]) == 0
    monkeypatch.setattr(generator_card_sounds.scored, "__defaults__", (3,))
    assert generator_card.main([str(run), str(target)]) == 0
    scores = json.loads((target / "scores.json").read_text())
    assert scores["scores"].keys() == {"real", "reconstructed", "shuffled", "1", "0.9", "0.8"}
    assert scores["sounds"] == 3 and scores["scores"]["real"] != scores["scores"]["1"]
    card = (target / "README.md").read_text()
    assert "draws | 20 tokens of `wavtokenizer-tiny`" in card and "0.2 s of sound" in card
    assert "examples/speak_sounds.py" in card and "tokenized on the fly" in card


def test_tokenizer_is_found_by_its_code_hash(run: Path, tmp_path: Path) -> None:
    pipe: Any = open_pipeline(str(run / "model"))
    assert pipe.tokenizer.code_hash() == load(ROOT / "assets/models/vqgan-tiny").code_hash()
    assert pipe([3], generator=torch.Generator().manual_seed(0)).images[0].size == (16, 16)
    assert tessera(["generate", str(run / "model"), "-o", str(tmp_path / "out"), "-n", "2"]) == 0
    assert len(list((tmp_path / "out").iterdir())) == 2
    model = load(run / "model")
    model.register_to_config(code_hash="f" * 64)
    model.save_pretrained(tmp_path / "stranger")
    with pytest.raises(ConfigError, match="no shipped tokenizer makes"):
        open_pipeline(str(tmp_path / "stranger"))


def test_scores_tell_real_pictures_from_others() -> None:
    pictures, _ = real_pictures(64, 48)
    others, theirs = real_pictures(64, 48, start=48)
    reference = seen(pictures)
    real = class_scores(seen(others), theirs, reference)
    noise = torch.randint(0, 256, others.shape, dtype=torch.uint8)
    wrong = class_scores(seen(noise), theirs, reference)
    assert real[NAME] < wrong[NAME] and real[RECOGNISED] > 0.9 > wrong[RECOGNISED]
    assert class_scores(seen(others), (theirs + 1) % 12, reference)[RECOGNISED] < 0.1
