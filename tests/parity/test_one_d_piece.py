"""Tokenizers of the TiTok family and their teacher against outputs of the official code.

Every tensor of every ``io.safetensors`` under the set that belongs to a tokenizer (its weights hold
``latent_tokens``, or a MaskGIT-VQGAN) is one test: its key says what to compute.  Nothing is listed
by number: lengths, seeds, blocks, steps and temperatures are read from the keys, sizes and options
from the ``config.json`` beside them, by the public importer.  Vectors are on [0, 1] pictures.
"""

from __future__ import annotations

import math
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.parity.vectors import (
    Kinds,
    Tolerance,
    config_of,
    folders_with,
    keys_of,
    manifest_of,
    meta_state,
    parity_folder,
    place,
    tensors_of,
)
from tok_core.contract import Tokens, TrainingOutput
from tok_core.training.weight_decay import decays
from vision_tok.import_titok import import_state, import_titok
from vision_tok.maskgit_vqgan import MaskGitVQGAN
from vision_tok.official_keys import official_names
from vision_tok.proxy_code_objective import proxy_code_loss

FOLDER = parity_folder("one-d-piece")

LATENT = Tolerance(peak=1e-5, floor=1.0)
GRADIENT = Tolerance(peak=1e-4)
PICTURE = Tolerance(absolute=2e-4)


# -- what the set holds --------------------------------------------------------------------------


def _is_tokenizer(folder: Path) -> bool:
    weights = keys_of(folder, "weights")
    teacher = {"quantize.embedding.weight", "encoder.conv_in.weight", "decoder.conv_in.weight"}
    return "latent_tokens" in weights or teacher <= weights


FOLDERS = [f for f in folders_with("weights.safetensors", FOLDER) if _is_tokenizer(f)]


def _config(folder: Path) -> dict[str, Any]:
    return config_of(folder) if (folder / "config.json").is_file() else {}


@cache
def _model(folder: Path) -> Any:
    torch.set_grad_enabled(True)
    return import_titok(folder)


def _fresh(folder: Path, *, pixels: bool = True) -> Any:
    state = load_file(folder / "weights.safetensors")
    if not pixels:
        state = {name: t for name, t in state.items() if not name.startswith("pixel_")}
    return import_state(state, _config(folder))


def _input(folder: Path, name: str = "image") -> Tensor:
    return tensors_of(folder)[name] * 2 - 1


def _condition(folder: Path) -> Tensor | None:
    return tensors_of(folder).get("text_guidance")


def _back(picture: Tensor) -> Tensor:
    return (picture + 1) / 2


def _official_layout(z: Tensor) -> Tensor:
    """(B, N, C) -> (B, C, 1, N)."""
    return z.transpose(1, 2)[:, :, None]


# -- what each key asks for ----------------------------------------------------------------------

INPUT = re.compile(
    r"image|text_guidance|posterior/noise|random_tokens/ids|codebook/soft_query|stage1/proxy_codes"
)
TEACHER_INPUT = re.compile(r"[^/]+/image")
NETWORKS = Kinds(
    [folder for folder in FOLDERS if "latent_tokens" in keys_of(folder, "weights")],
    LATENT, elsewhere=INPUT,
)  # fmt: skip
TEACHERS = Kinds(
    [folder for folder in FOLDERS if folder not in NETWORKS.folders],
    LATENT, elsewhere=TEACHER_INPUT,
)  # fmt: skip
kind, teacher = NETWORKS.kind, TEACHERS.kind


@torch.no_grad()
def _hooked(folder: Path, side: str, name: str) -> Tensor:
    model, found = _model(folder), []
    network = getattr(model, side)
    block = re.fullmatch(r"block_(\d+)", name)
    part = network.blocks[int(block[1])] if block else getattr(network, name)
    handle = part.register_forward_hook(lambda module, args, out: found.append(out))
    try:
        z = model.latents(_input(folder))
        if side == "decoder":
            model.paint(model.quantizer(z).latents, None, _condition(folder))
    finally:
        handle.remove()
    return found[0]


@kind("encoder inside", r"encoder/(after_ln_pre|block_\d+|latents_after_ln_post)")
def _encoder(folder: Path, name: str) -> Tensor:
    own = {"after_ln_pre": "norm_in", "latents_after_ln_post": "norm_out"}
    return _hooked(folder, "encoder", own.get(name, name))


@kind("decoder inside", r"decoder/(after_ln_pre|block_\d+|patches_after_ln_post)")
def _decoder(folder: Path, name: str) -> Tensor:
    own = {"after_ln_pre": "norm_in", "patches_after_ln_post": "norm_out"}
    return _hooked(folder, "decoder", own.get(name, name))


@kind("latents", r"encoder/(z|moments)")
def _latents(folder: Path, name: str) -> Tensor:
    return _official_layout(_model(folder).encode_latents(_input(folder)))


@kind("quantizer", r"quantizer/(z_q|indices|codebook_loss|commitment_loss|quantizer_loss)")
def _quantizer(folder: Path, name: str) -> Tensor:
    model = _model(folder)
    return _quantized(model.quantizer(model.latents(_input(folder))), name)


def _quantized(out: Any, name: str) -> Tensor:
    losses = out.losses
    values = {
        "z_q": lambda: _official_layout(out.latents),
        "indices": lambda: out.codes[:, None],
        "codebook_loss": lambda: losses["quantizer/codebook"],
        "commitment_loss": lambda: losses["quantizer/commitment"],
        "quantizer_loss": lambda: torch.stack(list(losses.values())).sum(),
    }
    return values[name]()


@kind("distances", r"quantizer/sorted_distance_(\d+)_best")
def _distances(folder: Path, count: str) -> Tensor:
    model = _model(folder)
    z = model.latents(_input(folder))
    z = torch.nn.functional.normalize(z, dim=-1) if model.quantizer.l2_normalize else z
    table = model.codebooks[0].vectors
    squared = (z[:, :, None] - table).square().sum(-1)
    return squared.sort(-1).values[:, None, :, : int(count)]


@kind("codebook rows", r"codebook/entries_of_first_(\d+)")
def _entries(folder: Path, count: str) -> Tensor:
    return _model(folder).quantizer.lookup(torch.arange(int(count)))


@kind("codebook mixtures", r"codebook/soft_entries")
def _mixtures(folder: Path) -> Tensor:
    return _model(folder).quantizer.lookup_soft(tensors_of(folder)["codebook/soft_query"])


@kind("prefix picture", r"decode_len(\d+)/(image|image_from_tokens)", PICTURE)
def _prefix(folder: Path, length: str, name: str) -> Tensor:
    model, k = _model(folder), int(length)
    tokens = model.encode(_input(folder))
    z = model.quantizer(model.latents(_input(folder))).latents
    if name == "image_from_tokens":
        z = model.embed(tokens)
        # The three public ways to a prefix agree with the one under test.
        clamped = model.decode(tokens.codes[:, :k])
        ragged = model.decode(tokens._replace(lengths=torch.full((len(z),), k)))
        several = model.decode_lengths(tokens, [k, tokens.codes.shape[1]])[0]
        picture = model.picture(z[:, :k])
        for other in (clamped, ragged, several):
            assert (other - picture.clamp(-1, 1)).abs().max() < PICTURE.absolute
    return _back(model.picture(z[:, :k]))


@kind("prefix inside", r"decode_len(\d+)/(proxy_logits|soft_states)")
def _prefix_inside(folder: Path, length: str, name: str) -> Tensor:
    model = _model(folder)
    z = model.quantizer(model.latents(_input(folder))).latents
    logits = model.paint(z[:, : int(length)])[1]
    return logits if name == "proxy_logits" else model.pixel_stage.mix(logits)


@kind("random tokens", r"random_tokens/image", PICTURE)
def _random(folder: Path) -> Tensor:
    model = _model(folder)
    codes = tensors_of(folder)["random_tokens/ids"][:, 0]
    picture = model.picture(model.embed(codes))
    assert (model.decode(codes) - picture.clamp(-1, 1)).abs().max() < PICTURE.absolute
    return _back(picture)


@kind("drawn lengths", r"train_drop/k_for_seed_(\d+)_to_(\d+)")
def _drawn(folder: Path, first: str, last: str) -> Tensor:
    model, found = _fresh(folder).train(), []
    for seed in range(int(first), int(last) + 1):
        torch.manual_seed(seed)
        lengths = model(_input(folder)).tokens.lengths
        assert (lengths == lengths[0]).all()
        found.append(int(lengths[0]))
    return torch.tensor(found)


@kind("successive draws", r"train_drop/k_sequence_(\d+)_draws_after_seed_(\d+)")
def _sequence(folder: Path, count: str, seed: str) -> Tensor:
    torch.manual_seed(int(seed))
    return torch.tensor([_model(folder).tail_drop.draw_length() for _ in range(int(count))])


@kind("dropped picture", r"train_drop/seed(\d+)_image", PICTURE)
def _dropped(folder: Path, seed: str) -> Tensor:
    model = _fresh(folder).train()
    torch.manual_seed(int(seed))
    return _back(model(_input(folder)).reconstruction)


@cache
def _stage1(folder: Path, case: str) -> tuple[Any, TrainingOutput, dict[str, Tensor]]:
    model = _fresh(folder, pixels=False)
    if seed := re.fullmatch(r"train_seed(\d+)", case):
        model.train()
        torch.manual_seed(int(seed[1]))
    out = model(_input(folder))
    assert out.reconstruction is None
    losses = dict(out.losses)
    codes = tensors_of(folder)["stage1/proxy_codes"]
    reconstruction = proxy_code_loss(out.features["proxy_logits"], codes)
    quantizer = torch.stack(list(losses.values())).sum()
    total = reconstruction + _config(folder).get("quantizer_weight_stage1", 1.0) * quantizer
    total.backward()
    terms = {
        "total_loss": total, "reconstruction_loss": reconstruction, "quantizer_loss": quantizer,
        "codebook_loss": losses["quantizer/codebook"],
        "commitment_loss": losses["quantizer/commitment"],
    }  # fmt: skip
    return model, out, terms


@kind("stage 1", r"stage1/([^/]+)/(k|logits|loss_\w+)")
def _stage1_value(folder: Path, case: str, name: str) -> Tensor:
    model, out, terms = _stage1(folder, case)
    if name == "k":
        lengths = out.tokens.lengths
        return torch.tensor(model.settings.num_tokens) if lengths is None else lengths[0]
    if name == "logits":
        return out.features["proxy_logits"]
    return terms[name.removeprefix("loss_")]


@kind("stage 1 gradient", r"stage1/([^/]+)/grad/(.+)", GRADIENT)
def _stage1_gradient(folder: Path, case: str, name: str) -> Tensor:
    model, _, _ = _stage1(folder, case)
    ours = {official: own for own, official in official_names(model).items()}
    gradient = dict(model.named_parameters())[ours[name]].grad
    assert gradient is not None
    return gradient.reshape(tensors_of(folder)[f"stage1/{case}/grad/{name}"].shape)


@kind("single-stage picture", r"image_(reconstructed|from_tokens)", PICTURE)
def _single(folder: Path, name: str) -> Tensor:
    model, x = _model(folder), _input(folder)
    if name == "from_tokens":
        return _back(model.picture(model.embed(model.encode(x)), None, _condition(folder)))
    return _back(_fresh(folder).eval()(x, condition=_condition(folder)).reconstruction)


@kind("posterior", r"posterior/(mean|logvar|kl|sample)")
def _posterior(folder: Path, name: str) -> Tensor:
    posterior = _model(folder).posterior(_input(folder))
    if name == "kl":
        return posterior.kl()
    noise = tensors_of(folder)["posterior/noise"][:, :, 0].transpose(1, 2)
    values = {
        "mean": posterior.mean, "logvar": posterior.log_variance,
        "sample": posterior.sample(noise),
    }  # fmt: skip
    return _official_layout(values[name])


@kind("continuous picture", r"image_from_(mode|sample)", PICTURE)
def _continuous(folder: Path, name: str) -> Tensor:
    model, x = _model(folder), _input(folder)
    noise = tensors_of(folder)["posterior/noise"][:, :, 0].transpose(1, 2)
    z = model.latents(x) if name == "mode" else model.posterior(x).sample(noise)
    return _back(model.picture(z, None, _condition(folder)))


@cache
def _clustering(folder: Path, step: int) -> tuple[Any, Tensor, Tensor]:
    """Output, usage and codebook after ``step`` + 1 training forwards."""
    model = _fresh(folder).train()
    z = model.latents(_input(folder)).detach()
    out = None
    for _ in range(step + 1):
        out = model.quantizer(z)
    return out, model.quantizer.usage_ema, model.quantizer.codebook.detach()


@kind("clustering", r"clustering/step(\d+)_(embed_prob_after|embedding_after|\w+)")
def _clustered(folder: Path, step: str, name: str) -> Tensor:
    out, usage, table = _clustering(folder, int(step))
    if name == "embed_prob_after":
        return usage
    return table if name == "embedding_after" else _quantized(out, name)


@teacher("hidden", r"([^/]+)/(hidden|z_q|quantizer_loss)")
def _teacher(folder: Path, case: str, name: str) -> Tensor:
    model, x = _model(folder), _input(folder, f"{case}/image")
    if name == "hidden":
        return model.latents(x)
    if name == "z_q":
        return model.embed(model.encode(x))
    return torch.stack(list(model(x).losses.values())).sum()


@teacher("codes", r"([^/]+)/indices")
def _teacher_codes(folder: Path, case: str) -> Tensor:
    return _model(folder).encode(_input(folder, f"{case}/image")).codes.flatten(1)


@teacher("soft codes", r"([^/]+)/soft_code_temp([\d.]+)")
def _soft(folder: Path, case: str, temperature: str) -> Tensor:
    soft = _model(folder).soft_codes(_input(folder, f"{case}/image"), float(temperature))
    return soft.flatten(1, 2)


@teacher("picture", r"([^/]+)/decoded_(unclamped|clamped|from_flat_codes)", PICTURE)
def _decoded(folder: Path, case: str, name: str) -> Tensor:
    model, x = _model(folder), _input(folder, f"{case}/image")
    if name == "unclamped":
        return _back(model(x).reconstruction)
    codes = tensors_of(folder)[f"{case}/indices"]
    if name == "clamped":
        return _back(model.decode(model.encode(x)))
    side = math.isqrt(codes.shape[1])
    expected = tensors_of(folder)[f"{case}/decoded_from_flat_codes"]
    picture = model.forward(x, tokens=Tokens(codes.view(-1, side, side))).reconstruction
    # Whether flat codes come back clamped is not the point here: compare like with like.
    picture = _back(picture)
    return picture.clamp(0, 1) if expected.min() >= 0 and expected.max() <= 1 else picture


# -- the tests -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("folder", "key"), NETWORKS.cases() + TEACHERS.cases())
def test_vector(folder: Path, key: str) -> None:
    (NETWORKS if folder in NETWORKS.folders else TEACHERS).check(folder, key)


def test_every_kind_of_case_is_there() -> None:
    assert not NETWORKS.unused() and not TEACHERS.unused()


@pytest.mark.parametrize("folder", FOLDERS, ids=place)
def test_every_key_maps_without_a_config(folder: Path) -> None:
    # Shapes alone give every size but the number of heads, which no tensor shows.
    model = import_state(load_file(folder / "weights.safetensors"))
    assert set(official_names(model).values()) == keys_of(folder, "weights")


def _lists(pattern: str) -> list[Any]:
    found = []
    for folder in FOLDERS:
        for key in sorted(_config(folder)):
            if match := re.fullmatch(pattern, key):
                found.append(pytest.param(folder, key, *match.groups(), id=f"{folder.name}:{key}"))
    return found


DECAY_LISTS = _lists(r"stage(\d+)_(no_)?weight_decay")
FROZEN_LISTS = _lists(r"stage(\d+)_frozen_parameter_prefixes")


def test_decay_and_frozen_lists_are_there() -> None:
    assert DECAY_LISTS and FROZEN_LISTS


@pytest.mark.parametrize(("folder", "key", "stage", "no"), DECAY_LISTS)
def test_weight_decay_follows_the_official_lists(
    folder: Path, key: str, stage: str, no: str | None
) -> None:
    model = _fresh(folder, pixels=stage != "1")
    names = official_names(model)
    frozen = model.code_prefixes if stage != "1" else ()
    ours = {
        names[name]
        for name, parameter in model.named_parameters()
        if not (frozen and name.startswith(frozen)) and decays(name, parameter) == (no is None)
    }
    assert ours == set(_config(folder)[key])


@pytest.mark.parametrize(("folder", "key", "stage"), FROZEN_LISTS)
def test_what_decoder_only_training_freezes_is_the_official_list(
    folder: Path, key: str, stage: str
) -> None:
    model = _model(folder)
    names = official_names(model)
    prefixes = tuple(_config(folder)[key])
    ours = (name for name, _ in model.named_parameters() if name.startswith(model.code_prefixes))
    official = {names[name] for name in ours}
    assert official == {name for name in names.values() if name.startswith(prefixes)}


# -- full-size checkpoints -----------------------------------------------------------------------

# Millions of parameters in the papers' tables and in the reference implementation of each entry.
PAPERS = {
    "One-D-Piece-S-256": 83.9, "One-D-Piece-B-256": 205.3, "One-D-Piece-L-256": 641.7,
    "titok_l32_imagenet": 641.1, "titok_b64_imagenet": 204.8, "titok_s128_imagenet": 83.7,
    "maskgit-vqgan": 54.5, "bl64_vq8k": 390.0, "bl128_vq8k": 390.2, "sl256_vq8k": 330.3,
    "ll32_vae": 606.9, "bl64_vae_c16": 389.4, "bl128_vae_c16": 389.6,
}  # fmt: skip


def _manifest() -> list[Any]:
    found = []
    for name, rows in manifest_of(FOLDER).items():
        keys = {key for key, *_ in rows}
        if "latent_tokens" in keys or "encoder.down.0.block.0.conv1.weight" in keys:
            found.append(pytest.param(name, rows, id=re.split(r"[ :(]", name)[0] + f"-{len(rows)}"))
    return found


@pytest.mark.parametrize(("name", "rows"), _manifest())
def test_full_size_checkpoints_map_completely(name: str, rows: list[Any]) -> None:
    state = meta_state(rows)
    model = import_state(state, name=name)
    assert set(official_names(model).values()) == set(state)
    total = sum(tensor.numel() for tensor in model.state_dict().values())
    assert total == sum(math.prod(shape) for _, shape, _ in rows)
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    published = not re.search(r"MaskGIT_|RAR|generator|stage1|tatitok", name)
    pinned = [millions for part, millions in PAPERS.items() if part in name]
    assert len(pinned) == (1 if published else 0)
    assert all(abs(parameters - millions) < 0.06 for millions in pinned)


def test_teacher_and_legacy_weights_are_both_there() -> None:
    models = [_model(folder) for folder in FOLDERS]
    assert any(isinstance(model, MaskGitVQGAN) for model in models)
    networks = [model for model in models if not isinstance(model, MaskGitVQGAN)]
    assert any(model.settings.legacy_reshape for model in networks)
