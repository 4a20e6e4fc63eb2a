"""PSNR, SSIM, MS-SSIM and MSE, each convention through the entry of its name.

Byte rules of the same folder are tested in ``test_metrics_preprocess.py``, and the two defaults'
ground floor in ``tests/tok_core/test_image_measures.py``.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from eval.image_quality import ENTRIES
from tests.parity.vectors import config_of, parity_folder, tensors_of

FOLDER = parity_folder("metrics/image_pairs", holds="io.safetensors")

IO, CONFIG = tensors_of(FOLDER), config_of(FOLDER)["pairs"]
METRICS = {entry.name: entry for entry in ENTRIES}

# How the keys begin -> our name; the longest beginning counts.
PER_PAIR = {
    "mse_uint8": "mse",
    "psnr_uint8_range255": "psnr",
    "psnr_unit_range_torchmetrics": "psnr/pooled",
    "psnr_llamagen_convention": "psnr/llamagen",
    "ssim_gaussian11_sigma1.5_population_torchmetrics": "ssim/torchmetrics",
    "ssim_gaussian_sigma1.5_population_skimage": "ssim",
    "ssim_uniform7_sample_skimage_default": "ssim/skimage",
    "ssim_llamagen_convention": "ssim/llamagen",
    "ssim_torchmetrics_data_range_unset": "ssim/torchmetrics-own-range",
    "ssim_gaussian11_luma_bt601_full_range": "ssim/luma",
    "ms_ssim_torchmetrics": "ms_ssim",
}
PER_BATCH = {
    "psnr_mean_of_per_image": "psnr",
    "psnr_of_pooled_mse": "psnr/pooled",
    "ssim_mean": "ssim/torchmetrics",
}


def _name(key: str, names: dict[str, str]) -> str | None:
    fitting = [start for start in names if key.startswith(start)]
    return names[max(fitting, key=len)] if fitting else None


CASES = [
    (pair, key, name)
    for pair, scores in CONFIG.items()
    for key in scores
    if (name := _name(key, PER_BATCH if "order" in scores else PER_PAIR)) is not None
]


def _pair(name: str) -> tuple[Tensor, Tensor]:
    test, reference = (IO[f"{name}.{k}"].permute(2, 0, 1)[None] for k in ("test", "reference"))
    return test, reference


def _tolerance(key: str, name: str) -> float:
    if name.startswith("psnr"):
        return 1e-4
    # LlamaGen's numbers are float32 arithmetic, too.
    return 2e-5 if "float32" in key or "llamagen" in key else 1e-6


@pytest.mark.parametrize(("pair", "key", "name"), CASES)
def test_value(pair: str, key: str, name: str) -> None:
    metric = METRICS[name].build(**METRICS[name].options)
    for member in CONFIG[pair].get("order", [pair]):
        metric.update(*_pair(member))
    wanted = float(CONFIG[pair][key])
    if math.isfinite(wanted):
        assert float(metric.compute()) == pytest.approx(wanted, abs=_tolerance(key, name))
    elif name == "psnr/pooled":
        assert float(metric.compute()) == wanted
    else:
        assert metric.infinite == 1
        assert math.isnan(metric.compute())


def test_every_kind_was_found() -> None:
    assert {name.split("/")[0] for _, _, name in CASES} >= {"psnr", "ssim", "mse"}
    assert {key for _, key, _ in CASES} & PER_BATCH.keys()


def test_an_unquantised_original_changes_llamagen_s_alone() -> None:
    """LlamaGen compares with the float picture, everyone else with its bytes."""
    test, reference = _pair(next(p for p in CONFIG if f"{p}.test" in IO))
    exact = reference.float() / 127.5 - 1
    moved = exact + torch.where(exact < 0, 0.6, -0.6) / 255
    for name in ("psnr", "psnr/llamagen", "ssim", "ssim/llamagen", "ssim/skimage"):
        values = []
        for original in (exact, moved):
            metric = METRICS[name].build(**METRICS[name].options)
            metric.update(test, original)
            values.append(float(metric.compute()))
        assert (values[0] != values[1]) == name.endswith("llamagen"), name
