"""WavTokenizer's discriminators, losses and one whole training step against the official code.

Keys say what to compute; indices, sizes and folders are read from the files.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from audio_tok.audio_objective import AudioObjective, AudioObjectiveConfig
from audio_tok.discriminators import DacOptions, PeriodOptions, ResolutionOptions
from audio_tok.import_discriminators import import_discriminators
from audio_tok.import_wav_tokenizer import wav_tokenizer_from_state
from audio_tok.judgement import (
    feature_matching,
    hinge_discriminator,
    hinge_generator,
    squares_discriminator,
    squares_generator,
)
from audio_tok.official_keys import official_names, weight_norm_parts
from audio_tok.weight_norm import fold_weight_norm
from tests.parity.vectors import (
    Tolerance,
    close,
    config_of,
    folders_with,
    keys_of,
    manifest_of,
    meta_state,
    parity_folder,
    tensors_of,
)
from tok_core.contract import TrainingOutput
from tok_core.mel import log_mel_distance

FOLDER = parity_folder("wavtokenizer")

FEATURE = Tolerance(absolute=1e-4)
LOSS, GRADIENT = Tolerance(peak=1e-5, floor=1e-12), Tolerance(peak=1e-4, floor=1e-12)
KINDS = {"mpd": "period", "mrd": "resolution", "dac": "dac"}
PAIR_ROW, STEP_ROW = 2, 1  # condition ids that the vectors were made with
FOLDERS = folders_with("io.safetensors", FOLDER)


@cache
def _options(folder: Path) -> AudioObjectiveConfig:
    given = config_of(folder)
    return AudioObjectiveConfig(
        sample_rate=given["sample_rate"], mel_n_fft=given["mel_n_fft"], mel_hop=given["mel_hop"],
        mel_bins=given["mel_bins"], mel_weight=given["mel_loss_coeff"],
        commitment_weight=given["commit_loss_coeff"],
        period=PeriodOptions(periods=tuple(given["mpd_periods"])),
        resolution=ResolutionOptions(
            resolutions=tuple((n, hop) for n, hop, _ in given["mrd_resolutions_nfft_hop_win"]),
            adversarial=given["mrd_loss_coeff"], features=given["mrd_loss_coeff"],
            discriminator=given["mrd_loss_coeff"],
        ),
        dac=DacOptions(
            periods=tuple(given["dac_periods"]), fft_sizes=tuple(given["dac_fft_sizes"]),
            bands=tuple(tuple(band) for band in given["dac_bands"]),
        ),
    )  # fmt: skip


def _objective(folder: Path) -> AudioObjective:
    return import_discriminators(tensors_of(folder, "weights"), _options(folder))


@cache
def _verdicts(folder: Path, kind: str, which: str) -> Any:
    network: Any = _objective(folder).networks()[KINDS[kind]]
    with torch.no_grad():
        return network(tensors_of(folder)[f"pair.{which}"][:, None], torch.tensor([PAIR_ROW]))


def _keys(pattern: str) -> list[tuple[Path, str]]:
    return [
        (folder, key) for folder in FOLDERS for key in sorted(keys_of(folder))
        if re.fullmatch(pattern, key)
    ]  # fmt: skip


def _cases(pattern: str) -> Any:
    cases = _keys(pattern)
    assert cases, f"no vector matches {pattern}"
    return pytest.mark.parametrize(
        ("folder", "key"), cases, ids=[f"{folder.name}-{key}" for folder, key in cases]
    )


def _close(got: Tensor, want: Tensor, tolerance: Tolerance) -> None:
    close(got.reshape(want.shape), want, tolerance)


@_cases(r"(mpd|mrd|dac)\.\d+\.(fmap\d+|logits)_(real|fake)")
def test_maps_and_logits(folder: Path, key: str) -> None:
    kind, number, what = key.split(".")
    what, which = what.split("_")
    judgement = _verdicts(folder, kind, which)[int(number)]
    got = judgement.logits if what == "logits" else judgement.maps[int(what[4:])]
    close(got, tensors_of(folder)[key], FEATURE)


def test_no_map_is_missing_and_none_is_too_many() -> None:
    for folder, key in _keys(r"(mpd|mrd|dac)\.\d+\.fmap0+_fake"):
        kind, number, _ = key.split(".")
        pattern = re.compile(rf"{kind}\.{number}\.fmap\d+_fake")
        expected = [name for name in tensors_of(folder) if pattern.fullmatch(name)]
        assert len(_verdicts(folder, kind, "fake")[int(number)].maps) == len(expected)


@_cases(r"dac\.batch1\.last_fake")
def test_one_sound_alone(folder: Path, key: str) -> None:
    network: Any = _objective(folder).networks()["dac"]
    with torch.no_grad():
        verdict = network(tensors_of(folder)["pair.fake"][:1, None])
    got = torch.cat([one.maps[-1].flatten() for one in verdict])
    close(got, tensors_of(folder)[key], FEATURE)


@_cases(r"loss\.(mpd|mrd|dac)\..*")
def test_verdicts_become_losses(folder: Path, key: str) -> None:
    _, kind, name = key.split(".")
    real, fake = (_verdicts(folder, kind, which) for which in ("real", "fake"))
    got = {
        "generator_sum": lambda: hinge_generator(fake) * len(fake),
        "discriminator_sum": lambda: hinge_discriminator(real, fake) * len(fake),
        "feature_matching_sum": lambda: feature_matching(real, fake, with_last=True),
        "generator": lambda: squares_generator(fake),
        "discriminator": lambda: squares_discriminator(real, fake),
        "feature": lambda: feature_matching(real, fake, with_last=False),
    }[name]()
    _close(got, tensors_of(folder)[key], LOSS)


@_cases(r"mel\.(real|fake)|loss\.mel")
def test_mel(folder: Path, key: str) -> None:
    io, mel = tensors_of(folder), _objective(folder).mel
    if key == "loss.mel":
        got = log_mel_distance(mel(io["pair.real"]), mel(io["pair.fake"]))
        return _close(got, io[key], LOSS)
    _close(mel(io[f"pair.{key[4:]}"]), io[key], LOSS)


# -- one whole step --------------------------------------------------------------------------------

GENERATOR = {
    "multi_period_loss": "period/adversarial", "multi_res_loss": "resolution/adversarial",
    "feature_matching_mp": "period/features", "feature_matching_mrd": "resolution/features",
    "loss_dac_1": "dac/adversarial", "loss_dac_2": "dac/features", "mel_loss": "mel",
}  # fmt: skip
DISCRIMINATOR = {"multi_period_loss": "period", "multi_res_loss": "resolution", "dac": "dac"}
BUFFERS = {"cluster_size": "usage_ema", "embed_avg": "sum_ema", "embed": "codebook"}
OFFICIAL = {
    "multiperioddisc.": "period", "multiresddisc.": "resolution",
    "dacdiscriminator.discriminator.": "dac",
}  # fmt: skip


@cache
def _steps(folder: Path) -> dict[str, dict[str, Tensor]]:
    """Run both turns in the official order; return losses, gradients and buffers by turn."""
    # Copies: the model trains on the tensors it is given.
    state = {name: tensor.clone() for name, tensor in tensors_of(folder, "weights").items()}
    objective, model = _objective(folder), wav_tokenizer_from_state(state)
    objective.condition = torch.tensor([STEP_ROW])
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    x = tensors_of(folder)["pair.real"][:, None]
    turns: dict[str, dict[str, Tensor]] = {}

    def run() -> TrainingOutput:
        return model(x, condition=torch.tensor([STEP_ROW]))

    def buffers() -> dict[str, Tensor]:
        level: Any = model.quantizer.levels[0]
        return {
            f"codebook_after.{name}": getattr(level, ours).detach().clone()
            for name, ours in BUFFERS.items()
        }

    losses = objective.discriminator_losses(x, run(), 0)
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    turn = {f"discriminator.{name}": losses[f"discriminator/{ours}"] for name, ours
            in DISCRIMINATOR.items()} | {"discriminator.total": total}  # fmt: skip
    for prefix, kind in OFFICIAL.items():
        for name, parameter in objective.networks()[kind].named_parameters():
            if parameter.grad is not None:
                turn[f"grad.{_as_official(prefix, name)}"] = parameter.grad
    turns["disc"] = turn | buffers()

    assert objective.discriminator is not None
    objective.discriminator.requires_grad_(False)
    out = run()
    losses = objective.generator_losses(x, out, 0)
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    turn = {f"generator.{name}": objective.last_statistics[ours] for name, ours
            in GENERATOR.items()} | {"generator.total_loss": total}  # fmt: skip
    turn["commit_loss"] = out.losses["quantizer/commitment"]
    turns["gen"] = turn | _gradients(folder, model) | buffers()
    return turns


def _as_official(prefix: str, name: str) -> str:
    if prefix.startswith("dac"):
        name = re.sub(r"(convs\.\d+)\.(bias|param)", r"\1.0.\2", name)
    name = name.replace("parametrizations.weight.original0", "weight_g")
    return prefix + name.replace("parametrizations.weight.original1", "weight_v")


def _gradients(folder: Path, model: Any) -> dict[str, Tensor]:
    """Gradients by official name; those of a folded weight are taken back to its two parts."""
    names, parameters, found = official_names(model), dict(model.named_parameters()), {}
    for ours, official in names.items():
        parameter = parameters.get(ours)
        if parameter is None or parameter.grad is None:
            continue
        parts = weight_norm_parts(official)
        if parts is None:
            found[f"grad.{official}"] = parameter.grad
            continue
        state = tensors_of(folder, "weights")
        g, v = (state[part].clone().requires_grad_() for part in parts)
        fold_weight_norm(g, v).reshape(parameter.shape).backward(parameter.grad)
        found |= {f"grad.{part}": t.grad for part, t in zip(parts, (g, v), strict=True)
                  if t.grad is not None}  # fmt: skip
    return found


@_cases(r"step\.(disc|gen)\..*")
def test_whole_step(folder: Path, key: str) -> None:
    _, turn, rest = key.split(".", 2)
    got = torch.as_tensor(_steps(folder)[turn][rest])
    _close(got, tensors_of(folder)[key], GRADIENT if rest.startswith("grad.") else LOSS)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_double_ema_is_both_turns_in_one(folder: Path) -> None:
    state = {name: tensor.clone() for name, tensor in tensors_of(folder, "weights").items()}
    model: Any = wav_tokenizer_from_state(state).train()
    level: Any = model.quantizer.levels[0]
    level.official_double_ema = True
    level(model.latents(tensors_of(folder)["pair.real"][:, None]).transpose(1, 2))
    for name, ours in BUFFERS.items():
        _close(getattr(level, ours), tensors_of(folder)[f"step.gen.codebook_after.{name}"], LOSS)


def test_every_training_key_maps() -> None:
    state = meta_state(
        row for rows in manifest_of(FOLDER).values() for row in rows
        if row[0].startswith(tuple(OFFICIAL))
    )  # fmt: skip
    assert state
    with torch.device("meta"):
        objective = import_discriminators(state)
    count = sum(parameter.numel() for parameter in objective.parameters())
    assert count == sum(tensor.numel() for tensor in state.values())
