"""Scores of the shipped tokenizers on held-out tiles, measured again: a few here, all in smoke."""

from __future__ import annotations

from typing import Any

import pytest

from vision_tok.held_out import held_out_scores

FIRST = 16  # tiles
# PSNR in dB per number of tokens on the first tiles, of the weights that are shipped.
PSNR = {
    "one-d-piece-tiny": {
        "4": 20.6647, "8": 22.2213, "16": 24.0618, "32": 26.2626, "64": 28.2402, "128": 29.345,
        "256": 30.5996,
    },
    "vqgan-tiny": {"256": 26.5927},
    "token-flow-tiny": {"1": 15.9698, "5": 21.0257, "21": 24.3988, "85": 27.5467},
}  # fmt: skip


def assert_first_tiles(model: Any, name: str) -> None:
    """The first tiles score what they did; weights, data or arithmetic that changed show here."""
    scores = held_out_scores(model, most=FIRST)
    assert scores["tiles"] == FIRST
    found = {budget: values["psnr"] for budget, values in scores["budgets"].items()}
    assert found == pytest.approx(PSNR[name], abs=0.05)


def assert_all_tiles(model: Any, written: dict[str, Any]) -> None:
    """All tiles score what the model's folder says."""
    scores = held_out_scores(model)
    assert written["tiles"] == scores["tiles"]
    assert written["budgets"].keys() == scores["budgets"].keys()
    for budget, values in scores["budgets"].items():
        assert written["budgets"][budget]["psnr"] == pytest.approx(values["psnr"], abs=0.02)
