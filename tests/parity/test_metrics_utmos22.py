"""UTMOS22-strong against the reference software: a shrunken network, and the full size with
weights filled by the formula of the vectors' README.

Inputs and stages are found by their keys, sizes in the tensors and in ``config.json``.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from eval.utmos import UTMOS
from eval.utmos_network import UtmosNetwork
from tests.parity.vectors import config_of, manifest_of, parity_folder, tensors_of
from tok_core.resample import resample

FOLDER = parity_folder("metrics/utmos22", holds="io.safetensors")

IO, CONFIG = tensors_of(FOLDER), config_of(FOLDER)
RESULTS: dict[str, Any] = CONFIG.get("results", {})
CASES = sorted(key.removesuffix(".wave") for key in IO if key.endswith(".wave"))
FULL: dict[str, Any] = CONFIG.get("full_size_with_formula_weights", {})
STAGES = ("conv_features", "pos_conv", "layer0_TBC", "encoder_out", "blstm", "frame_scores")
TENSORS = [(case, stage) for case in CASES for stage in STAGES if f"{case}.{stage}" in IO]
SCORE, FULL_SCORE, STAGE = 2e-5, 2e-4, 1e-4


def sizes() -> dict[str, Any]:
    found: dict[str, Any] = {"heads": CONFIG["architecture"]["heads"]}
    layers = CONFIG.get("conv_layers_channels_kernel_stride")
    if layers:
        found["strides"] = [stride for _, _, stride in layers]
    if "layer_norm_eps" in CONFIG:
        found["eps"] = CONFIG["layer_norm_eps"]
    return found


@cache
def small() -> UtmosNetwork:
    return UtmosNetwork.from_state(load_file(FOLDER / "weights.safetensors"), **sizes())


def rate(case: str) -> int:
    return int(RESULTS.get(case, {}).get("sample_rate", 16_000))


def wave(case: str) -> Tensor:
    return resample(IO[f"{case}.wave"][None], rate(case), 16_000)


@cache
@torch.no_grad()
def stages(case: str) -> dict[str, Tensor]:
    """Every stage of our network, in the shapes of the vectors."""
    found: dict[str, Tensor] = {}
    network = small()
    encoder = network.wav2vec2.encoder

    def note(name: str) -> Any:
        def hook(_: object, __: object, out: Any) -> None:
            found[name] = (out[0] if isinstance(out, tuple) else out).detach()

        return hook

    parts = {
        "conv_features": network.wav2vec2.feature_extractor, "pos_conv": encoder.pos_conv[0],
        "layer0_TBC": encoder.layers[0], "encoder_out": encoder, "blstm": network.blstm,
    }  # fmt: skip
    hooks = [part.register_forward_hook(note(name)) for name, part in parts.items()]
    found["frame_scores"] = network.frame_scores(wave(case))
    for hook in hooks:
        hook.remove()
    return {name: tensor[0] for name, tensor in found.items()}


def test_every_kind_is_there() -> None:
    assert CASES and TENSORS
    assert any(f"{case}.score" in IO for case in CASES)


@pytest.mark.parametrize(("case", "stage"), TENSORS)
def test_stage(case: str, stage: str) -> None:
    ours, expected = stages(case)[stage], IO[f"{case}.{stage}"]
    if stage == "layer0_TBC":  # the reference pads to an even number of frames
        expected = expected[: len(ours), 0]
    if ours.shape != expected.shape and ours.dim() == 2:
        ours = ours.T
    assert ours.shape == expected.shape
    assert float((ours - expected).abs().max()) <= STAGE


@pytest.fixture(scope="module")
def metric(tmp_path_factory: pytest.TempPathFactory) -> UTMOS:
    """The metric over the weights as a file that also holds what is dropped by name."""
    state = load_file(FOLDER / "weights.safetensors")
    state.setdefault("wav2vec2.mask_emb", torch.zeros(8))
    file = tmp_path_factory.mktemp("utmos") / "weights.safetensors"
    save_file(state, file)
    return UTMOS(weights=file, heads=CONFIG["architecture"]["heads"])


@pytest.mark.parametrize("case", [c for c in CASES if f"{c}.score" in IO])
def test_score(case: str, metric: UTMOS) -> None:
    metric.reset()
    metric.update(wave(case))
    assert float(metric.compute()) == pytest.approx(float(IO[f"{case}.score"]), abs=SCORE)


def test_scores_of_other_inputs(metric: UTMOS) -> None:
    """A batch, gains, and the refusal of what is too short, as far as the set has them."""
    by_letter = {case[0]: case for case in CASES}
    for key, expected in RESULTS.items():
        if key.startswith("batch_of_"):
            names = [by_letter[one] for one in key.removeprefix("batch_of_").split("_and_")]
            values, _ = metric.measure(torch.cat([wave(name) for name in names]))
            assert values.tolist() == pytest.approx(expected, abs=SCORE)
        elif "_times_" in key:
            name, _, gain = key.partition("_times_")
            values, _ = metric.measure(wave(by_letter[name]) * float(gain))
            assert values.tolist() == pytest.approx([expected], abs=SCORE)
        elif key.endswith("_samples"):
            values, codes = metric.measure(torch.ones(1, int(key.removesuffix("_samples"))))
            assert bool(values.isnan().all()) and bool((codes > 0).all())


# -- full size -----------------------------------------------------------------------------------


def formula(shape: list[int], name: str, place: int, salt: int) -> Tensor:
    """Fill a tensor by the rule of the vectors' README, in 32-bit wrap-around arithmetic."""
    count = math.prod(shape)
    x = np.arange(1, count + 1, dtype=np.uint32)
    offset = ((place + 1) * 0x85EBCA77 + salt) & 0xFFFFFFFF
    x *= np.uint32(0x9E3779B1)
    x += np.uint32(offset)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x ^= x >> np.uint32(shift)
        x *= np.uint32(factor)
    x ^= x >> np.uint32(16)
    u = (x + 0.5) / 2.0**32
    if len(shape) > 1:
        u = (2 * u - 1) * math.sqrt(3.0) * math.sqrt(2.0 / math.prod(shape[1:]))
    elif name.endswith("weight"):
        u = 0.75 + 0.5 * u
    else:
        u = 0.2 * (2 * u - 1)
    return torch.from_numpy(u.astype(np.float32).reshape(shape))


@pytest.fixture(scope="module")
def full() -> UtmosNetwork:
    manifest = manifest_of(FOLDER.parent)
    rows = next(rows for name, rows in manifest.items() if name.startswith("utmos22_strong"))
    state = {
        name: formula(shape, name, place, FULL["salt"])
        for place, (name, shape, _) in enumerate(rows)
    }
    network = UtmosNetwork.from_state(state)
    if "parameters" in FULL:
        assert sum(t.numel() for t in state.values()) == FULL["parameters"]
    return network


if FULL.get("scores"):

    @pytest.mark.parametrize("case", sorted(FULL["scores"]))
    @torch.no_grad()
    def test_full_size(case: str, full: UtmosNetwork) -> None:
        found = float(full(wave(case)))
        assert found == pytest.approx(FULL["scores"][case], abs=FULL_SCORE)


if FULL and (FOLDER / "io_full_size.safetensors").is_file():

    @torch.no_grad()
    def test_full_size_frames(full: UtmosNetwork) -> None:
        ending = ".encoder_out_first_and_last_frame"
        for key, expected in load_file(FOLDER / "io_full_size.safetensors").items():
            if key.endswith(ending):
                encoded = full.wav2vec2(wave(key.removesuffix(ending)))[0]
                assert float((encoded[[0, -1]] - expected).abs().max()) <= FULL_SCORE
