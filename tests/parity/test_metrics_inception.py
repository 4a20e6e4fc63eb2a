"""The FID Inception with formula weights, and the TF1 resize, against torch-fidelity.

Images, taps and precisions are read from the keys, sizes from ``config.json``; the weights are
filled by the rule of the folder's README.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from eval.inception import DIMENSIONS, FidInception
from eval.inception_resize import tf_bilinear
from tests.eval.formula_weights import formula_image, formula_state
from tests.parity.vectors import PARITY, SHARED, config_of, parity_folder, tensors_of

FOLDER = parity_folder("metrics/inception", holds="io.safetensors")
# The manifest is not part of every set.
MANIFESTS = [
    file for root in (PARITY, SHARED)
    if (file := root / "metrics" / "manifest_full.json").is_file()
]  # fmt: skip
if not MANIFESTS:
    pytest.skip(f"no parity vectors at {FOLDER}", allow_module_level=True)

IO, CONFIG = tensors_of(FOLDER), config_of(FOLDER)
INTERNAL = ".float64_internal"
FEATURES = sorted(
    key for key in IO
    if key.startswith("image") and key.removesuffix(INTERNAL).rpartition(".")[2] in DIMENSIONS
)  # fmt: skip
RESIZED = sorted(key for key in IO if key.startswith("resize.") and (
    key.endswith(".output") or ".rows_" in key))  # fmt: skip
CHECKS = CONFIG.get("formula_weight_checks", {})


@cache
def state() -> dict[str, Tensor]:
    return formula_state(MANIFESTS[0], "weights-inception", CONFIG["salt"])


@cache
def network(precision: str) -> FidInception:
    return FidInception.from_state(state(), precision=precision)


@cache
def picture(number: int) -> Tensor:
    stored = IO.get(f"image{number}.uint8")
    about = CONFIG.get(f"image{number}", {})
    if stored is not None:
        return stored
    return formula_image(*about["size_hw"], number, CONFIG["salt"])


@cache
def taps(number: int, precision: str) -> dict[str, Tensor]:
    wanted = {
        key.removesuffix(INTERNAL).rpartition(".")[2] for key in FEATURES
        if key.startswith(f"image{number}.")
    }  # fmt: skip
    found = network(precision).features(picture(number)[None], sorted(wanted))
    return {tap: value[0] for tap, value in found.items()}


@pytest.mark.parametrize("name", sorted(CHECKS))
def test_weights_follow_the_rule(name: str) -> None:
    tensor = state()[name].double()
    assert float(tensor.sum()) == pytest.approx(CHECKS[name]["sum"], abs=1e-9)
    for place, key in ((0, "first"), (-1, "last")):
        assert float(tensor.flatten()[place]) == pytest.approx(CHECKS[name][key], abs=1e-12)


@pytest.mark.parametrize("name", sorted(n for n in CONFIG if n.startswith("image")))
def test_pictures_follow_the_rule(name: str) -> None:
    number, about = int(name.removeprefix("image")), CONFIG[name]
    made = formula_image(*about["size_hw"], number, CONFIG["salt"])
    assert int(made.long().sum()) == about["pixel_sum"]
    assert torch.equal(made, picture(number))


@pytest.mark.parametrize("key", FEATURES)
def test_features(key: str) -> None:
    name, _, tap = key.removesuffix(INTERNAL).rpartition(".")
    number, internal = int(name.removeprefix("image")), key.endswith(INTERNAL)
    found = taps(number, "float64" if internal else "float32")[tap]
    # The vectors are stored in float32, which costs up to half a unit in their last place.
    rounding = float(IO[key].abs().max()) * 2.0**-24 if internal else 0.0
    tolerance = 1e-6 + rounding if internal else 1e-4
    assert float((found.double() - IO[key].double()).abs().max()) <= tolerance


@pytest.mark.parametrize("key", RESIZED)
def test_tf_resize(key: str) -> None:
    case = ".".join(key.split(".")[:2])
    if f"{case}.input" in IO:
        given = IO[f"{case}.input"]
    else:
        height, width, number = IO[f"{case}.input_uint8_key"].tolist()
        given = formula_image(height, width, number, CONFIG["salt"]).float()
    if ".rows_" in key:
        rows = [int(row) for row in key.rpartition(".rows_")[2].split("_")]
        side = IO[key].shape[-1]
        found = tf_bilinear(given[None], (side, side))[0][:, rows]
    else:
        found = tf_bilinear(given[None], tuple(IO[key].shape[-2:]))[0]  # type: ignore[arg-type]
    assert float((found - IO[key]).abs().max()) <= 1e-4


def test_every_kind_was_found() -> None:
    assert FEATURES and RESIZED
    assert any(not key.endswith(INTERNAL) for key in FEATURES)
