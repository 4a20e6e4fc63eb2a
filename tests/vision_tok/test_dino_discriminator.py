"""The DINO-head discriminator: its trunk stays frozen and unsaved, its heads train, sizes fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from tests.tiny_training import TinyTokenizer, tiny_engine
from tok_core.contract import Tokens, TrainingOutput
from tok_core.errors import ConfigError, WeightsError
from tok_core.run_config import load_config
from vision_tok.adversarial_objective import build_discriminator
from vision_tok.dino_discriminator import DinoDiscriminator, LocalBatchNorm
from vision_tok.discriminator_trunk import TrunkOptions, build_trunk
from vision_tok.image_objective import ImageObjective, ImageObjectiveConfig
from vision_tok.import_dino_discriminator import dino_discriminator_from_state
from vision_tok.tower_weights import TIMM, tower_names
from vision_tok.train import ImageRun, check_model, main
from vision_tok.vision_tower import TowerSizes, VisionTower

RUN = ("train.steps=1", "train.batch_size=1")
SIZES: dict[str, Any] = {
    "patch_size": 4, "grid": 4, "width": 16, "layers": 3, "heads": 2, "mlp_width": 24,
}  # fmt: skip
RANDOM = TrunkOptions(kind="random", sizes=SIZES, readouts=(0, 2))
CLASSIFIER = TrunkOptions(
    kind="classifier", weights="assets/classifiers/procedural-v1", strides=(2, 1, 2, 2, 1)
)


def pictures(side: int = 16, batch: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 3, side, side, generator=generator) * 2 - 1


def objective(**options: Any) -> ImageObjective:
    torch.manual_seed(0)
    return ImageObjective(ImageObjectiveConfig(**{
        "discriminator": True, "discriminator_kind": "dino", "discriminator_trunk": RANDOM,
        "discriminator_start": 0, "diff_augment": 1.0, "blur_steps": 1, "lecam_update_first": True,
    } | options))  # fmt: skip


def output(picture: Tensor) -> TrainingOutput:
    return TrainingOutput(picture, Tokens(torch.zeros(len(picture), 1).long()), {}, {})


# -- trunks --------------------------------------------------------------------------------------


def test_read_outs_of_a_transformer() -> None:
    trunk = build_trunk(RANDOM).eval()
    tower, x = trunk.tower, pictures()
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    h = tower.embedded(((x + 1) / 2 - mean) / std)
    expected = [h]
    for block in tower.blocks:
        h = block(h)
        expected.append(h)
    for ours, tokens in zip(trunk(x), (expected[i] for i in (0, 1, 3)), strict=True):
        both = (tokens[:, 1:] + tokens[:, :1]).transpose(1, 2)
        torch.testing.assert_close(ours, both, atol=1e-5, rtol=1e-5)


def test_a_dino_file_fits_and_its_heads_come_from_the_options(tmp_path: Path) -> None:
    torch.manual_seed(1)
    tower = VisionTower(TowerSizes(**SIZES, class_token=True))
    names, state = tower_names(tower, TIMM), tower.state_dict()
    official = {names[n][0]: t.clone() for n, t in state.items()}
    official["cls_token"] = official["cls_token"].view(1, 1, -1)
    official["pos_embed"] = official["pos_embed"][None]
    save_file(official, tmp_path / "dino.safetensors")
    options = TrunkOptions(
        weights=str(tmp_path / "dino.safetensors"), sizes={"heads": 2}, readouts=(0, 2)
    )
    trunk = build_trunk(options).eval()
    assert trunk.tower.blocks[0].attention.heads == 2
    assert torch.equal(trunk.tower.blocks[2].up.weight, state["blocks.2.up.weight"])
    assert trunk.lengths == (16, 16, 16)


def test_the_packaged_classifier_is_a_trunk() -> None:
    trunk = build_trunk(CLASSIFIER).eval()
    found = trunk(pictures(side=48, batch=2))
    sizes = list(zip(trunk.widths, trunk.lengths, strict=True))
    assert [tuple(h.shape[1:]) for h in found] == sizes
    assert trunk.lengths == (256, 64, 64)


def test_a_random_trunk_is_the_same_in_every_run() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = build_trunk(RANDOM).eval(), build_trunk(RANDOM).eval()
    assert torch.equal(before, torch.get_rng_state())
    torch.testing.assert_close(first(pictures()), second(pictures()))


def test_sizes_of_pictures() -> None:
    trunk = build_trunk(RANDOM).eval()
    large, small = pictures(side=40), pictures(side=10)
    assert torch.equal(trunk.fitted(large), F.interpolate(large, (16, 16), mode="area"))
    assert torch.equal(trunk.fitted(small), F.interpolate(small, (16, 16), mode="bicubic"))
    wide = torch.cat((small, small), dim=-1)
    assert trunk.fitted(wide).shape[-2:] == (16, 16)
    trunk.train()
    torch.manual_seed(0)
    calls = [trunk.fitted(large) for _ in range(40)]
    areas = sum(torch.equal(call, F.interpolate(large, (16, 16), mode="area")) for call in calls)
    assert 8 < areas < 32
    windows = [large[..., i : i + 16, j : j + 16] for i in range(25) for j in range(25)]
    crops = sum(any(torch.equal(call, window) for window in windows) for call in calls)
    assert crops + areas == 40


# -- heads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "runs"), [(1, [1]), (6, [6]), (8, [8]), (9, [5, 4]),
                                             (16, [8, 8]), (20, [7, 7, 6])])  # fmt: skip
def test_local_batch_norm(batch: int, runs: list[int]) -> None:
    norm, x = LocalBatchNorm(5), torch.randn(batch, 5, 7)
    with torch.no_grad():
        norm.weight.uniform_()
        norm.bias.uniform_()
    expected = []
    for run in x.split(runs):
        variance, mean = torch.var_mean(run, dim=(0, 2), correction=0, keepdim=True)
        normal = (run - mean) / (variance + 1e-6).sqrt()
        expected.append(normal * norm.weight[:, None] + norm.bias[:, None])
    for mode in (True, False):
        torch.testing.assert_close(norm.train(mode)(x), torch.cat(expected), atol=1e-5, rtol=1e-5)


def test_one_logit_per_token_and_read_out() -> None:
    discriminator = DinoDiscriminator(build_trunk(RANDOM))
    assert discriminator(pictures()).shape == (3, 48)
    for _ in range(30):
        discriminator(pictures(batch=1))
    weight = discriminator.eval().heads[0].mix.weight.detach().flatten(1)
    assert float(torch.linalg.matrix_norm(weight, 2)) == pytest.approx(1.0, rel=1e-2)


def test_the_trunk_neither_trains_nor_is_saved() -> None:
    discriminator = DinoDiscriminator(build_trunk(RANDOM))
    discriminator.requires_grad_(True)
    assert {name.split(".")[0] for name, _ in discriminator.named_parameters()} == {"heads"}
    assert {name.split(".")[0] for name in discriminator.state_dict()} == {"heads"}
    assert not any(buffer.requires_grad for buffer in discriminator.buffers())


def test_official_names_come_back() -> None:
    ours = DinoDiscriminator(build_trunk(RANDOM), kernel=5).eval()
    parts = {
        "enter": "0.0", "enter_norm": "0.1", "mix": "1.fn.0", "mix_norm": "1.fn.1", "judge": "2",
    }  # fmt: skip
    kinds = {"parametrizations.weight.original": "weight_orig", "weight": "weight", "bias": "bias",
             "parametrizations.weight.0._u": "weight_u",
             "parametrizations.weight.0._v": "weight_v"}  # fmt: skip
    official = {}
    for name, tensor in ours.state_dict().items():
        _, head, part, rest = name.split(".", 3)
        official[f"heads.{head}.{parts[part]}.{kinds[rest]}"] = tensor
    again = dino_discriminator_from_state(official, build_trunk(RANDOM))
    assert torch.equal(again(pictures()), ours(pictures()))
    with pytest.raises(WeightsError, match="unknown key 'head'"):
        dino_discriminator_from_state({"head": torch.zeros(1)}, build_trunk(RANDOM))
    with pytest.raises(WeightsError, match="missing"):
        del official["heads.2.2.bias"]
        dino_discriminator_from_state(official, build_trunk(RANDOM))


# -- in the objective ----------------------------------------------------------------------------


@pytest.mark.parametrize("trunk", [RANDOM, CLASSIFIER])
def test_both_players_get_gradients(trunk: TrunkOptions) -> None:
    found = objective(discriminator_trunk=trunk)
    x, y = pictures(), pictures(seed=1).requires_grad_()
    terms = found.generator_losses(x, output(y), 0)
    terms["loss/gan"].backward()
    assert y.grad is not None and float(y.grad.abs().sum()) > 0
    assert all(p.grad is None for p in found.discriminator.parameters())
    losses = found.discriminator_losses(x, output(y), 0)
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in found.discriminator.parameters())
    assert set(losses) == {"discriminator/hinge", "discriminator/lecam"}


def test_dino_sees_the_signed_range_whatever_the_means_are_taken_on() -> None:
    x = pictures()
    for picture_range in ("unit", "signed"):
        plain = objective(picture_range=picture_range, diff_augment=0.0, blur_steps=0)
        assert torch.equal(plain.shown(x, 0), x)
    patch = objective(
        discriminator_kind="patch", discriminator_trunk=None, discriminator_channels=32,
        diff_augment=0.0, blur_steps=0,
    )  # fmt: skip
    assert torch.equal(patch.shown(x, 0), (x + 1) / 2)


def test_blur_ends_one_step_after_the_start() -> None:
    found = objective(discriminator_start=5, diff_augment=0.0)
    x = pictures()
    assert not torch.equal(found.shown(x, 5), x)
    assert torch.equal(found.shown(x, 6), x)


def test_a_training_run_saves_and_resumes(tmp_path: Path) -> None:
    options = ("train.steps=4", "log.save_every=2", "schedule.kind=epochs", "schedule.warmup=0",
               "schedule.epoch_steps=2", "train.batch_size=3")  # fmt: skip
    engine = tiny_engine(
        tmp_path, *options, model=TinyTokenizer(restarts=0, keep=16),
        objective=objective(l1_weight=1.0, discriminator_start=1),
    )  # fmt: skip
    heads = {n: p.detach().clone() for n, p in engine.objective.discriminator.named_parameters()}
    assert engine.run() is not None
    moved = engine.objective.discriminator.named_parameters()
    assert any(not torch.equal(p, heads[n]) for n, p in moved)
    state = {n: t.clone() for n, t in engine.objective.state_dict().items()}
    assert not any("trunk" in name for name in state)
    again = tiny_engine(
        tmp_path, *options, "train.steps=5", model=TinyTokenizer(restarts=0, keep=16),
        objective=objective(l1_weight=1.0, discriminator_start=1),
    )  # fmt: skip
    again.run(resume=True)
    assert again.step == 5


def test_the_whole_training_side_of_robus_tok(tmp_path: Path) -> None:
    """Perturbation, DINO heads on the packaged classifier, adaptive weight, contrastive loss."""
    settings = [
        "train.steps=2", "train.batch_size=4", "train.device=cpu", "log.tracker=none",
        "validation_images=0", "perturbation.beta=0.5", "log.every=1",
        "model.config.encoder_size.layers=1", "model.config.decoder_size.layers=1",
        "model.config.quantizer_options={}", "data.source=photographs",
        "data.crop_fraction=[0.8, 1.0]", "objective.discriminator=true",
        "objective.discriminator_kind=dino", "objective.discriminator_start=0",
        "objective.discriminator_trunk={kind: classifier, strides: [2, 1, 2, 2, 1], "
        "weights: assets/classifiers/procedural-v1}", "objective.diff_augment=1.0",
        "objective.blur_steps=1", "objective.adaptive_weight=true",
        "objective.lecam_update_first=true", "objective.contrastive_tokens=perturbed",
    ]  # fmt: skip
    recipe = Path(__file__).parents[2] / "assets" / "configs" / "robus-tok-tiny.yaml"
    options = [part for setting in settings for part in ("--set", setting)]
    assert main(["--config", str(recipe), "--out", str(tmp_path / "run"), *options]) == 0
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    seen = {key for line in lines for key in json.loads(line)}
    assert seen >= {
        "loss/contrastive", "loss/gan", "adaptive_weight", "discriminator/hinge",
        "discriminator/lecam", "loss/reconstruction",
    }  # fmt: skip


# -- mistakes ------------------------------------------------------------------------------------


def test_a_missing_trunk_says_which_file_and_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TESSERA_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(WeightsError, match=r"dino_deitsmall16_pretrain.pth.*DINO.*TESSERA_WEIGHTS"):
        build_discriminator(ImageObjectiveConfig(discriminator_kind="dino"))
    for path in ("/no/dino.pth", "no/dino.pth"):
        with pytest.raises(WeightsError, match=rf"'{path}'.*dino_deitsmall16_pretrain.pth"):
            build_trunk(TrunkOptions(weights=path))


@pytest.mark.parametrize(("options", "words"), [
    ({"readouts": (0, 3)}, r"readouts is \(0, 3\).*3 blocks.*0 to 2"),
    ({"readouts": ()}, "readouts"),
    ({"sizes": {**SIZES, "heads": 3}}, "16 wide.*3 heads"),
    ({"sizes": {**SIZES, "grid": 1}}, "single token"),
    ({"sizes": {**SIZES, "pre_norm": True}}, "no DINO transformer"),
    ({"sizes": {"widht": 3}}, "widht.*width"),
    ({"sizes": None}, "needs sizes"),
    ({"kind": "classifier", "sizes": None}, "weights is empty"),
])  # fmt: skip
def test_trunks_that_cannot_be_built(options: dict[str, Any], words: str) -> None:
    values = {"kind": "random", "sizes": SIZES, "readouts": (0, 2)} | options
    config = ImageObjectiveConfig(
        discriminator_kind="dino", discriminator_trunk=TrunkOptions(**values)
    )
    with pytest.raises(ConfigError, match=words):
        build_discriminator(config)


def test_kernels_that_cannot_be_built() -> None:
    trunk = build_trunk(RANDOM)
    for kernel in (0, 4, 35):
        with pytest.raises(ConfigError, match=rf"kernel is {kernel}.*16 tokens.*at most 33"):
            DinoDiscriminator(trunk, kernel=kernel)


def test_options_that_do_not_go_together() -> None:
    with pytest.raises(ConfigError, match="discriminator_trunk is given"):
        objective(discriminator_kind="patch")
    config = load_config(ImageRun, None, [*RUN, "objective.contrastive_weight=0.1"])
    with pytest.raises(ConfigError, match=r"contrastive_weight is 0.1 but TinyTokenizer"):
        check_model(config, TinyTokenizer())
    with pytest.raises(ConfigError, match="semantic_teacher is empty"):
        ImageObjective(config.objective)
    with pytest.raises(ConfigError, match="epoch_steps"):
        load_config(ImageRun, None, [*RUN, "schedule.kind=epochs"])


def test_the_trunk_is_read_from_a_recipe() -> None:
    config = load_config(ImageRun, None, [
        *RUN, "objective.discriminator_kind=dino",
        "objective.discriminator_trunk={kind: random, readouts: [0, 2], sizes: {patch_size: 4, "
        "grid: 4, width: 16, layers: 3, heads: 2, mlp_width: 24}}",
    ])  # fmt: skip
    assert config.objective.discriminator_trunk == RANDOM
