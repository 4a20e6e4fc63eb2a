"""RAR over RobusTok's codes against outputs of the official code, through the importer.

Mixed cases draw one number per position before anything is generated; where it lies below sigma,
the preservation ratio, the true code is kept, and what comes later sees it.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from generators.guidance import Guidance
from generators.random_order import permuted
from generators.rar_presets import SamplingPreset, rar_preset
from tests.parity.rar_vectors import (
    check_published,
    condition_of,
    drawn,
    forced,
    published,
    rar_folders,
    rar_of,
    raster_of,
    rows_in_official_table,
    shaped,
    tokens_of,
)
from tests.parity.vectors import Kinds, Tolerance, close, config_of, parity_folder, tensors_of

FOLDER = parity_folder("robusttok")
FOLDERS = rar_folders(FOLDER)
LOGITS, SHARES = Tolerance(absolute=1e-4), Tolerance(absolute=1e-5)
INPUT = re.compile(r"class_ids|tokens|\w+\.orders|generate\.\w+\.(preserve_draw|drawn_tokens)")
KINDS = Kinds(FOLDERS, LOGITS, elsewhere=INPUT)
kind = KINDS.kind
CASES = [
    pytest.param(folder, case, id=f"{folder.name}-{case}")
    for folder in FOLDERS for case in config_of(folder)["sampling_cases"]
]  # fmt: skip


def _orders(folder: Path, name: str) -> Tensor:
    given = tensors_of(folder).get(f"{name}.orders")
    return raster_of(folder) if given is None else given


def _options(folder: Path, case: str) -> dict[str, Any]:
    return config_of(folder)["sampling_cases"][case]


def _preset(folder: Path, case: str) -> SamplingPreset:
    options = _options(folder, case)
    return rar_preset(
        options["guidance_scale"], options["guidance_scale_pow"], options["temperature"]
    )


def _mask(folder: Path, case: str) -> Tensor | None:
    sigma = _options(folder, case)["preserve_ratio_sigma"]
    draw = tensors_of(folder).get(f"generate.{case}.preserve_draw")
    return None if sigma is None or draw is None else draw < sigma


@cache
def _generated(folder: Path, case: str) -> tuple[Tensor, Tensor]:
    """Return ids (B, L) and the probabilities (B, L, V) that they were drawn from."""
    recorded = tensors_of(folder)[f"generate.{case}.drawn_tokens"]
    shares: list[Tensor] = []

    def choose(probabilities: Tensor, places: Tensor, factor: int) -> Tensor:
        shares.append(probabilities)
        return recorded[:, places]

    mask = _mask(folder, case)
    kept = {} if mask is None else {"given": shaped(folder, tokens_of(folder)), "keep": mask}
    ids = drawn(folder, _preset(folder, case), choose=choose, **kept)
    return ids, torch.cat(shares, dim=1)


@kind("condition ids", r"(none_)?condition_ids")
def _condition_ids(folder: Path, null: str | None) -> Tensor:
    model, condition = rar_of(folder), condition_of(folder)
    batch = len(tokens_of(folder))
    vectors = model.condition.null(batch) if null else model.condition(condition, batch)
    return rows_in_official_table(folder, vectors[:, 0])


@kind("labels", r"(\w+)\.labels")
def _labels(folder: Path, name: str) -> Tensor:
    return permuted(tokens_of(folder), _orders(folder, name))


@kind("logits", r"(\w+)\.logits(_uncond)?")
def _logits(folder: Path, name: str, null: str | None) -> Tensor:
    return forced(folder, tokens_of(folder), _orders(folder, name), null=bool(null))


@kind("losses", r"(\w+)\.(ar_loss|correct_tokens)", Tolerance(relative=1e-5))
def _loss(folder: Path, name: str, what: str) -> Tensor:
    codes = shaped(folder, tokens_of(folder))
    out = rar_of(folder)(codes, condition=condition_of(folder), orders=_orders(folder, name))
    return out.losses["loss/tokens"] if what == "ar_loss" else out.statistics["accuracy"]


@kind("guidance schedule", r"generate\.(\w+)\.cfg_scale_per_step", SHARES)
def _schedule(folder: Path, case: str) -> Tensor:
    options, steps = _options(folder, case), tokens_of(folder).shape[1]
    # Recorded by its formula where guidance is off, too.
    guidance = Guidance(
        scale=options["guidance_scale"], power=options["guidance_scale_pow"],
        schedule="power_cosine",
    )  # fmt: skip
    return torch.tensor([guidance.at(step, steps) for step in range(steps)])


@kind("kept", r"generate\.(\w+)\.preserve_mask")
def _preserved(folder: Path, case: str) -> Tensor:
    mask = _mask(folder, case)
    assert mask is not None
    return mask.long()


@kind("ids", r"generate\.(\w+)\.ids")
def _ids(folder: Path, case: str) -> Tensor:
    return _generated(folder, case)[0]


@kind("probabilities", r"generate\.(\w+)\.probs", SHARES)
def _probabilities(folder: Path, case: str) -> Tensor:
    return _generated(folder, case)[1]


@pytest.mark.parametrize(("folder", "key"), KINDS.cases())
def test_official_outputs(folder: Path, key: str) -> None:
    KINDS.check(folder, key)


def test_every_kind_is_found() -> None:
    assert FOLDERS and CASES and not KINDS.unused()
    assert not [key for folder in FOLDERS for key in KINDS.unknown(folder)]


@pytest.mark.parametrize(("folder", "case"), CASES)
def test_probabilities_without_a_cache(folder: Path, case: str) -> None:
    expected, ids = (tensors_of(folder)[f"generate.{case}.{name}"] for name in ("probs", "ids"))
    preset, raster = _preset(folder, case), raster_of(folder)
    logits = forced(folder, ids, raster)[:, :-1]
    null = forced(folder, ids, raster, null=True)[:, :-1]
    steps = ids.shape[1]
    scales = torch.tensor([preset.guidance.at(step, steps) for step in range(steps)])
    mixed = null + (logits - null) * scales[:, None]
    close(preset.token_filter.probabilities(mixed), expected, SHARES)


@pytest.mark.parametrize(("name", "rows"), published(FOLDER).items())
def test_published_files_map_onto_the_model(name: str, rows: list[Any]) -> None:
    check_published(name, rows)
