"""The codec against outputs of the official code: encoder, quantizer, decoder, full-size keys.

Every tensor of every ``io.safetensors`` that belongs to the codec is one test: its key says what to
compute.  Nothing is listed by number: stages, blocks, rows and iterations are read from the keys,
sizes from the tensors and the ``config.json`` beside them.
"""

from __future__ import annotations

import math
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from audio_tok.import_wav_tokenizer import import_wav_tokenizer, wav_tokenizer_from_state
from audio_tok.infer_wav_tokenizer import DEAD, TRAINING_ONLY, WINDOW
from audio_tok.istft_head import inverse_stft
from audio_tok.official_keys import official_names, weight_norm_parts
from audio_tok.wav_tokenizer import WavTokenizer
from tests.parity.vectors import (
    Kinds,
    Tolerance,
    config_of,
    folders_with,
    manifest_of,
    meta_state,
    parity_folder,
    place,
    tensors_of,
)
from tok_core.kmeans import kmeans
from tok_core.nearest_code import nearest_code

FOLDER = parity_folder("wavtokenizer")

WAVE = Tolerance(absolute=5e-6)
FEATURE = GRADIENT = Tolerance(peak=1e-4)
LOSS = Tolerance(peak=1e-5)
STATE = Tolerance(peak=1e-5)  # averages that a training step moves by hundredths

FOLDERS = folders_with("io.safetensors", FOLDER)
ELSEWHERE = re.compile(
    r"wav|wav_short|istft\.spec_(real|imag)|kmeans\.(samples|initial_means)"
    r"|vq_train_\w+\.(probe|\w+_before)"
    # Discriminators, spectral losses and whole training steps.
    r"|(mpd|mrd|dac|pair|loss|mel|step)\..*"
)


@cache
def _model(folder: Path) -> WavTokenizer:
    return import_wav_tokenizer(folder)


def _wave(folder: Path, short: str | None = None) -> Tensor:
    return tensors_of(folder)["wav_short" if short else "wav"][:, None]


# -- what each key asks for ----------------------------------------------------------------------

KINDS = Kinds(FOLDERS, FEATURE, elsewhere=ELSEWHERE)
kind = KINDS.kind


@cache
def _encoder_entries(folder: Path) -> list[Tensor]:
    """Outputs of the encoder's parts in the order in which the official list holds them."""
    encoder = _model(folder).encoder
    x = encoder.first(_wave(folder).transpose(1, 2))
    entries = [x]
    for stage in encoder.stages:
        entries.append(stage.residual(entries[-1]))
        entries.append(F.elu(entries[-1]))
        entries.append(stage.down(entries[-1]))
    if encoder.lstm is not None:
        entries.append(encoder.recur(entries[-1]))
    entries.append(F.elu(entries[-1]))
    entries.append(encoder.last(entries[-1]))
    return entries


@kind("encoder inside", r"encoder\.stage(\d+)(?:_first(\d+))?")
def _encoder(folder: Path, index: str, first: str | None) -> Tensor:
    found = _encoder_entries(folder)[int(index)].transpose(1, 2)
    return found if first is None else found[..., : int(first)]


@kind("latents", r"latents")
def _latents(folder: Path) -> Tensor:
    return _model(folder).latents(_wave(folder))


@kind("distances", r"distances_sq")
def _distances(folder: Path) -> Tensor:
    model = _model(folder)
    z = model.latents(_wave(folder)).transpose(1, 2)
    return (z[:, :, None] - model.codebooks[0].vectors).square().sum(-1)


@kind("codes", r"(short_)?codes")
def _codes(folder: Path, short: str | None) -> Tensor:
    tokens = _model(folder).encode(_wave(folder, short))
    assert (tokens.extent == _wave(folder, short).shape[-1]).all()
    return tokens.codes.transpose(0, 1)  # the official axis of codebooks comes first


@kind("features", r"(short_)?features")
def _features(folder: Path, short: str | None) -> Tensor:
    model = _model(folder)
    return model.embed(model.encode(_wave(folder, short)))


@kind("features of codes", r"features_from_codes(_2d)?")
def _features_of_codes(folder: Path, flat: str | None) -> Tensor:
    codes = tensors_of(folder)["codes"].transpose(0, 1)
    return _model(folder).embed(codes[:1] if flat else codes)


@cache
def _decoder_parts(folder: Path) -> dict[str, Tensor]:
    model = _model(folder)
    backbone, row = model.backbone, torch.zeros(1, dtype=torch.int64)
    parts = {"embed": backbone.embed(tensors_of(folder)["features"].transpose(1, 2))}
    x = parts["embed"]
    for i, part in enumerate(backbone.position_net):
        parts[f"pos_net{i}"] = x = part(x)
    parts["norm"] = x = backbone.norm(x, row)
    for i, block in enumerate(backbone.blocks):
        parts[f"convnext{i}"] = x = block(x, row)
    parts["final_norm"] = backbone.final_norm(x)
    parts["head_out"] = model.head.project(parts["final_norm"])
    return parts


@kind("decoder inside", r"decoder\.(embed|pos_net\d+|convnext\d+)")
def _decoder_map(folder: Path, name: str) -> Tensor:
    return _decoder_parts(folder)[name].transpose(1, 2)


@kind("decoder rows", r"decoder\.(norm|final_norm|head_out)")
def _decoder_rows(folder: Path, name: str) -> Tensor:
    return _decoder_parts(folder)[name]


@kind("wave", r"(short_)?wav_out_bw(\d+)", WAVE)
def _wave_out(folder: Path, short: str | None, row: str) -> Tensor:
    model, condition = _model(folder), torch.tensor([int(row)])
    z = tensors_of(folder)["short_features" if short else "features"]
    wave = model.synthesise(z.transpose(1, 2), condition)
    # The public ways give the same, clamped, and cut to what went in.
    assert torch.equal(model.decode_latents(z, condition=condition), wave.clamp(-1, 1))
    tokens = model.encode(_wave(folder, short))
    decoded = model.decode(tokens, condition=condition)
    length = _wave(folder, short).shape[-1]
    assert decoded.shape[-1] == length
    assert (decoded - wave[..., :length].clamp(-1, 1)).abs().max() <= WAVE.absolute
    return wave[:, 0]


@kind("inverse STFT", r"istft\.wav", WAVE)
def _inverse(folder: Path) -> Tensor:
    io = tensors_of(folder)
    spectrum = torch.complex(io["istft.spec_real"], io["istft.spec_imag"])
    return inverse_stft(spectrum.transpose(1, 2), config_of(folder)["hop_length"])


def _means(folder: Path, iterations: int) -> Tensor:
    samples, start = (tensors_of(folder)[f"kmeans.{k}"] for k in ("samples", "initial_means"))
    return kmeans(
        samples, len(start), iterations=iterations, start=start, keep_empty=True,
        points_per_code=None,
    )  # fmt: skip


@kind("k-means centres", r"kmeans\.means_iter(\d+)")
def _kmeans(folder: Path, iterations: str) -> Tensor:
    return _means(folder, int(iterations))


@kind("k-means counts", r"kmeans\.bins_iter(\d+)")
def _bins(folder: Path, iterations: str) -> Tensor:
    before = _means(folder, int(iterations) - 1)
    codes = nearest_code(tensors_of(folder)["kmeans.samples"], before)
    return torch.bincount(codes, minlength=len(before))


@cache
def _trained(folder: Path, case: str) -> dict[str, Tensor]:
    """One training forward and backward of the quantizer from the stored state."""
    io, model = tensors_of(folder), import_wav_tokenizer(folder)
    level = model.quantizer.levels[0]
    with torch.no_grad():
        level.usage_ema.copy_(io[f"{case}.cluster_size_before"])
        level.sum_ema.copy_(io[f"{case}.embed_avg_before"])
    with torch.enable_grad():
        z = io["latents"].clone().requires_grad_()
        out = model.quantizer.train()(z.transpose(1, 2))
        output = out.latents.transpose(1, 2)
        commitment = out.losses["quantizer/commitment"]
        weight = config_of(folder)["commit_loss_coeff"]
        loss = (output * io[f"{case}.probe"]).mean() + weight * commitment
        loss.backward()
    assert z.grad is not None
    return {
        "output": output, "codes": out.codes[..., 0], "commit_loss": commitment[None],
        "loss": loss, "grad_latents": z.grad, "cluster_size_after": level.usage_ema,
        "embed_avg_after": level.sum_ema, "embed_after": level.codebook,
    }  # fmt: skip


@kind("quantizer training", r"(vq_train_\w+)\.(output|codes)")
def _train_out(folder: Path, case: str, name: str) -> Tensor:
    return _trained(folder, case)[name]


@kind("quantizer loss", r"(vq_train_\w+)\.(commit_loss|loss)", LOSS)
def _train_loss(folder: Path, case: str, name: str) -> Tensor:
    return _trained(folder, case)[name]


@kind("quantizer gradient", r"(vq_train_\w+)\.(grad_latents)", GRADIENT)
def _train_gradient(folder: Path, case: str, name: str) -> Tensor:
    return _trained(folder, case)[name]


@kind("quantizer state", r"(vq_train_\w+)\.(\w+_after)", STATE)
def _train_state(folder: Path, case: str, name: str) -> Tensor:
    return _trained(folder, case)[name]


# -- the tests -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("folder", "key"), KINDS.cases())
def test_vector(folder: Path, key: str) -> None:
    with torch.no_grad():
        KINDS.check(folder, key)


def test_every_kind_of_case_is_there() -> None:
    assert not KINDS.unused()


@pytest.mark.parametrize("folder", FOLDERS, ids=place)
def test_the_preset_inferred_from_shapes_is_the_config(folder: Path) -> None:
    config, settings = config_of(folder), _model(folder).settings
    names = {
        "hop_length": "hop", "n_fft": "n_fft", "encoder_n_filters": "encoder_width",
        "latent_dim": "latent_dim", "codebook_size": "codebook_size", "backbone_dim": "width",
        "backbone_intermediate_dim": "hidden", "backbone_layers": "layers",
        "encoder_lstm_layers": "lstm_layers", "num_quantizers": "num_codebooks",
        "num_bandwidth_ids": "condition_ids", "sample_rate": "sample_rate",
        "mag_clip": "magnitude_clip", "pos_net_dropout": "dropout",
    }  # fmt: skip
    ours = {name: getattr(settings, own) for name, own in names.items() if name in config}
    assert ours == {name: config[name] for name in ours}
    assert list(settings.strides) == config["downsample_ratios"][::-1]  # written decoder first


# -- full-size checkpoints -----------------------------------------------------------------------

MANIFEST = manifest_of(FOLDER)
# Millions of parameters in the encoder (weight norm folded), backbone and head, by hop.
ROOMS = {320: (8.79, 61.96, 0.99), 600: (8.30, 61.96, 1.85)}


def _manifest() -> tuple[list[Any], dict[str, Tensor]]:
    whole, extras = [], {}
    for name, rows in MANIFEST.items():
        if any(key == WINDOW for key, *_ in rows):
            whole.append(pytest.param(name, rows, id=name.split(" ")[0]))
        else:
            extras.update(meta_state(rows))
    return whole, extras


@pytest.mark.parametrize("extras", [False, True], ids=["codec", "with-training-extras"])
@pytest.mark.parametrize(("name", "rows"), _manifest()[0])
def test_full_size_checkpoints_map_completely(name: str, rows: list[Any], extras: bool) -> None:
    state = meta_state(rows)
    model = wav_tokenizer_from_state(state | (_manifest()[1] if extras else {}), name=name)
    official = [
        part for own in official_names(model).values() for part in weight_norm_parts(own) or (own,)
    ]
    dead = [key for key in state if key.startswith(DEAD)]
    assert dead and sorted([*official, *dead, WINDOW]) == sorted(state)
    assert model.settings.n_fft == 4 * model.hop
    rooms = (model.encoder, model.backbone, model.head)
    millions = [sum(math.prod(p.shape) for p in room.parameters()) / 1e6 for room in rooms]
    assert millions == pytest.approx(ROOMS[model.hop], abs=0.012)


def test_the_manifest_also_lists_training_extras() -> None:
    assert all(key.startswith(TRAINING_ONLY) for key in _manifest()[1])
    if MANIFEST:
        assert _manifest()[0] and _manifest()[1]
