"""TokenFlow against outputs of the official code: networks, tokens, pictures, training, manifests.

Every tensor of every ``io.safetensors`` under the set whose weights hold TokenFlow's two tables is
one test: its key says what to compute.  Nothing is listed by number; sizes and options come from
the ``config.json`` beside them, through the public importer.  The quantizer alone, scale by scale,
is in test_tokenflow_quantizers.py.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.parity.vectors import (
    Compute,
    Kinds,
    Tolerance,
    close,
    config_of,
    folders_with,
    keys_of,
    manifest_of,
    parity_folder,
    tensors_of,
)
from tok_core.contract import Tokens, TrainingOutput
from tok_core.errors import ConfigError, WeightsError
from tok_core.lpips import LPIPS
from tok_core.scale_usage import RecentCodes
from tok_core.weight_files import load_strictly, read_weights
from vision_tok.image_objective import ImageObjective, ImageObjectiveConfig
from vision_tok.import_token_flow import (
    import_token_flow,
    official_names,
    token_flow_from_state,
)
from vision_tok.patch_discriminator import PatchDiscriminator
from vision_tok.semantic_distillation import SEMANTIC_PREDICTION, SemanticDistillation
from vision_tok.semantic_teacher import SemanticTeacher, TeacherOptions, build_teacher
from vision_tok.token_flow import TokenFlow

FOLDER = parity_folder("tokenflow")

FORWARD = Tolerance(absolute=1e-4)
SCALAR = Tolerance(relative=1e-5, absolute=1e-6)
GRADIENT = Tolerance(peak=1e-3)
TABLE, WINDOW = "quantize.embedding_vqkd.weight", "quantize.codebook_used"
INTERPOLATED = "interp."
AT = rf"({re.escape(INTERPOLATED)})?"
TRAINING = re.compile(r"(train\w*)\.(.+)")
# Inputs, and what training, the quantizer's own parity tests and the generators' are for.
ELSEWHERE = re.compile(
    AT + r"(image|lookup_\w+|scale\d+\..+|distance_margin|eval_distance_norm_\w+|"
    rf"ar\.(?!decoded_image).+|{TRAINING.pattern})"
)


# -- what the set holds --------------------------------------------------------------------------


FOLDERS = [
    folder for folder in folders_with("weights.safetensors", FOLDER)
    if TABLE in keys_of(folder, "weights")
]  # fmt: skip


class Case(NamedTuple):
    """One resolution of one model, and its tensors."""

    model: TokenFlow
    io: dict[str, Tensor]
    folder: Path

    @property
    def x(self) -> Tensor:
        return self.io["image"]


@cache
def _case(folder: Path, prefix: str = "") -> Case:
    config, io = config_of(folder), tensors_of(folder)
    model = import_token_flow(folder / "weights.safetensors", config)
    if prefix:
        model = model.at_resolution(
            config["image_size_interpolated"], config["scales_interpolated"]
        )
    mine = {k.removeprefix(prefix): t for k, t in io.items() if k.startswith(prefix)}
    return Case(model, mine, folder)


def _teacher(folder: Path) -> SemanticTeacher:
    config = config_of(folder)
    clip = config["semantic_type"].startswith("clip")
    own: dict[str, Any] = {"normalization": "clip", "positions": "offset-0.1", "project": True}
    if not clip:
        depth = config["semantic_layers"] - 1
        own = {"normalization": "half", "block": depth, "final_norm": False}
    sizes = {"heads": config["semantic_heads"]}
    return build_teacher(
        TeacherOptions(weights=str(folder / "teacher.safetensors"), sizes=sizes, **own)
    )


def _lpips(folder: Path) -> LPIPS:
    return LPIPS.from_state(read_weights(folder / "lpips.safetensors"))


# -- what each key of a forward pass asks for ----------------------------------------------------

KINDS = Kinds(FOLDERS, FORWARD, elsewhere=ELSEWHERE)


def kind(name: str, pattern: str) -> Callable[[Compute], Compute]:
    """Register ``compute(case, *groups)`` for both resolutions."""

    def register(compute: Compute) -> Compute:
        @KINDS.kind(name, f"{AT}(?:{pattern})")
        def at_resolution(folder: Path, prefix: str | None, *groups: str) -> Tensor:
            return compute(_case(folder, prefix or ""), *groups)

        return compute

    return register


@kind("encoder_input", r"(semantic|pixel)_encoder_input")
def _input(case: Case, side: str) -> Tensor:
    if side == "semantic":
        return case.model.semantic_tower.normalised(case.x)
    found: list[Tensor] = []
    handle = case.model.encoder.register_forward_hook(lambda m, given, out: found.append(given[0]))
    try:
        case.model.latents(case.x)
    finally:
        handle.remove()
    return found[0]


@kind("encoder_tokens", "semantic_encoder_tokens")
def _tokens(case: Case) -> Tensor:
    return case.model.semantic_tower(case.x)


@kind("latents", "(semantic|pixel)_latents")
def _latents(case: Case, stream: str) -> Tensor:
    return case.model.latent_streams(case.x)[stream]


@kind("indices", "indices")
def _indices(case: Case) -> Tensor:
    return case.model.encode(case.x).codes


@kind("quantized", "quantized")
def _quantized(case: Case) -> Tensor:
    return case.model.embed(case.io["indices"])


@kind("residual", "final_residual")
def _residual(case: Case) -> Tensor:
    return case.model.latents(case.x) - case.model.embed(case.model.encode(case.x))


@kind("decoded", "decoded_(semantic|image)")
def _decoded(case: Case, side: str) -> Tensor:
    return _side(case.model(case.x), side)


@kind("prefix", r"prefix(\d+)_decoded_(semantic|image)")
def _prefix(case: Case, scales: str, side: str) -> Tensor:
    length = case.model.settings.scales.offsets[int(scales)]
    codes = case.io["indices"][:, :length]
    if side == "semantic":
        return case.model.features(codes)
    return _side(case.model(case.x, tokens=Tokens(codes)), side)


@kind("from_indices", r"ar\.decoded_image_from_indices")
def _from_indices(case: Case) -> Tensor:
    return _side(case.model(case.x, tokens=Tokens(case.io["indices"])), "image")


@kind("teacher", "teacher_target")
def _target(case: Case) -> Tensor:
    return _teacher(case.folder)(case.x, case.model.settings.grid)


@kind("lpips", "lpips_(value|per_image)")
def _perceptual(case: Case, which: str) -> Tensor:
    reduction = "mean" if which == "value" else "none"
    return _lpips(case.folder)(case.io["decoded_image"], case.x, reduction=reduction)


def _side(out: TrainingOutput, side: str) -> Tensor:
    found = out.features[SEMANTIC_PREDICTION] if side == "semantic" else out.reconstruction
    assert found is not None
    return found


def _tolerance(expected: Tensor) -> Tolerance:
    return FORWARD if expected.ndim else SCALAR


CASES = KINDS.cases(lambda folder, name, key: f"{folder.name}-{name}-{key}")


@pytest.mark.parametrize("name", [kind.name for kind in KINDS.kinds])
def test_each_kind_is_found(name: str) -> None:
    assert name not in KINDS.unused()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_no_tensor_is_left_out(folder: Path) -> None:
    assert not KINDS.unknown(folder)


@pytest.mark.parametrize(("folder", "key"), CASES)
@torch.no_grad()
def test_forward(folder: Path, key: str) -> None:
    KINDS.check(folder, key, _tolerance(tensors_of(folder)[key]))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
@torch.no_grad()
def test_public_decode_is_the_clamped_picture(folder: Path) -> None:
    case = _case(folder)
    picture = case.model.decode(case.model.encode(case.x))
    close(picture, case.io["decoded_image"].clamp(-1, 1), FORWARD)


# -- training ------------------------------------------------------------------------------------


class Trained(NamedTuple):
    """One generator and one discriminator evaluation."""

    model: TokenFlow
    out: TrainingOutput
    terms: dict[str, Tensor]
    statistics: dict[str, Any]
    objective: ImageObjective
    x: Tensor


def _objective(folder: Path) -> ImageObjective:
    config = config_of(folder)
    discriminator = PatchDiscriminator(config["disc_dim"], config["disc_num_layers"])
    load_strictly(
        discriminator, read_weights(folder / "discriminator.safetensors"), source="the set"
    )
    squared = config["reconstruction_loss"] == "l2"
    weight = config["reconstruction_weight"]
    return ImageObjective(
        ImageObjectiveConfig(
            picture_range="signed", l2_weight=weight if squared else 0.0,
            l1_weight=0.0 if squared else weight, perceptual_weight=config["perceptual_weight"],
            discriminator=True, discriminator_kind="patchgan", discriminator_weight=1.0,
            discriminator_start=config["disc_start"], discriminator_factor=config["disc_weight"],
            lecam_weight=0.0, semantic_weight=1.0,
        ),
        perceptual=_lpips(folder), discriminator=discriminator,
        semantic=SemanticDistillation(_teacher(folder)),
    ).train()  # fmt: skip


def _step(folder: Path, case: str) -> int:
    return 0 if "before" in case else int(config_of(folder)["disc_start"])


def _dropped(folder: Path, case: str) -> int | None:
    if "dropped" not in case:
        return None
    config = config_of(folder)
    kept = config["dropped_scale_list"]
    (left_out,) = [i for i, scale in enumerate(config["scales"]) if scale not in kept]
    return left_out


@cache
def _trained(folder: Path, case: str) -> Trained:
    torch.set_grad_enabled(True)
    model = import_token_flow(folder / "weights.safetensors", config_of(folder)).train()
    model.quantizer.scale_drop = 0.0
    dropped = _dropped(folder, case)
    model._dropped_scale = lambda: dropped
    x, objective = tensors_of(folder)["image"], _objective(folder)
    out = model(x)
    terms = objective.generator_losses(x, out, _step(folder, case))
    torch.stack(list(terms.values())).sum().backward()
    return Trained(model, out, terms, dict(objective.last_statistics), objective, x)


def _generator_values(done: Trained, folder: Path, case: str) -> dict[str, Any]:
    assert done.out.reconstruction is not None
    statistics, losses, found = done.out.statistics, done.out.losses, done.statistics
    active = _step(folder, case) >= done.objective.config.discriminator_start
    with torch.no_grad():
        fake = done.objective.discriminator(done.out.reconstruction)
    return {
        "rec_loss": found["l2"] if done.objective.config.l2_weight else found["l1"],
        "p_loss": found["perceptual"],
        "vqkd_loss": found["semantic"],
        "vq_loss": losses["quantizer/codebook"],
        "commit_loss": losses["quantizer/commitment"],
        "entropy_loss": losses.get("quantizer/entropy", torch.zeros(())),
        "codebook_usage": _window_usage(done, folder, case),
        "d_vqkd": statistics["codebook/distance/semantic"],
        "d_vqgan": statistics["codebook/distance/pixel"],
        "generator_adv_loss": -fake.mean(),
        "disc_weight": done.statistics["discriminator/factor"],
        "disc_adaptive_weight": 1.0,
        "total": torch.stack(list(done.terms.values())).sum(),
    } | ({"generator_adv_loss": found["gan"]} if active else {})


def _window_usage(done: Trained, folder: Path, case: str) -> Tensor:
    """The official number: the window's usage after each scale, averaged over the scales."""
    window = load_file(folder / "weights.safetensors")[WINDOW]
    recent, used = RecentCodes(len(window)), []
    recent.codes.copy_(window)
    for scale, codes in enumerate(done.model.settings.scales.split(done.out.tokens.codes)):
        if scale != _dropped(folder, case):
            recent.push([codes])
            used.append(recent.usage(done.model.quantizer.codebook_size))
    assert torch.equal(recent.codes, done.model.quantizer.recent.codes)
    return torch.stack(used).mean()


def _discriminator_values(done: Trained, folder: Path, case: str) -> dict[str, Any]:
    step, objective = _step(folder, case), done.objective
    losses = objective.discriminator_losses(done.x, done.out, step)
    assert done.out.reconstruction is not None
    with torch.no_grad():
        real, fake = (objective.discriminator(p) for p in (done.x, done.out.reconstruction))
    return {
        "discriminator_adv_loss": sum(losses.values(), torch.zeros(())),
        "logits_real": real, "logits_fake": fake,
        "disc_weight": done.statistics["discriminator/factor"],
    }  # fmt: skip


def _gradient(done: Trained, folder: Path, name: str) -> Tensor:
    """Return the gradient of an official parameter, a part of one of ours maybe."""
    state = load_file(folder / "weights.safetensors")
    for ours, parts in official_names(done.model, state).items():
        if name in parts:
            whole = dict(done.model.named_parameters())[ours].grad
            assert whole is not None
            at = sum(len(state[part]) for part in parts[: parts.index(name)])
            return (whole[at : at + len(state[name])] if len(parts) > 1 else whole).reshape(
                state[name].shape
            )
    raise AssertionError(f"{name} has no counterpart")


def _training_cases() -> list[Any]:
    found = []
    for folder in FOLDERS:
        for key in sorted(keys_of(folder)):
            if match := TRAINING.fullmatch(key):
                label = f"{folder.name}-{key}"
                found.append(pytest.param(folder, key, *match.groups(), id=label))
    return found


def _training_names(folder: Path) -> list[str]:
    found = (TRAINING.fullmatch(key) for key in keys_of(folder))
    return sorted({match[1] for match in found if match})


def test_training_is_found() -> None:
    keys = [str(case.id) for case in _training_cases()]
    for part in ("before", "dropped", ".gen.", ".disc.", ".grad.", "codebook_used_after"):
        assert [key for key in keys if part in key]


@pytest.mark.parametrize(("folder", "key", "case", "name"), _training_cases())
def test_training(folder: Path, key: str, case: str, name: str) -> None:
    expected, done = tensors_of(folder)[key], _trained(folder, case)
    group, _, inner = name.partition(".")
    if group == "grad":
        close(_gradient(done, folder, inner), expected, GRADIENT)
        return
    if name == "grad_global_norm":
        norms = [p.grad.norm() for p in done.model.parameters() if p.grad is not None]
        close(torch.stack(norms).norm(), expected, GRADIENT)
        return
    if name == "codebook_used_after":
        # Where a set stored one buffer by reference, its cases show the state after the last one.
        same = [
            other for other in _training_names(folder)
            if torch.equal(tensors_of(folder)[f"{other}.{name}"], expected)
        ]
        windows = [_trained(folder, other).model.quantizer.recent.codes for other in same]
        assert any(torch.equal(window.to(expected.dtype), expected) for window in windows)
        return
    if group in ("gen", "disc"):
        values = _generator_values if group == "gen" else _discriminator_values
        actual = torch.as_tensor(values(done, folder, case)[inner], dtype=torch.float32)
    else:
        actual = {
            "reconstruction": done.out.reconstruction,
            "semantic_reconstruction": done.out.features[SEMANTIC_PREDICTION],
        }[name]
    close(actual, expected, _tolerance(expected))


# -- importing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_import_is_strict_both_ways(folder: Path) -> None:
    state, config = load_file(folder / "weights.safetensors"), config_of(folder)
    model = token_flow_from_state(state, config)
    used = {part for parts in official_names(model, state).values() for part in parts}
    for key in sorted(used - {WINDOW})[::7]:
        with pytest.raises((WeightsError, ConfigError)):
            token_flow_from_state({k: v for k, v in state.items() if k != key}, config)
    for key in sorted(state)[::7]:
        with pytest.raises(WeightsError, match="unknown"):
            token_flow_from_state(state | {f"{key}_more": state[key]}, config)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_usage_window_is_optional_and_of_any_length(folder: Path) -> None:
    state, config = load_file(folder / "weights.safetensors"), config_of(folder)
    window = state.pop(WINDOW)
    x = tensors_of(folder)["image"]
    codes = token_flow_from_state(state, config).encode(x).codes
    shorter = token_flow_from_state(state | {WINDOW: window[:9]}, config)
    assert torch.equal(shorter.encode(x).codes, codes)
    assert torch.equal(shorter.quantizer.recent.codes, window[:9].long())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_level_above_the_tower_may_come_or_go(folder: Path) -> None:
    state, config = load_file(folder / "weights.safetensors"), config_of(folder)
    level = "encoder_vqkd.vision_model."
    with_level = any(name.startswith(level) for name in state)
    other = {
        name.replace(level, "encoder_vqkd.")
        if with_level else name.replace("encoder_vqkd.", level): tensor
        for name, tensor in state.items()
    }
    ours, theirs = (token_flow_from_state(s, config) for s in (state, other))
    assert ours.weights_hash() == theirs.weights_hash()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_wrapped_checkpoint_and_saved_folder(folder: Path, tmp_path: Path) -> None:
    state, config = load_file(folder / "weights.safetensors"), config_of(folder)
    torch.save({"model": state, "steps": 3, "optimizer": {"state": {}}}, tmp_path / "it.pt")
    model = import_token_flow(tmp_path / "it.pt", config)
    assert model.weights_hash() == _case(folder).model.weights_hash()
    model.save_pretrained(tmp_path / "model")
    again = TokenFlow.from_pretrained(tmp_path / "model")
    assert again.weights_hash() == model.weights_hash()
    x = tensors_of(folder)["image"]
    assert torch.equal(again.encode(x).codes, tensors_of(folder)["indices"])


def test_config_that_contradicts_the_weights_is_one_sentence() -> None:
    folder = FOLDERS[0]
    state, config = load_file(folder / "weights.safetensors"), config_of(folder)
    with pytest.raises(WeightsError, match="do not belong together"):
        token_flow_from_state(state, config | {"codebook_size": 3})
    with pytest.raises(WeightsError, match="no tensor says its scales"):
        token_flow_from_state(state, {k: v for k, v in config.items() if k != "scales"})
    with pytest.raises(ConfigError, match="ends in"):
        token_flow_from_state(state, config | {"scales": [1, 2]})
    with pytest.raises(WeightsError, match=r"recognised .*quantize.*not recognised strange \(1\)"):
        token_flow_from_state(
            {TABLE: state[TABLE], "strange.weight": state[TABLE]}, config
        )


# -- published files, by their manifests ---------------------------------------------------------


def _manifests() -> list[Any]:
    found = []
    for folder in folders_with("manifest_full.json", FOLDER):
        for name, rows in manifest_of(folder).items():
            if any(key == TABLE for key, _, _ in rows):
                found.append(pytest.param(rows, id=name.replace(" ", "-")))
    return found


def test_manifests_are_found() -> None:
    assert _manifests()


class _Skeleton(nn.Module):
    """Modules with the names and shapes of a published encoder, for a library that is not here."""

    def __init__(self, rows: list[Any]) -> None:
        super().__init__()
        for name, shape in rows:
            *path, last = name.split(".")
            place: nn.Module = self
            for part in path:
                if not hasattr(place, part):
                    place.add_module(part, nn.Module())
                place = getattr(place, part)
            place.register_parameter(last, nn.Parameter(torch.empty(shape)))
        self.num_features = 1152


@pytest.mark.parametrize("rows", _manifests())
def test_published_checkpoint_maps_on_meta(
    rows: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = {
        key: torch.empty(shape, device="meta", dtype=getattr(torch, dtype))
        for key, shape, dtype in rows
    }
    prefix = "encoder_vqkd."
    inside = [(k.removeprefix(prefix), s) for k, s, _ in rows if k.startswith(prefix)]

    def create_model(name: str, **options: Any) -> nn.Module:
        assert name == "vitamin_xlarge_256" and options["pretrained"] is False
        return _Skeleton(inside)

    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=create_model))
    model = token_flow_from_state(state)
    names = official_names(model, state)
    used = {part for parts in names.values() for part in parts}
    left = {key for key in state if key not in used}
    allowed = re.compile(
        r"scaling_layer\.|encoder_vqkd\.(vision_model\.)?(head|post_layernorm|encoder\.layers\.26)\."
    )
    assert all(allowed.match(key) for key in left)
    ours = {name: tensor.numel() for name, tensor in model.state_dict().items()}
    assert sum(ours.values()) == sum(math.prod(s) for k, s, _ in rows if k in used)
    scales = model.settings.scales
    assert scales.grid[0] in (14, 16, 27) and scales.num_tokens in (561, 817, 2227)
