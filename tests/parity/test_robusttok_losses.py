"""RobusTok's training side against outputs of the official code: judge, losses, crops, rates.

Every tensor of every ``io.safetensors`` whose key is of a kind below is one test.  Sizes and
options come from the ``config.json`` beside it, folders and cases from the files.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from tests.parity.vectors import (
    PARITY,
    Kinds,
    Tolerance,
    config_of,
    folders_with,
    keys_of,
    parity_folder,
    tensors_of,
)
from tok_core.evaluation_crop import evaluation_crop
from tok_core.training.schedule import epoch_learning_rate
from vision_tok.adaptive_weight import LAST_LAYER, adaptive_weight
from vision_tok.adversarial_loss import (
    LeCam,
    discriminator_hinge,
    discriminator_vanilla,
    generator_hinge,
)
from vision_tok.contrastive_loss import contrastive_loss
from vision_tok.diff_augment import AugmentDraws, diff_augment, warm_up_blur
from vision_tok.dino_discriminator import DinoDiscriminator, LocalBatchNorm
from vision_tok.discriminator_trunk import IMAGENET, TrunkOptions, trunk_from_state
from vision_tok.image_crops import box_crop, shortest_sides
from vision_tok.import_dino_discriminator import dino_discriminator_from_state

FOLDER = parity_folder("robusttok")

FEATURE, LOSS = Tolerance(absolute=1e-4), Tolerance(relative=1e-5, absolute=1e-7)
FOLDERS = folders_with("io.safetensors", FOLDER)
TRUNK = "dino_proxy_not_in_checkpoint."


@cache
def _discriminator(folder: Path) -> DinoDiscriminator:
    config, state = config_of(folder), load_file(folder / "weights.safetensors")
    sizes = config["trunk"]
    official = {k.removeprefix(TRUNK): t for k, t in state.items() if k.startswith(TRUNK)}
    # Constants of the official module: from [-1, 1] to ImageNet's statistics.
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in IMAGENET)
    torch.testing.assert_close(official.pop("x_scale"), 0.5 / std)
    torch.testing.assert_close(official.pop("x_shift"), (0.5 - mean) / std)
    trunk = trunk_from_state(official, TrunkOptions(
        readouts=tuple(sizes["key_depths"]),
        sizes={"heads": sizes["num_heads"], "eps": sizes["norm_eps"]},
    ))  # fmt: skip
    assert trunk.side == sizes["input_size"]
    heads = {k: t for k, t in state.items() if not k.startswith(TRUNK)}
    return dino_discriminator_from_state(heads, trunk, virtual=config["virtual_batch"])


# -- what each key asks for ----------------------------------------------------------------------

KINDS = Kinds(FOLDERS, FEATURE)
kind = KINDS.kind


@kind("read-outs", r"trunk\.readout(\d+)")
def _readout(folder: Path, index: str) -> Tensor:
    return _discriminator(folder).trunk(tensors_of(folder)["image_fake"])[int(index)]


@kind("logits", r"logits_([a-z0-9]+)(?:_area_path)?")
def _logits(folder: Path, picture: str) -> Tensor:
    return _discriminator(folder)(tensors_of(folder)[f"image_{picture}"])


@kind("local batch norm", r"bnlocal\.out_B(\d+)")
def _local_batch_norm(folder: Path, batch: str) -> Tensor:
    io = tensors_of(folder)
    norm = LocalBatchNorm(len(io["bnlocal.weight"]), config_of(folder)["virtual_batch"])
    norm.load_state_dict({k: io[f"bnlocal.{k}"] for k in ("weight", "bias")})
    return norm(io["bnlocal.in"][: int(batch)])


def _number(text: str) -> float:
    """05 and 0p5 are a half, 1 is one."""
    return float(text.replace("p", ".") if "p" in text or len(text) == 1 else f"0.{text[1:]}")


@kind("augmented", r"diffaug(?:_p(\w+))?\.out")
def _augmented(folder: Path, probability: str | None) -> Tensor:
    io, options = tensors_of(folder), config_of(folder)["diffaug"]
    name = f"diffaug_p{probability}" if probability else "diffaug"
    draws = AugmentDraws(io[f"{name}.draw_gates"], io[f"{name}.draws_7xBx1x1"])
    x = io["image_fake"].clone().requires_grad_()
    out = diff_augment(
        x, draws, cutout=options["cutout"], translation=options["translate_ratio"],
        probability=_number(probability) if probability else options["prob"],
    )  # fmt: skip
    out.sum().backward()
    assert x.grad is not None and bool(x.grad.any())
    return out.detach()


@kind("blurred", r"diffaug_blur\.schedule(\w+)\.out")
def _blurred(folder: Path, schedule: str) -> Tensor:
    return warm_up_blur(tensors_of(folder)["image_fake"], _number(schedule))


@kind("adversarial losses", r"loss\.(hinge_d|hinge_g|vanilla_d)", LOSS)
def _adversarial(folder: Path, name: str) -> Tensor:
    real, fake = (tensors_of(folder)[f"logits_{side}"] for side in ("real", "fake"))
    if name == "hinge_g":
        return generator_hinge(fake)
    return {"hinge_d": discriminator_hinge, "vanilla_d": discriminator_vanilla}[name](real, fake)


@kind("lecam", r"(loss\.lecam_\w+)", LOSS)
def _lecam(folder: Path, name: str) -> Tensor:
    io = tensors_of(folder)
    lecam = LeCam(config_of(folder)["lecam_decay"], update_first=True)
    rows = []
    for k in range(len(io[name])):
        penalty = lecam(io["logits_real"] + k, io["logits_fake"] - 0.5 * k)
        rows.append(torch.stack([lecam.average_real[0], lecam.average_fake[0], penalty]))
    return torch.stack(rows)


@kind("adaptive weight", r"loss\.adaptive\.weight", LOSS)
def _adaptive(folder: Path) -> Tensor:
    weight = tensors_of(folder)["loss.adaptive.W"].clone().requires_grad_()
    rest = (weight @ tensors_of(folder)["loss.adaptive.A"]).square().mean()
    return adaptive_weight(rest, weight.sin().mean(), {LAST_LAYER: weight})


@kind("contrastive", r"loss\.contrastive\.scale(\w+)", LOSS)
def _contrastive(folder: Path, scale: str) -> Tensor:
    io = tensors_of(folder)
    teacher, token = (io[f"loss.contrastive.feat_{s}"] for s in ("teacher", "token"))
    return contrastive_loss(teacher, token, scale=float(scale.replace("p", ".")))


# -- the tests -----------------------------------------------------------------------------------


def _label(folder: Path, name: str, key: str) -> str:
    return f"{folder.relative_to(PARITY)}-{name}-{key}"


@pytest.mark.parametrize(("folder", "key"), KINDS.cases(_label))
def test_official(folder: Path, key: str) -> None:
    KINDS.check(folder, key)


def test_every_kind_is_there() -> None:
    assert not KINDS.unused()
    assert CROPS and SCHEDULES


# -- crops and learning rates --------------------------------------------------------------------


def _crops() -> list[tuple[Path, str, int]]:
    pattern = re.compile(r"(center_crop|random_crop)\.(\d+)\.out_hwc")
    return [
        (folder, found[1], int(found[2]))
        for folder in FOLDERS
        for key in sorted(keys_of(folder))
        if (found := pattern.fullmatch(key))
    ]


CROPS = _crops()


@pytest.mark.parametrize(("folder", "name", "index"), CROPS)
def test_crop(folder: Path, name: str, index: int) -> None:
    io, setting = tensors_of(folder), config_of(folder)[name][index]
    image = Image.fromarray(io[f"{name}.{index}.in_hwc"].byte().numpy())
    size = setting["target"]
    if name == "center_crop":
        ours = evaluation_crop(image, "adm", size)
    else:
        short, top, left = io[f"{name}.{index}.draws_shortside_y_x"].tolist()
        low, high = shortest_sides(size, (setting["min_crop_frac"], setting["max_crop_frac"]))
        assert low <= short <= high
        ours = box_crop(image, size, short, top, left)
    pixels = torch.frombuffer(bytearray(ours.tobytes()), dtype=torch.uint8)
    assert torch.equal(pixels.view(size, size, 3).long(), io[f"{name}.{index}.out_hwc"])


SCHEDULES = [
    (folder, name)
    for folder in FOLDERS
    for name in sorted(config_of(folder).get("lr_schedules", {}))
]


@pytest.mark.parametrize(("folder", "name"), SCHEDULES)
def test_learning_rates(folder: Path, name: str) -> None:
    table = config_of(folder)["lr_schedules"][name]
    given, expected = table["args"], table["lr_used_in_epoch"]
    ours = [
        epoch_learning_rate(
            epoch - given["first_stepped_epoch"], base=given["peak_lr"], end=given["min_lr"],
            start=1e-5, warmup=given["warmup_epochs"], epochs=given["num_epochs"],
        )
        for epoch in range(given["epochs"])
    ]  # fmt: skip
    assert ours == pytest.approx(expected, rel=1e-9)
