"""Importing RobusTok's layout: sizes, keys, checkpoints with foreign objects, bad files."""

from __future__ import annotations

import argparse
import os
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tessera.cli import run
from tessera.commands.import_ import Family, guess_family
from tok_core.errors import ConfigError, WeightsError
from tok_core.inert_pickle import InertCheckpoint, plain
from tok_core.loading import load
from tok_core.official_weights import read_settings
from vision_tok.import_robus_tok import (
    export_teacher,
    import_robus_tok,
    official_names,
    robus_tok_from_state,
)
from vision_tok.robus_tok import RobusTok
from vision_tok.semantic_teacher import TeacherOptions, build_teacher
from vision_tok.tower_weights import TIMM, tower_names
from vision_tok.vqgan import VQGAN

SIDE: dict[str, Any] = {"width": 64, "layers": 1, "heads": 1, "mlp_width": 48}
SINGLE: dict[str, Any] = {
    "image_size": 32, "patch_size": 8, "encoder_size": SIDE,
    "decoder_size": SIDE | {"layers": 2, "mlp_width": 32}, "code_dim": 4, "codebook_size": 20,
    "quantizer_options": {"average_usage": True},
}  # fmt: skip
PRODUCT = SINGLE | {"branches": 3, "code_grid": 2}
FOLDED = PRODUCT | {
    "branches": 2, "quantizer_kind": "multi_scale", "scales": [1, 1, 2],
    "quantizer_options": {"average_usage": True, "phi_convs": 4, "start_drop": 3, "dropout": 0.1},
}  # fmt: skip
CASES = {"single": SINGLE, "product": PRODUCT, "folded": FOLDED}
TOKENS = ("cls_token", "mask_token", "latent_tokens", "pos_embed")


def made(values: dict[str, Any]) -> RobusTok:
    torch.manual_seed(0)
    model = RobusTok(**values)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    for branch in model.quantizer:
        branch.average.updates.fill_(100)
        branch.average.hits.uniform_(0, 5)
    return model.eval()


def official(model: RobusTok) -> dict[str, Tensor]:
    """Return a state dict as the authors store it: with level numbers and the frozen teacher."""
    state: dict[str, Tensor] = {}
    ours = model.state_dict()
    for name, (theirs,) in official_names(model).items():
        tensor = ours[name].clone()
        if theirs.endswith(TOKENS):
            tensor = tensor.view(1, -1, tensor.shape[-1])
        if theirs.endswith("ema_vocab_hit_SV") and len(tensor) == 1:
            tensor = tensor[0]
        state[theirs] = tensor
    teacher = model.encoder.tower
    for name, (theirs,) in tower_names(teacher, TIMM).items():
        tensor = teacher.state_dict()[name] + 1
        token = theirs in ("cls_token", "pos_embed")
        state[f"semantic_model.{theirs}"] = tensor.view(1, -1, 64) if token else tensor
    settings = model.settings
    queries = settings.branches * settings.code_grid**2
    state["encoder.lvl1LC"] = torch.zeros(1, 1 + settings.grid**2 + queries, dtype=torch.int64)
    state["decoder.lvl1LC"] = torch.zeros(1, 2 + settings.grid**2, dtype=torch.int64)
    return state


@pytest.fixture
def state() -> dict[str, Tensor]:
    return official(made(SINGLE))


# -- what is read --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_a_state_dict_comes_back_whole(name: str, tmp_path: Path) -> None:
    model = made(CASES[name])
    save_file(official(model), tmp_path / "model.safetensors")
    config = {"v_patch_nums": [1, 1, 2]} if name == "folded" else None
    again = import_robus_tok(tmp_path / "model.safetensors", config)
    assert not again.training
    mine, theirs = model.state_dict(), again.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert again.settings.branches == model.settings.branches
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    assert torch.equal(again.encode(x).codes, model.encode(x).codes)
    again.save_pretrained(tmp_path / "ours")
    assert RobusTok.from_pretrained(tmp_path / "ours").code_hash() == again.code_hash()


def test_another_size_of_pictures_is_an_option(state: dict[str, Tensor]) -> None:
    model = robus_tok_from_state(state, {"image_size": 48})
    assert model.spec.image_size == (48, 48) and model.spec.grid == (4, 4)
    assert model.encode(torch.zeros(1, 3, 48, 48)).codes.shape == (1, 4, 4)


def test_optional_parts_are_left_out_by_name(state: dict[str, Tensor]) -> None:
    more = {"sem_linear.weight": torch.zeros(4, 64), "detail_model.norm.weight": torch.zeros(9)}
    whole = robus_tok_from_state(state).weights_hash()
    assert robus_tok_from_state(state | more).weights_hash() == whole
    bare = {k: t for k, t in state.items() if not k.startswith(("semantic_model.", "encoder.lvl1"))}
    assert robus_tok_from_state(bare).weights_hash() == whole


def test_prefixes_of_distributed_training_fall_away(state: dict[str, Tensor]) -> None:
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    whole = robus_tok_from_state(state).weights_hash()
    assert robus_tok_from_state(wrapped).weights_hash() == whole


# -- training checkpoints ------------------------------------------------------------------------


@contextmanager
def foreign() -> Iterator[dict[str, type]]:
    """Give classes with the names of ruamel.yaml's, as long as a checkpoint is written."""
    names = {
        "comments": ("CommentedSeq", "CommentedMap", "LineCol"), "scalarfloat": ("ScalarFloat",)
    }  # fmt: skip
    bases = {"CommentedSeq": list, "CommentedMap": dict, "ScalarFloat": float, "LineCol": object}
    classes: dict[str, type] = {}
    modules = {name: ModuleType(name) for name in ("ruamel", "ruamel.yaml")}
    for module, members in names.items():
        full = f"ruamel.yaml.{module}"
        modules[full] = ModuleType(full)
        for member in members:
            cls = type(member, (bases[member],), {"__module__": full})
            setattr(modules[full], member, cls)
            classes[member] = cls
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield classes
    finally:
        for name, module in before.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module


def checkpoint(folder: Path, state: dict[str, Tensor], **more: Any) -> Path:
    """Write a file as the training script does."""
    with foreign() as classes:
        scales = classes["CommentedSeq"]([1, 1, 2])
        scales.position = classes["LineCol"]()
        rate = classes["ScalarFloat"](0.4)
        rate.width = 3
        nested = classes["CommentedMap"]({"lr": rate})
        args = argparse.Namespace(
            v_patch_nums=scales, codebook_drop=rate, half_sem=True, more=nested
        )
        whole = {
            "model": state, "ema": {name: tensor * 1.5 for name, tensor in state.items()},
            "optimizer": {"state": {0: torch.zeros(3)}}, "steps": 7, "args": args, **more,
        }  # fmt: skip
        torch.save(whole, folder / "best_ckpt.pt")
    return folder / "best_ckpt.pt"


@pytest.mark.parametrize("weights", ["ema", "model"])
def test_the_averaged_weights_are_the_default(
    state: dict[str, Tensor], weights: str, tmp_path: Path
) -> None:
    file = checkpoint(tmp_path, state)
    model = import_robus_tok(file) if weights == "ema" else import_robus_tok(file, weights="model")
    factor = 1.5 if weights == "ema" else 1.0
    assert torch.equal(model.quant_conv.bias, state["quant_conv.bias"] * factor)
    assert RobusTok.from_pretrained(file).quant_conv.bias.equal(state["quant_conv.bias"] * 1.5)
    with pytest.raises(ConfigError, match="legal are ema and model"):
        import_robus_tok(file, weights="optimizer")


def test_settings_inside_tell_what_no_shape_does(tmp_path: Path) -> None:
    file = checkpoint(tmp_path, official(made(FOLDED)))
    assert read_settings(file) == {
        "v_patch_nums": [1, 1, 2], "codebook_drop": 0.4, "half_sem": True, "more": {"lr": 0.4},
    }  # fmt: skip
    settings = import_robus_tok(file).settings
    assert settings.scales.sizes == ((1, 1), (1, 1), (2, 2)) and settings.options.dropout == 0.4
    # Those of another run do not fit, and are passed over.
    single = checkpoint(tmp_path, official(made(SINGLE)))
    assert import_robus_tok(single).settings.scales is None


class Hostile:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("place", ["optimizer_disc", "ema"])
def test_nothing_in_a_checkpoint_runs(
    state: dict[str, Tensor], place: str, tmp_path: Path
) -> None:
    file = checkpoint(tmp_path, state, **{place: Hostile(tmp_path / "ran")})
    with pytest.raises(WeightsError, match=r"holds a '(posix|nt).system'.*weights alone"):
        import_robus_tok(file)
    assert not (tmp_path / "ran").exists() and read_settings(file) == {}


def changed(file: Path, out: Path, parts: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(out, "w") as target:
        for name in source.namelist():
            inner = name.partition("/")[2]
            target.writestr(name, parts.get(inner, source.read(name)))
    return out


def test_damaged_checkpoints_are_one_sentence(state: dict[str, Tensor], tmp_path: Path) -> None:
    file = checkpoint(tmp_path, state)
    with zipfile.ZipFile(file) as source:
        pickled = source.read(next(n for n in source.namelist() if n.endswith("data.pkl")))
        storages = [n.partition("/")[2] for n in source.namelist() if "/data/" in n]
    for parts in (
        {"data.pkl": pickled[:-30]}, dict.fromkeys(storages, b"12"),
        {"data.pkl": b"\x80\x02K\x01."},
    ):  # fmt: skip
        with pytest.raises(WeightsError):
            import_robus_tok(changed(file, tmp_path / "bad.pt", parts))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(WeightsError):
        import_robus_tok(file)


def test_shells_keep_what_they_are_given_and_no_more(tmp_path: Path) -> None:
    file = checkpoint(tmp_path, {})
    content = InertCheckpoint(file, ("argparse.", "ruamel.yaml.")).content
    assert type(content["args"]).__name__ == "Namespace"
    assert plain(content["args"])["half_sem"] is True
    with pytest.raises(WeightsError, match=r"argparse\.Namespace"):
        InertCheckpoint(file, ("ruamel.yaml.",))


# -- the teacher ---------------------------------------------------------------------------------


def test_the_teacher_is_left_out_or_kept(state: dict[str, Tensor], tmp_path: Path) -> None:
    file = checkpoint(tmp_path, state)
    count = export_teacher(file, tmp_path / "teacher.safetensors")
    held = load_file(tmp_path / "teacher.safetensors")
    assert count == sum(t.numel() for t in held.values())
    assert all(torch.equal(t, 1.5 * state[f"semantic_model.{n}"]) for n, t in held.items())
    options: dict[str, Any] = {"normalization": "imagenet"}
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    path = str(tmp_path / "teacher.safetensors")
    exported = build_teacher(TeacherOptions(weights=path, **options))
    inside = build_teacher(TeacherOptions(weights=str(file), **options))
    assert torch.equal(exported.class_feature(x), inside.class_feature(x))
    with pytest.raises(WeightsError, match="nothing is overwritten"):
        export_teacher(file, tmp_path / "teacher.safetensors")
    bare = {name: t for name, t in state.items() if not name.startswith("semantic_model.")}
    save_file(bare, tmp_path / "bare.safetensors")
    with pytest.raises(WeightsError, match="holds no teacher"):
        export_teacher(tmp_path / "bare.safetensors", tmp_path / "none.safetensors")


# -- the command ---------------------------------------------------------------------------------


def test_the_command_finds_the_family(
    state: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = checkpoint(tmp_path, state)
    assert guess_family(str(file)) is Family.robustok
    assert run(["import", str(file), "-o", str(tmp_path / "ours")]) == 0
    assert "RobusTok with" in capsys.readouterr().out
    assert isinstance(load(tmp_path / "ours"), RobusTok)


# -- what is refused -----------------------------------------------------------------------------


def test_keys_left_over_on_either_side(state: dict[str, Tensor]) -> None:
    with pytest.raises(WeightsError, match=r"lacks decoder\.mask_token.*unknown nothing"):
        robus_tok_from_state({k: t for k, t in state.items() if k != "decoder.mask_token"})
    with pytest.raises(WeightsError, match=r"unknown encoder\.stranger"):
        robus_tok_from_state(state | {"encoder.stranger": torch.zeros(2)})
    with pytest.raises(WeightsError, match=r"post_quant_conv\.weight of shape"):
        robus_tok_from_state(state | {"post_quant_conv.weight": torch.zeros(64, 5, 1, 1)})
    with pytest.raises(WeightsError, match="not a whole RobusTok file"):
        robus_tok_from_state({k: t for k, t in state.items() if k != "quant_conv.weight"})


def test_odd_shapes_are_one_sentence(state: dict[str, Tensor]) -> None:
    for name in ("encoder.model.pos_embed", "encoder.latent_tokens", "encoder.lvl_embed.weight",
                 "encoder.model.patch_embed.proj.weight", "quantize.embedding.weight"):  # fmt: skip
        for odd in (torch.zeros(()), torch.zeros(1), torch.zeros(0, 3)):
            with pytest.raises((WeightsError, ConfigError)):
                robus_tok_from_state(state | {name: odd})


def test_another_network_is_named(state: dict[str, Tensor]) -> None:
    with pytest.raises(WeightsError, match=r"recognised encoder \(1\); not recognised head \(1\)"):
        robus_tok_from_state({"encoder.x": torch.zeros(1), "head.y": torch.zeros(1)})
    with pytest.raises(WeightsError, match="convolutional encoder"):
        robus_tok_from_state({"encoder.conv_in.weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match="holds a RobusTok, not a VQGAN"):
        robus_tok_from_state(state, cls=VQGAN)
    with pytest.raises(WeightsError, match="no official checkpoint"):
        import_robus_tok("./nowhere")


def test_a_config_that_contradicts_the_weights() -> None:
    state = official(made(FOLDED))
    with pytest.raises(WeightsError, match="has 3 scales that end in 2"):
        robus_tok_from_state(state)
    with pytest.raises(WeightsError, match="lists 2 scales but the weights hold 3"):
        robus_tok_from_state(state, {"v_patch_nums": [1, 2]})
    with pytest.raises(WeightsError, match="codebook_size 21 but the weights say 20"):
        robus_tok_from_state(state, {"v_patch_nums": [1, 1, 2], "codebook_size": 21})
    with pytest.raises(WeightsError, match="2 branches but the checkpoint holds 1"):
        robus_tok_from_state(
            {k: t for k, t in state.items() if not k.startswith("quantizes.1.")},
            {"v_patch_nums": [1, 1, 2]},
        )


def test_modules_are_named_as_in_timm() -> None:
    names = official_names(made(FOLDED))
    for ours, theirs in (
        ("encoder.tower.blocks.0.attention_scale.gamma", "encoder.model.blocks.0.ls1.gamma"),
        ("quantizer.branches.1.phi.2.weight", "quantizes.1.quant_resi.qresi_ls.2.weight"),
        ("decoder.level_table", "decoder.lvl_embed.weight"),
    ):
        assert names[ours] == (theirs,)
