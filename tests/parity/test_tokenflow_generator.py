"""How TokenFlow's generator draws a scale, against probabilities of the official sampler.

Its inputs are tested in `test_tokenflow_quantizers`, what it decodes in `test_tokenflow`.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from torch import Tensor

from generators.guidance import guided
from generators.token_filter import TokenFilter
from tests.parity.vectors import Kinds, Tolerance, folders_with, parity_folder, tensors_of

FOLDER = parity_folder("tokenflow")
KINDS = Kinds(folders_with("io.safetensors", FOLDER), Tolerance(absolute=1e-6))


@KINDS.kind("probabilities", r"ar\.sampling\.probabilities_topk(\d+)_topp([\d.]+)")
def _probabilities(folder: Path, k: str, p: str) -> Tensor:
    stored = tensors_of(folder)
    logits = stored["ar.sampling.logits_cond_then_uncond"]
    # (1 + t) c - t u with t rising linearly to the scale, in our words a scale of 1 + t.
    rise = float(stored["ar.sampling.cfg"]) * float(stored["ar.sampling.scale_ratio"])
    mixed = guided(logits, 1 + rise, len(logits) // 2)
    # Text shares the vocabulary; inside a picture its ids cannot be drawn.
    mixed[..., : int(stored["ar.sampling.first_image_token"])] = -math.inf
    # An official top-p of 0 is none.
    return TokenFilter(top_k=int(k), top_p=float(p) or 1.0).probabilities(mixed)


@pytest.mark.parametrize(("folder", "key"), KINDS.cases())
def test_vector(folder: Path, key: str) -> None:
    KINDS.check(folder, key)


def test_there_is_one() -> None:
    assert not KINDS.unused()
    sampling = re.compile(r"ar\.sampling\.probabilities.*")
    stored = [key for folder in KINDS.folders for key in tensors_of(folder)]
    assert len(KINDS.cases()) == sum(bool(sampling.fullmatch(key)) for key in stored)
