"""RobusTok, XQ-GAN and ImageFolder against outputs of the official code, through the importer.

Every tensor of every ``io.safetensors`` beside a tokenizer's weights is one test: its key says what
to compute.  Sizes and options come from the ``config.json`` beside it, folders from the files.
Quantizers by themselves and next-scale inputs are tested in `test_robusttok_quantizers`.
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
    tensors_of,
)
from tok_core.contract import Tokens
from tok_core.item_selection import chosen_items
from tok_core.perturbation_config import PerturbationConfig
from tok_core.quantizer_dropout import Dropped, QuantizerDropout
from tok_core.training_perturbation import TrainingDraws, TrainingPerturbation
from vision_tok.contrastive_loss import contrastive_loss
from vision_tok.import_robus_tok import (
    DEAD,
    NOT_THE_TOKENIZER,
    TEACHER,
    export_teacher,
    import_robus_tok,
    official_names,
    robus_tok_from_state,
)
from vision_tok.robus_tok import SEMANTIC_PERTURBED, SEMANTIC_TEACHER, RobusTok
from vision_tok.semantic_encoder import SemanticEncoder
from vision_tok.semantic_teacher import SemanticTeacher, TeacherOptions, build_teacher

FOLDER = parity_folder("robusttok")

FEATURE = Tolerance(absolute=1e-4)
LOSS, GRADIENT = Tolerance(peak=1e-5), Tolerance(peak=1e-3)
PIXEL = FEATURE._replace(off_by_one=0.01)  # bytes, at isolated pixels
INPUT = re.compile(
    r"image|random_indices|quant_grad\.(G|second_pre_quant|hits_after_\d)|var_(?!step\.image).*"
    r"|train\.(usage_percent|dependency_loss)|train\.(\w+\.)?draw_.*"
)
FOLDERS = [
    folder for folder in folders_with("io.safetensors", FOLDER)
    if "encoder.latent_tokens" in keys_of(folder, "weights")
]  # fmt: skip


@cache
def _config(folder: Path) -> dict[str, Any]:
    # Recorded without drop path, whether the config says so or not.
    return {**config_of(folder), "drop_path_rate": 0.0}


def _fresh(folder: Path) -> RobusTok:
    return import_robus_tok(folder, _config(folder))


_model = cache(_fresh)


@cache
def _teacher(folder: Path) -> SemanticTeacher:
    heads = {"heads": _config(folder)["backbone"]["num_heads"]}
    weights = str(folder / "weights.safetensors")
    return build_teacher(TeacherOptions(weights=weights, sizes=heads, normalization="imagenet"))


@cache
def _codes(folder: Path) -> Tensor:
    """Codes (B, P, ...) of the pictures."""
    codes = _model(folder).encode(tensors_of(folder)["image"]).codes
    return codes if _model(folder).settings.branches > 1 else codes[:, None]


def _outer(folder: Path, codes: Tensor) -> Tensor:
    return codes if _model(folder).settings.branches > 1 else codes[:, 0]


# -- what each key asks for ----------------------------------------------------------------------

KINDS = Kinds(FOLDERS, FEATURE, elsewhere=INPUT)
kind = KINDS.kind


@kind("encoder", r"encoder\.(patch_tokens|latent_out)")
def _encoder(folder: Path, name: str) -> Tensor:
    model, x = _model(folder), tensors_of(folder)["image"]
    if name == "latent_out":
        return model.encoder(x)
    return model.encoder.tower.patches(x).flatten(2).transpose(1, 2)


@kind("latents", r"pre_quant(?:\.branch(\d+))?")
def _latents(folder: Path, branch: str | None) -> Tensor:
    model = _model(folder)
    parts = model.latents(tensors_of(folder)["image"]).unflatten(1, (model.settings.branches, -1))
    if branch is not None:
        return parts[:, int(branch)]
    if model.settings.branches == 1:
        return parts[:, 0]
    return parts.flatten(3).transpose(1, 2).flatten(2)[..., None]


@kind("codes", r"indices(?:_flat|\.branch(\d+)\.scale(\d+))")
def _indices(folder: Path, branch: str | None, scale: str | None) -> Tensor:
    codes, scales = _codes(folder), _model(folder).quantizer.scales
    if branch is None or scale is None:
        return codes.flatten()
    own = codes[:, int(branch)]
    return own.flatten(1) if scales is None else scales.split(own)[int(scale)].flatten(1)


@kind("code vectors", r"z_q(_concat)?|codebook_entry|f_hat\.branch(\d+)\.cumulative_scale(\d+)")
def _code_vectors(folder: Path, concat: str, branch: str | None, scale: str | None) -> Tensor:
    model = _model(folder)
    codes = _outer(folder, _codes(folder))
    if branch is None or scale is None:
        return model.embed(codes)
    sums = model.embed(codes, upto=int(scale) + 1)
    return sums.chunk(model.settings.branches, 1)[int(branch)]


@kind("decoder input", r"post_quant")
def _post_quant(folder: Path) -> Tensor:
    return _model(folder).post_quant_conv(_model(folder).embed(_outer(folder, _codes(folder))))


@kind("pictures", r"reconstruction_clamped(?:\.upto_scale(\d+))?")
def _pictures(folder: Path, scale: str | None) -> Tensor:
    model, x = _model(folder), tensors_of(folder)["image"]
    codes, scales = _outer(folder, _codes(folder)), model.quantizer.scales
    if scale is not None and scales is not None and int(scale) + 1 < len(scales):
        return model.decode(codes[..., : scales.offsets[int(scale) + 1]])
    picture, decoded = model(x).reconstruction, model.decode(codes)
    assert picture is not None
    assert (decoded - picture.clamp(-1, 1)).abs().max() <= FEATURE.absolute
    return decoded


@kind("pictures not clamped", r"decoded_unclamped")
def _unclamped(folder: Path) -> Tensor:
    picture = _model(folder)(tensors_of(folder)["image"]).reconstruction
    assert picture is not None
    return picture


def _bytes(picture: Tensor) -> Tensor:
    return (127.5 * picture + 128).clamp(0, 255).long().permute(0, 2, 3, 1)


@kind("bytes", r"reconstruction_uint8_bhwc", PIXEL)
def _byte_pictures(folder: Path) -> Tensor:
    return _bytes(_model(folder).decode(_outer(folder, _codes(folder))))


@kind("generated codes", r"var_step\.image_clamped")
def _generated(folder: Path) -> Tensor:
    model, stored = _model(folder), tensors_of(folder)
    assert model.quantizer.scales is not None
    branches = [
        torch.cat([
            stored[f"var_step.tokens.branch{branch}.scale{scale}"]
            for scale in range(len(model.quantizer.scales))
        ], 1)
        for branch in range(model.settings.branches)
    ]  # fmt: skip
    codes = torch.stack(branches, 1)
    return model.decode(codes if len(branches) > 1 else codes[:, 0])


@kind("any codes", r"random_indices_(decoded_unclamped|uint8_bhwc)", PIXEL)
def _random(folder: Path, form: str) -> Tensor:
    model, given = _model(folder), tensors_of(folder)["random_indices"]
    codes = given.view_as(_outer(folder, _codes(folder)))
    if form == "uint8_bhwc":
        return _bytes(model.decode(codes))
    # Without the encoder, the way that a decoder trains alone.
    picture = model(tensors_of(folder)["image"], tokens=Tokens(codes)).reconstruction
    assert picture is not None
    return picture


# -- the teacher ---------------------------------------------------------------------------------


@kind("teacher", r"semantic\.(input_imagenet_norm|cls_feature|z_s)")
def _semantic(folder: Path, name: str) -> Tensor:
    teacher, x = _teacher(folder), tensors_of(folder)["image"]
    assert isinstance(teacher.network, SemanticEncoder)
    if name == "input_imagenet_norm":
        return teacher.network.normalised(x)
    feature = teacher.class_feature(x)
    if name == "cls_feature":
        return feature
    return _model(folder)(x, teacher_feature=feature).features[SEMANTIC_TEACHER]


# -- training ------------------------------------------------------------------------------------


class _Drawn(TrainingPerturbation):
    """Perturbation with the official draws, one per token, image after image."""

    chance: Tensor
    rank: Tensor

    def draw(self, codes: Tensor, setting: Any) -> TrainingDraws:
        items = chosen_items(len(codes), setting.beta, "first")
        return TrainingDraws(items, self.chance.view_as(codes), self.rank.view_as(codes))


class _Depths(QuantizerDropout):
    """Dropout with the official draw of depths."""

    def draw(self, batch: int, num_scales: int, *, depths: Tensor | None = None) -> Dropped:
        return super().draw(batch, num_scales, depths=_Depths.given)


@cache
def _quantized_alone(folder: Path) -> dict[str, Tensor]:
    """The quantizer by itself: a weighted sum of its output, and its losses."""
    io, model = tensors_of(folder), _fresh(folder).train()
    quantizer = model.quantizer
    for branch in quantizer:
        assert branch.average is not None
        branch.average.hits.zero_()
        branch.average.updates.zero_()
    z = io["pre_quant"].clone().requires_grad_()
    with torch.enable_grad():
        out = quantizer(model._branches(z))
        loss = (out.latents * io["quant_grad.G"]).sum() + sum(out.losses.values())
        loss.backward()
    (branch,) = quantizer
    second = quantizer(model._branches(io["quant_grad.second_pre_quant"]))
    usage = "codebook/average_usage"
    assert z.grad is not None
    return {
        "d_pre_quant": z.grad, "d_codebook": branch.codebook.grad,
        "vq_loss": out.losses["quantizer/codebook"],
        "commit_loss": out.losses["quantizer/commitment"],
        "usage_percent": 100 * out.statistics[usage],
        "usage_percent_2": 100 * second.statistics[usage],
    }  # fmt: skip


@kind("quantizer gradients", r"quant_grad\.(\w+)", GRADIENT)
def _quantizer_gradient(folder: Path, name: str) -> Tensor:
    return _quantized_alone(folder)[name]


@cache
def _trained(folder: Path, case: str | None) -> dict[str, Tensor]:
    """One training forward with the official draws, its losses and all gradients."""
    io, config, model = tensors_of(folder), _config(folder), _fresh(folder).train()
    prefix = f"train.{case}." if case else "train."
    if f"{prefix}draw_prob" in io:
        model.perturbation = _perturbation(folder, str(case))
    if f"{prefix}draw_dropout_depth" in io:
        rate = model.quantizer.dropout
        assert rate is not None
        _Depths.given = io[f"{prefix}draw_dropout_depth"]
        model.quantizer.dropout = _Depths(rate=rate.rate, start_drop=rate.start_drop)
    x = io["image"]
    with torch.enable_grad():
        out = model(x, teacher_feature=_teacher(folder).class_feature(x))
        assert out.reconstruction is not None
        mse = (out.reconstruction - x).square().mean()
        # The released code looks at the tokens that the decoder saw.
        parts = out.features[SEMANTIC_PERTURBED]
        each = [contrastive_loss(out.features[SEMANTIC_TEACHER], part) for part in parts]
        semantic = config["sem_loss_weight"] * torch.stack(each).mean()
        total = mse + semantic + sum(out.losses.values())
        total.backward()
    found = {
        "decoded": out.reconstruction, "rec_mse": mse, "total": total,
        "vq_loss": out.losses["quantizer/codebook"], "sem_loss_weighted": semantic,
        "commit_loss": out.losses["quantizer/commitment"],
    }  # fmt: skip
    grads = {n: p.grad for n, p in model.named_parameters()}
    for ours, (official,) in official_names(model).items():
        if grads.get(ours) is not None:
            found[f"grad.{official}"] = grads[ours]
    for side in ("encoder", "decoder"):
        norms = [g.norm() for n, g in grads.items() if n.startswith(f"{side}.") and g is not None]
        found[f"grad_norm.{side}"] = torch.stack(norms).norm()
    return found


def _perturbation(folder: Path, case: str) -> TrainingPerturbation:
    setting = _config(folder)["notes"][f"train_case_{case}"]
    chosen = {name: setting[name] for name in ("alpha", "beta", "delta")}
    drawn = _Drawn(PerturbationConfig(**chosen, neighbourhood="latent"))
    io = tensors_of(folder)
    drawn.chance, drawn.rank = (io[f"train.{case}.draw_{name}"] for name in ("prob", "rank"))
    items = chosen_items(len(io["image"]), chosen["beta"], "first")
    assert int(items.sum()) == setting["perturbed_images"]
    return drawn


@kind("training pictures", r"train\.(?:(\w+)\.)?(decoded)")
@kind("training losses", r"train\.(?:(\w+)\.)?(\w+_loss|\w+_mse|\w+_weighted|total)", LOSS)
@kind("training gradients", r"train\.(?:(\w+)\.)?(grad(?:_norm)?\..+)", GRADIENT)
def _training(folder: Path, case: str | None, name: str) -> Tensor:
    found = _trained(folder, case)[name]
    return found.view(tensors_of(folder)[f"train.{case + '.' if case else ''}{name}"].shape)


# -- the tests -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("folder", "key"), KINDS.cases())
def test_vector(folder: Path, key: str) -> None:
    with torch.no_grad():
        KINDS.check(folder, key)


def test_every_kind_of_case_is_there() -> None:
    assert not KINDS.unused()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_sizes_read_off_the_shapes_are_the_config(folder: Path) -> None:
    config, settings = _config(folder), _model(folder).settings
    ours = {
        "codebook_size": settings.codebook_size, "codebook_embed_dim": settings.code_dim,
        "num_latent_tokens": settings.code_grid**2, "product_quant": settings.branches,
        "latent_grid": settings.code_grid, "codebook_drop": settings.options.dropout,
        "layer_norm_eps": settings.eps,
    }  # fmt: skip
    assert ours.keys() & config.keys()
    for name in ours.keys() & config.keys():
        assert ours[name] == config[name], name
    backbone, side = config["backbone"], settings.encoder
    assert settings.image_size == backbone["img_size"]
    assert settings.patch_size == backbone["patch_size"]
    assert (side.width, side.layers, side.heads) == tuple(
        backbone[name] for name in ("embed_dim", "depth", "num_heads")
    )


# -- checkpoints as they are published -----------------------------------------------------------

CONTAINERS = sorted(FOLDER.rglob("*.pt"))


@pytest.mark.parametrize("weights", ["ema", "model"])
@pytest.mark.parametrize("file", CONTAINERS, ids=lambda file: file.name)
def test_a_training_checkpoint_is_read_and_nothing_in_it_runs(file: Path, weights: str) -> None:
    plain = load_file(file.parent / "weights.safetensors")
    config = {"num_heads": _config(file.parent)["backbone"]["num_heads"]}
    model = import_robus_tok(file, config, weights=weights)
    assert model.settings.code_grid == _model(file.parent).settings.code_grid
    state = model.state_dict()
    same = [
        torch.equal(state[ours].flatten(), plain[official].flatten())
        for ours, (official,) in official_names(model).items()
        if not ours.endswith(".hits")
    ]
    assert same and all(same) == (weights == "model")


@pytest.mark.parametrize("file", CONTAINERS, ids=lambda file: file.name)
def test_its_teacher_can_be_kept(file: Path, tmp_path: Path) -> None:
    count = export_teacher(file, tmp_path / "teacher.safetensors")
    held = load_file(tmp_path / "teacher.safetensors")
    assert count == sum(t.numel() for t in held.values())
    plain = load_file(file.parent / "weights.safetensors")
    assert held.keys() == {n.removeprefix(TEACHER) for n in plain if n.startswith(TEACHER)}


# -- full-size checkpoints -----------------------------------------------------------------------

# Parameters without teacher and buffers, by branches, codebook size, code_dim and scales: the
# papers' 258.15M and so on without the 85.86M of the teacher.
COUNTS = {
    (1, 4096, 64, 1): 172_288_064, (1, 8192, 32, 1): 172_238_880,
    (2, 4096, 32, 1): 172_460_832, (2, 16384, 32, 1): 173_247_264,
    (2, 4096, 32, 10): 172_327_456, (2, 8192, 32, 10): 172_589_600,
    (2, 16384, 32, 10): 173_113_888,
}  # fmt: skip
EXTRAS = {"sem_linear.weight": (64, 768), "detail_model.blocks.0.norm1.weight": (768,)}


def _manifest() -> list[Any]:
    return [
        pytest.param(name, rows, id=name.split(" [")[0])
        for name, rows in manifest_of(FOLDER).items()
        if isinstance(rows, list) and any(key == "encoder.latent_tokens" for key, *_ in rows)
    ]


@pytest.mark.parametrize("extras", [False, True], ids=["tokenizer", "with-optional-parts"])
@pytest.mark.parametrize(("name", "rows"), _manifest())
def test_full_size_checkpoints_map_completely(name: str, rows: list[Any], extras: bool) -> None:
    state = meta_state(rows)
    more = {key: torch.empty(shape, device="meta") for key, shape in EXTRAS.items()}
    model = robus_tok_from_state(state | (more if extras else {}), name=name)
    official = [part for parts in official_names(model).values() for part in parts]
    kept = [k for k in state if not k.startswith(NOT_THE_TOKENIZER) and k not in DEAD]
    assert sorted(official) == sorted(kept)
    count = sum(math.prod(p.shape) for p in model.parameters())
    settings = model.settings
    scales = 1 if settings.scales is None else len(settings.scales)
    key = (settings.branches, settings.codebook_size, settings.code_dim, scales)
    assert count == COUNTS.get(key, count)
    buffers = "ema_vocab_hit_SV"
    held = {key: math.prod(shape) for key, shape, _ in rows if key in kept}
    assert count == sum(number for key, number in held.items() if not key.endswith(buffers))
    assert settings.encoder.heads == settings.encoder.width // 64
    assert settings.image_size == 256


def test_every_full_size_kind_is_there() -> None:
    assert _manifest() and CONTAINERS
