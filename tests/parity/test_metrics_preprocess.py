"""Evaluation crops and byte rules against what the official repositories do."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from tests.parity.vectors import PARITY, keys_of, tensors_of
from tok_core.byte_rules import byte_rule
from tok_core.evaluation_crop import evaluation_crop, image_bytes

FOLDER = PARITY / "metrics"
CROPS = {
    "adm_center_crop_hwc": "adm",
    "shorter_side_bicubic_center_crop_hwc": "shorter-side",
    "lanczos_1.125_center_crop_hwc": "lanczos-1.125",
}
RULES = {"adm": "adm", "round": "round", "truncate": "truncate"}


def _tensors(part: str) -> dict[str, torch.Tensor]:
    return tensors_of(FOLDER / part) if keys_of(FOLDER / part) else {}


CROPPED = [key for key in _tensors("preprocess") if not key.endswith(".input_hwc")]
BYTES = [
    key for key in _tensors("image_pairs")
    if key.startswith("to_uint8.") and not key.startswith("to_uint8.input")
]  # fmt: skip
needs_folder = pytest.mark.skipif(not FOLDER.is_dir(), reason="no reference vectors here")


@needs_folder
@pytest.mark.parametrize("key", CROPPED)
def test_crop(key: str) -> None:
    tensors = _tensors("preprocess")
    case, _, kind = key.partition(".")
    image = Image.fromarray(tensors[f"{case}.input_hwc"].numpy())
    wanted = tensors[key].permute(2, 0, 1)
    found = image_bytes(evaluation_crop(image, CROPS[kind], wanted.shape[1]))
    assert torch.equal(found, wanted)


@needs_folder
@pytest.mark.parametrize("key", BYTES)
def test_byte_rule(key: str) -> None:
    tensors = _tensors("image_pairs")
    name = RULES[key.removeprefix("to_uint8.").split("_")[0]]
    assert torch.equal(byte_rule(name)(tensors["to_uint8.input_minus1_1"]), tensors[key])


@needs_folder
def test_every_kind_was_found() -> None:
    assert {key.partition(".")[2] for key in CROPPED} == set(CROPS)
    assert {key.removeprefix("to_uint8.").split("_")[0] for key in BYTES} == set(RULES)
