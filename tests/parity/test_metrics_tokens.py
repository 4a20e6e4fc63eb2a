"""Code usage and word error rates against stored statistics."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from eval.code_usage import ENTRIES as USAGE
from eval.rates import nominal_bits
from eval.word_errors import WordErrors
from tests.parity.vectors import config_of, parity_folder, tensors_of
from tok_core.token_spec import Axis, TokenSpec

FOLDER = parity_folder("metrics/tokens", holds="io.safetensors")

IO, CONFIG = tensors_of(FOLDER), config_of(FOLDER)
WORDS: dict[str, Any] = CONFIG.get("wer", {})
SIZE, LENGTH = CONFIG["codebook_size"], IO["indices"].shape[-1]
SPEC = TokenSpec(modality="image", axes=(Axis(name="token", size=LENGTH),), vocabulary=(SIZE,))

# Key -> convention (name of the entry) and key of what compute returns.
STATISTICS = {
    "usage_fraction": ("codes", "usage"),
    "min_frequency": ("codes", "min_frequency"),
    "max_frequency": ("codes", "max_frequency"),
    "entropy_bits_eps1e-8": ("codes/1d-tokenizer", "entropy"),
    "entropy_bits_exact": ("codes", "entropy"),
    "perplexity_2_to_exact_entropy": ("codes", "perplexity"),
    "perplexity_exp_natural_eps1e-10": ("codes/ema-vq", "perplexity"),
    "ideal_entropy_coded_bits_per_image_independent_positions": ("codes", "bits_bound"),
}
CURVES = {
    "frequencies": ("codes", "counts"),
    "per_position_entropy_bits_eps1e-8": ("codes/1d-tokenizer", "position_entropy"),
    "per_position_entropy_bits_exact": ("codes", "position_entropy"),
}
RATES = {
    "wer_pooled": ("word", "pooled"),
    "cer_pooled": ("character", "pooled"),
    "wer_mean_of_each": ("word", "per-file"),
    "cer_mean_of_each": ("character", "per-file"),
}


@cache
def statistics(convention: str) -> dict[str, Tensor]:
    entry = next(one for one in USAGE if one.name == convention)
    metric = entry.build(spec=SPEC, **entry.options)
    for part in IO["indices"].reshape(-1, LENGTH).split(7):
        metric.update(part)
    return metric.compute()


@pytest.mark.parametrize("key", [key for key in STATISTICS if key in CONFIG])
def test_statistic(key: str) -> None:
    convention, name = STATISTICS[key]
    assert float(statistics(convention)[f"codes/{name}"]) == pytest.approx(CONFIG[key], rel=1e-9)


@pytest.mark.parametrize("key", [key for key in CURVES if key in IO])
def test_curve(key: str) -> None:
    convention, name = CURVES[key]
    torch.testing.assert_close(
        statistics(convention)[f"codes/{name}"], IO[key].double(), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("key", [key for key in ("bits_per_token_fixed",) if key in CONFIG])
def test_fixed_bits(key: str) -> None:
    assert nominal_bits(SPEC, 1) == pytest.approx(CONFIG[key], rel=1e-12)
    bits = float(statistics("codes")["codes/bits"])
    assert bits == pytest.approx(LENGTH * CONFIG[key], rel=1e-12)


def texts() -> tuple[list[str], list[str]]:
    pairs = WORDS["pairs_reference_hypothesis"]
    return [heard for _, heard in pairs], [said for said, _ in pairs]


@pytest.mark.parametrize("key", [key for key in RATES if key in WORDS])
def test_word_errors(key: str) -> None:
    unit, average = RATES[key]
    metric = WordErrors(unit, average=average)
    metric.update(*texts())
    assert float(metric.compute()) == pytest.approx(WORDS[key], rel=1e-6)


@pytest.mark.parametrize("key", [key for key in WORDS if key.endswith("_each")
                                 and isinstance(WORDS[key], list)])  # fmt: skip
def test_each_text(key: str) -> None:
    metric = WordErrors("word" if key.startswith("wer") else "character")
    metric.update(*texts())
    assert metric.collected()[0].tolist() == pytest.approx(WORDS[key], rel=1e-6)


def test_every_kind_was_found() -> None:
    assert STATISTICS.keys() & CONFIG.keys()
    assert CURVES.keys() & IO.keys()
    assert RATES.keys() & WORDS.keys()
