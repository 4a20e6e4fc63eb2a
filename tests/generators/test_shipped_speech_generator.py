"""The shipped generator of speech: its card, and what it sounds like."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from audio_tok.audio_data import AudioDataConfig, open_audio
from eval.log_mel_crowd import NAME, crowd_distance
from tessera.demo_generated import SPEECH_GENERATOR
from tessera.generator_pipeline import open_pipeline

MODELS = Path(__file__).resolve().parents[2] / "assets" / "models"
FOLDER = MODELS / SPEECH_GENERATOR
COUNT = 24


def test_card_holds_its_scores() -> None:
    scores = json.loads((FOLDER / "scores.json").read_text())
    card = (FOLDER / "README.md").read_text()
    rows = {key: row[NAME] for key, row in scores["scores"].items()}
    assert f"{rows['1']:.2f}" in card and "speak_sounds.py" in card
    # Nearer to speech than the same tokens without order, not nearer than its codec can be.
    assert rows["real"] < rows["reconstructed"] < rows["1"] < rows["shuffled"] / 2
    assert scores["loss"] < 3.0


def test_it_babbles() -> None:
    pipe: Any = open_pipeline(SPEECH_GENERATOR)
    pipe.set_progress_bar_config(disable=True)
    seeds = [torch.Generator().manual_seed(i) for i in range(COUNT)]
    made = pipe(num_per_label=COUNT, generator=seeds, output_type="pt")
    assert made.audios.shape == (COUNT, 1, 72_000) and made.sampling_rate == 24_000
    source = open_audio(AudioDataConfig(source="speech", segment=72_000, seed=0))
    real = torch.stack([source.item(number) for number in range(COUNT)])
    tokens = pipe.tokenizer.encode(real)
    mixed = tokens.codes[..., torch.randperm(300, generator=torch.Generator().manual_seed(0))]
    with torch.inference_mode():
        shuffled = pipe.tokenizer.decode(tokens._replace(codes=mixed))
    spoken, disorder = (crowd_distance(x, real, 24_000) for x in (made.audios, shuffled))
    assert spoken < 0.7 * disorder
