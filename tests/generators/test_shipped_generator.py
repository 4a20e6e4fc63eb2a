"""The shipped generators: whose tokens they draw, how large they are; what the pictures show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from eval.labelled_pictures import RECOGNISED, class_scores, real_pictures, seen
from eval.procedural_distance import NAME
from tessera.demo_generated import SPEECH_GENERATOR
from tessera.generator_pipeline import DEFAULT_GENERATOR, open_pipeline
from tok_core.image_measures import to_uint8
from tok_core.loading import load

MODELS = Path(__file__).resolve().parents[2] / "assets" / "models"
FOLDER = MODELS / DEFAULT_GENERATOR


@pytest.mark.parametrize(
    ("name", "tokenizer", "most"),
    [(DEFAULT_GENERATOR, "vqgan-tiny", 8e6), (SPEECH_GENERATOR, "wavtokenizer-tiny", 6e6)],
)
def test_it_draws_tokens_of_the_shipped_tokenizer(name: str, tokenizer: str, most: float) -> None:
    """When the tokenizer is trained anew, so must be what was trained on its tokens."""
    generator, own = load(MODELS / name), load(MODELS / tokenizer)
    generator.check_fits(own)
    assert generator.config["code_hash"] == own.code_hash()
    assert sum(file.stat().st_size for file in (MODELS / name).glob("*.safetensors")) < most


def test_card_holds_its_scores() -> None:
    scores = json.loads((FOLDER / "scores.json").read_text())
    card = (FOLDER / "README.md").read_text()
    assert f"{scores['scores']['2'][NAME]:.2f}" in card and "paint_pictures.py" in card
    # Far from noise, and no better than what its tokenizer can show.
    assert scores["scores"]["reconstructed"][NAME] < scores["scores"]["2"][NAME] < 8
    assert scores["loss"] < 2.0


def test_pictures_show_what_was_asked_for() -> None:
    pipe: Any = open_pipeline()
    pipe.set_progress_bar_config(disable=True)
    # Stripes and a checkerboard are what so small a model is surest of.
    labels = [9] * 6 + [10] * 6
    seeds = [torch.Generator().manual_seed(i) for i in range(12)]
    made = pipe(labels, guidance_scale=2.0, generator=seeds, output_type="pt").images
    assert made.shape == (12, 3, 128, 128)
    found = class_scores(
        seen(to_uint8(made)), torch.tensor(labels), seen(real_pictures(128, 12)[0])
    )
    assert found[RECOGNISED] > 0.5
