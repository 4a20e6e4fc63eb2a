"""PSNR and SSIM against the reference vectors and by hand."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tok_core.errors import MediaError
from tok_core.image_measures import psnr, ssim, to_uint8

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("TESSERA_PARITY_DIR", ROOT / "../shared/parity")) / "metrics"
FOLDER = FOLDER / "image_pairs"
CONFIG = json.loads((FOLDER / "config.json").read_text())["pairs"] if FOLDER.is_dir() else {}
# One entry is a batch of others with scores of other conventions.
PAIRS = {name: scores for name, scores in CONFIG.items() if "shape_hwc" in scores}


@pytest.mark.parametrize("name", PAIRS)
def test_reference_pairs(name: str) -> None:
    vectors = load_file(FOLDER / "io.safetensors")
    a, b = (vectors[f"{name}.{k}"].permute(2, 0, 1)[None] for k in ("test", "reference"))
    wanted = PAIRS[name]
    if "ssim_gaussian_sigma1.5_population_skimage_uint8" in wanted:
        expected = wanted["ssim_gaussian_sigma1.5_population_skimage_uint8"]
        assert float(ssim(a, b)) == pytest.approx(expected, abs=1e-6)
    if math.isfinite(float(wanted.get("psnr_uint8_range255_skimage") or math.inf)):
        expected = wanted["psnr_uint8_range255_skimage"]
        assert float(psnr(a, b)) == pytest.approx(expected, abs=1e-4)
    elif name == "identical":
        assert float(psnr(a, b)) == math.inf
    floats = [x.float() / 127.5 - 1 for x in (a, b)]
    assert torch.equal(psnr(*floats), psnr(a, b))
    assert torch.equal(ssim(*floats), ssim(a, b))


@pytest.mark.skipif(not FOLDER.is_dir(), reason="no parity folder for metrics")
def test_byte_rule_vectors() -> None:
    vectors = load_file(FOLDER / "io.safetensors")
    assert torch.equal(
        to_uint8(vectors["to_uint8.input_minus1_1"]), vectors["to_uint8.round_of_clamped"]
    )


def test_every_byte_comes_back() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    for dtype in (torch.float32, torch.float64):
        assert torch.equal(to_uint8(levels.to(dtype) / 127.5 - 1), levels)


def test_by_hand_and_per_picture() -> None:
    black, grey = torch.full((1, 3, 5, 7), -1.0), torch.full((1, 3, 5, 7), 10 / 127.5 - 1)
    both = psnr(torch.cat([grey, black]), torch.cat([black, black]))
    assert both.tolist() == [pytest.approx(20 * math.log10(25.5)), math.inf]


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 2), (4, 30), (10, 10), (11, 11), (12, 64)])
def test_ssim_of_any_size(size: tuple[int, int]) -> None:
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    same, other = ssim(x, x), ssim(x, -x)
    assert torch.allclose(same, torch.ones(2, dtype=torch.float64), atol=1e-12)
    assert bool((other < 0.9).all())


def test_what_cannot_be_measured_is_one_sentence() -> None:
    with pytest.raises(MediaError, match="cannot be compared"):
        psnr(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 5))
    with pytest.raises(MediaError, match="NaN"):
        to_uint8(torch.tensor([math.nan]))
