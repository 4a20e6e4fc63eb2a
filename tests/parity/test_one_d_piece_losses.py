"""The stage-2 loss module against outputs of the official code.

Cases are found by what the files hold: every folder of the set whose weights hold a blur
discriminator, every key prefix of its ``io.safetensors``.  Vectors are on [0, 1] pictures; ours
are fed the same pictures on [-1, 1].
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.parity.vectors import (
    Tolerance,
    close,
    config_of,
    folders_with,
    keys_of,
    parity_folder,
    tensors_of,
)
from tok_core.contract import Tokens, TrainingOutput
from tok_core.weight_files import read_weights
from vision_tok.image_objective import ImageObjective, ImageObjectiveConfig
from vision_tok.image_objective_import import import_official_losses

FOLDER = parity_folder("one-d-piece")

LOSS = Tolerance(peak=1e-5, floor=1.0)
GRADIENT = Tolerance(peak=1e-4)
FOLDERS = [
    folder for folder in folders_with("weights.safetensors", FOLDER)
    if any(key.startswith("discriminator.block_in.") for key in keys_of(folder, "weights"))
]  # fmt: skip


@cache
def _settings(folder: Path) -> dict[str, Any]:
    """The folder's config with abbreviated option names written out."""
    config = config_of(folder)
    return config | {name: config[key] for key, name in config.get("names", {}).items()}


def _objective(folder: Path, **changes: Any) -> ImageObjective:
    settings = _settings(folder)
    kind = settings.get("reconstruction_loss", "l2")
    weight = settings.get("reconstruction_weight", 1.0)
    config = ImageObjectiveConfig(**{
        "l2_weight": weight if kind == "l2" else 0.0,
        "l1_weight": weight if kind == "l1" else 0.0,
        "perceptual_weight": settings["perceptual_weight"],
        "quantizer_weight": settings["quantizer_weight"],
        "discriminator_start": settings["discriminator_start"],
        "discriminator_weight": settings["discriminator_weight"],
        "discriminator_factor": settings["discriminator_factor"],
        "lecam_weight": settings["lecam_regularization_weight"],
        "lecam_decay": settings.get("lecam_ema_decay", 0.999),
    } | changes)
    return import_official_losses(
        read_weights(folder / "weights.safetensors"), config,
        groups=settings.get("group_norm_groups", 32), slope=settings.get("leaky_relu_slope", 0.1),
    )


def _cases(pattern: str) -> list[Any]:
    """(folder, *groups of the pattern) once per distinct match over all keys."""
    found: dict[tuple[Any, ...], str] = {}
    for folder in FOLDERS:
        for key in tensors_of(folder):
            if match := re.fullmatch(pattern, key):
                label = "-".join([folder.name, *match.groups()]).replace("/", "-")
                found[(folder, *match.groups())] = label
    return [pytest.param(*case, id=label) for case, label in found.items()]


KINDS = {
    "blur": r"(blur.*)/in",
    "discriminator_named": r"(discriminator.*)/logits_(?!real|fake)(\w+)",
    "discriminator_stored": r"(discriminator.*)/(\w+)_input",
    "discriminator_call": r"(discriminator_call\d+)/(?!grad/)(.+)",
    "discriminator_gradient": r"(discriminator_call\d+)/grad/(.+)",
    "generator": r"(generator_\w+)/(?!grad_)(.+)",
    "generator_gradient": r"(generator_\w+)/grad_(\w+)",
    "perceptual_logits": r"perceptual/logits_(\w+)",
    "perceptual_resize": r"perceptual/resized_(\w+)_top_left_(\d+)x(\d+)",
    "perceptual_raw": r"perceptual/(raw)",
}


def _check(actual: Tensor | float, expected: Tensor, tolerance: Tolerance = LOSS) -> None:
    close(torch.as_tensor(actual).reshape(expected.shape), expected, tolerance)


def _output(folder: Path, reconstruction: Tensor, losses: dict[str, Tensor]) -> TrainingOutput:
    codes = torch.zeros(len(reconstruction), 1, dtype=torch.int64)
    return TrainingOutput(reconstruction * 2 - 1, Tokens(codes), losses, {})


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_found(kind: str) -> None:
    assert _cases(KINDS[kind])


@pytest.mark.parametrize(("folder", "case"), _cases(KINDS["blur"]))
def test_blur(folder: Path, case: str) -> None:
    blur = _objective(folder).discriminator.blocks[0][1]
    _check(blur(tensors_of(folder)[f"{case}/in"]), tensors_of(folder)[f"{case}/out"])


@pytest.mark.parametrize(("folder", "case", "name"), _cases(KINDS["discriminator_named"]))
def test_discriminator_logits(folder: Path, case: str, name: str) -> None:
    io = tensors_of(folder)
    _check(_objective(folder).discriminator(io[name]), io[f"{case}/logits_{name}"])


@pytest.mark.parametrize(("folder", "case", "name"), _cases(KINDS["discriminator_stored"]))
def test_discriminator_logits_of_stored_input(folder: Path, case: str, name: str) -> None:
    io = tensors_of(folder)
    logits = _objective(folder).discriminator(io[f"{case}/{name}_input"])
    _check(logits, io[f"{case}/{name}_logits"])


def _step(folder: Path, case: str) -> int:
    start = _settings(folder)["discriminator_start"]
    if number := re.search(r"(\d+)$", case):
        return int(number[1])
    return start + (-1 if "before" in case else 1 if "after" in case else 0)


@cache
def _generator(folder: Path, case: str) -> tuple[dict[str, Tensor], dict[str, Any], Tensor]:
    """Our terms, our statistics and the gradient on [0, 1] reconstructions."""
    io = tensors_of(folder)
    # The quantizer's two logged parts, and whatever else its total held.
    losses = {
        "quantizer/codebook": io[f"{case}/codebook_loss"],
        "quantizer/commitment": io[f"{case}/commitment_loss"],
    }
    losses["quantizer/rest"] = io["quantizer_loss_in"] - sum(losses.values())
    reconstruction = io["reconstructions"].clone().requires_grad_()
    objective = _objective(folder)
    out = _output(folder, reconstruction, losses)
    terms = objective.generator_losses(io["inputs"] * 2 - 1, out, _step(folder, case))
    sum(terms.values()).backward()
    assert all(parameter.grad is None for parameter in objective.parameters())
    return terms, objective.last_statistics, reconstruction.grad


@pytest.mark.parametrize(("folder", "case", "name"), _cases(KINDS["generator"]))
def test_generator_terms(folder: Path, case: str, name: str) -> None:
    terms, statistics, _ = _generator(folder, case)
    expected = tensors_of(folder)[f"{case}/{name}"]
    settings = _settings(folder)
    parts = [term for key, term in terms.items() if key.startswith("loss/quantizer/")]
    quantizer = sum(parts, torch.zeros(()))
    gan_scale = settings["discriminator_weight"] * settings["discriminator_factor"]
    ours = {
        "total_loss": (sum(terms.values()), 1.0),
        "reconstruction_loss": (terms["loss/reconstruction"], 1.0),
        "perceptual_loss": (terms["loss/perceptual"], settings["perceptual_weight"]),
        "quantizer_loss": (quantizer, 1.0),
        "weighted_gan_loss": (terms.get("loss/gan", 0.0), gan_scale),
        "gan_loss": (statistics.get("gan", 0.0), 1.0),
        "d_weight": (_objective(folder).config.discriminator_weight, 1e-3),
        "discriminator_factor": (statistics["discriminator/factor"], 1.0),
        "codebook_loss": (statistics["quantizer/codebook"], 1.0),
        "commitment_loss": (statistics["quantizer/commitment"], 1.0),
    }
    value, floor = ours[name]
    _check(value, expected, LOSS._replace(floor=floor))


@pytest.mark.parametrize(("folder", "case", "name"), _cases(KINDS["generator_gradient"]))
def test_generator_gradient(folder: Path, case: str, name: str) -> None:
    expected = tensors_of(folder)[f"{case}/grad_{name}"]
    _check(_generator(folder, case)[2], expected, GRADIENT)


@cache
def _discriminator_calls(folder: Path) -> dict[str, dict[str, Tensor]]:
    """Successive evaluations on the same pair: our values and gradients by official name."""
    io = tensors_of(folder)
    objective = _objective(folder)
    start = objective.config.discriminator_start
    numbers = {int(m[1]) for key in io if (m := re.match(r"discriminator_call(\d+)/", key))}
    results = {}
    for number in range(max(numbers) + 1):
        objective.zero_grad()
        out = _output(folder, io["reconstructions"], {})
        terms = objective.discriminator_losses(io["inputs"] * 2 - 1, out, start)
        sum(terms.values()).backward()
        results[f"discriminator_call{number}"] = {
            "discriminator_loss": sum(terms.values()).detach(),
            "lecam_loss": terms.get("discriminator/lecam", torch.zeros(())).detach(),
            "logits_real": objective.last_statistics["discriminator/logits_real"],
            "logits_fake": objective.last_statistics["discriminator/logits_fake"],
            "ema_real_logits_mean_after": objective.lecam.average_real.clone(),
            "ema_fake_logits_mean_after": objective.lecam.average_fake.clone(),
        } | {
            f"grad/discriminator.{name}": parameter.grad.clone()
            for name, parameter in objective.discriminator.named_parameters()
        }
    return results


@pytest.mark.parametrize(("folder", "case", "name"), _cases(KINDS["discriminator_call"]))
def test_discriminator_call(folder: Path, case: str, name: str) -> None:
    settings = _settings(folder)
    # Small by their weights: what logits may be off by, times that weight.
    floor = {
        "lecam_loss": settings["lecam_regularization_weight"],
        "ema_real_logits_mean_after": 1 - settings.get("lecam_ema_decay", 0.999),
        "ema_fake_logits_mean_after": 1 - settings.get("lecam_ema_decay", 0.999),
    }.get(name, 1.0)
    ours = _discriminator_calls(folder)[case][name]
    _check(ours, tensors_of(folder)[f"{case}/{name}"], LOSS._replace(floor=floor))


@pytest.mark.parametrize(("folder", "case", "name"), _cases(KINDS["discriminator_gradient"]))
def test_discriminator_gradient(folder: Path, case: str, name: str) -> None:
    ours = _discriminator_calls(folder)[case][f"grad/{name}"]
    _check(ours, tensors_of(folder)[f"{case}/grad/{name}"], GRADIENT)


@pytest.mark.parametrize(("folder", "name"), _cases(KINDS["perceptual_logits"]))
def test_perceptual_logits(folder: Path, name: str) -> None:
    logits = _objective(folder).perceptual.logits(tensors_of(folder)[name] * 2 - 1)
    _check(logits, tensors_of(folder)[f"perceptual/logits_{name}"])


@pytest.mark.parametrize(("folder", "name", "rows", "columns"), _cases(KINDS["perceptual_resize"]))
def test_perceptual_resize(folder: Path, name: str, rows: str, columns: str) -> None:
    resized = _objective(folder).perceptual.resize(tensors_of(folder)[name])
    corner = resized[..., : int(rows), : int(columns)]
    _check(corner, tensors_of(folder)[f"perceptual/resized_{name}_top_left_{rows}x{columns}"])


@pytest.mark.parametrize(("folder", "name"), _cases(KINDS["perceptual_raw"]))
def test_perceptual_raw(folder: Path, name: str) -> None:
    io = tensors_of(folder)
    ours = _objective(folder).perceptual(io["reconstructions"] * 2 - 1, io["inputs"] * 2 - 1)
    _check(ours, io[f"perceptual/{name}"])


@pytest.mark.parametrize("folder", [pytest.param(f, id=f.name) for f in FOLDERS])
def test_import_is_strict_both_ways(folder: Path) -> None:
    from tok_core.errors import WeightsError

    state = read_weights(folder / "weights.safetensors")
    config = ImageObjectiveConfig()
    for key in state:
        with pytest.raises(WeightsError):
            import_official_losses({k: v for k, v in state.items() if k != key}, config)
        with pytest.raises(WeightsError):
            import_official_losses(state | {f"{key}_more": state[key]}, config)
