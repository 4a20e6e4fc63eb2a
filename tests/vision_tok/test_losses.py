"""Perceptual, adversarial and combined losses of image tokenizers, on tiny real networks."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tok_core.contract import Tokens, TrainingOutput
from tok_core.errors import ConfigError, WeightsError
from tok_core.lpips import LPIPS
from tok_core.weight_files import find_weights, read_weights
from vision_tok.adversarial_loss import (
    LeCam,
    discriminator_hinge,
    discriminator_vanilla,
    generator_hinge,
)
from vision_tok.convnext import SMALL, ConvNeXt
from vision_tok.discriminator import Blur, Discriminator
from vision_tok.image_objective import ImageObjective, ImageObjectiveConfig, build_objective
from vision_tok.patch_discriminator import PatchDiscriminator
from vision_tok.perceptual_loss import ConvNeXtLogits, MixedPerceptual, build_perceptual
from vision_tok.weightless_perceptual import WeightlessPerceptual

TINY = {"discriminator_channels": 32, "discriminator_stages": 2, "discriminator_start": 5}


def _pictures(batch: int = 2, side: int = 48, seed: int = 0) -> Tensor:
    """Smooth blobs with some fine texture, in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 3, 6, 6, generator=generator)
    smooth = F.interpolate(coarse, size=(side, side), mode="bicubic")
    fine = torch.rand(batch, 3, side, side, generator=generator)
    return (smooth * 1.4 + fine * 0.6 - 1.0).clamp(-1, 1)


def _output(picture: Tensor | None, **rest: object) -> TrainingOutput:
    losses = {"quantizer/codebook": torch.tensor(0.3), "quantizer/commitment": torch.tensor(0.1)}
    codes = torch.zeros(2, 4, dtype=torch.int64)
    return TrainingOutput(picture, Tokens(codes), losses, {}, **rest)  # type: ignore[arg-type]


def _tiny_lpips(seed: int = 0) -> LPIPS:
    torch.manual_seed(seed)
    lpips = LPIPS(channels=(4, 6, 6, 8, 8), layers=(2, 2, 3, 3, 3))
    for parameter in lpips.parameters():
        parameter.data.uniform_(-0.5, 0.5)
    for index in range(5):
        getattr(lpips, f"lin{index}").model[1].weight.data.abs_()
    return lpips


def _tiny_convnext(seed: int = 0) -> ConvNeXtLogits:
    torch.manual_seed(seed)
    network = ConvNeXt(((8, 16, 1), (16, None, 2)), num_classes=5)
    for parameter in network.parameters():
        parameter.data.uniform_(-0.4, 0.4)
    return ConvNeXtLogits(network, size=32)


# --- without weights ---------------------------------------------------------------------------


def test_weightless_is_zero_for_equal_pictures_and_symmetric() -> None:
    loss, x, y = WeightlessPerceptual(), _pictures(), _pictures(seed=1)
    assert float(loss(x, x)) == pytest.approx(0.0, abs=1e-6)
    assert float(loss(x, y)) == pytest.approx(float(loss(y, x)), rel=1e-5)
    assert float(loss(x, y)) > 0.1


def test_weightless_dislikes_blur_more_than_brightness_at_equal_mse() -> None:
    loss, x = WeightlessPerceptual(), _pictures() * 0.5
    blurred = F.avg_pool2d(x, 5, stride=1, padding=2, count_include_pad=False)
    brighter = x + (blurred - x).square().mean().sqrt()
    assert float(loss(blurred, x)) > 10 * float(loss(brighter, x))


def test_weightless_gradient_improves_the_picture_and_is_finite_at_equality() -> None:
    loss, x = WeightlessPerceptual(), _pictures()
    same = x.clone().requires_grad_()
    loss(same, x).backward()
    assert same.grad.isfinite().all()
    guess = torch.zeros_like(x).requires_grad_()
    optimizer = torch.optim.Adam([guess], lr=0.05)
    first = float(loss(guess.detach(), x))
    for _ in range(30):
        optimizer.zero_grad()
        loss(guess, x).backward()
        optimizer.step()
    assert float(loss(guess.detach(), x)) < 0.4 * first


@pytest.mark.parametrize("side", [8, 17, 64])
def test_weightless_batch_is_its_items(side: int) -> None:
    loss, x, y = WeightlessPerceptual(), _pictures(side=side), _pictures(side=side, seed=1)
    together = loss.distance(x, loss.reference(y))
    alone = [loss(x[i : i + 1], y[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(together, torch.stack(alone))


# --- LPIPS and ConvNeXt -------------------------------------------------------------------------


def test_lpips_is_the_published_formula() -> None:
    lpips, x, y = _tiny_lpips(), _pictures(), _pictures(seed=1)
    state = lpips.state_dict()
    stages = [[0, 2], [5, 7], [10, 12, 14], [17, 19, 21], [24, 26, 28]]
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1)
    expected = torch.zeros(2)
    a, b = (x - shift) / scale, (y - shift) / scale
    for stage, layers in enumerate(stages):
        if stage:
            a, b = F.max_pool2d(a, 2), F.max_pool2d(b, 2)
        for index in layers:
            weight, bias = state[f"features.{index}.weight"], state[f"features.{index}.bias"]
            a, b = (F.relu(F.conv2d(h, weight, bias, padding=1)) for h in (a, b))
        unit_a, unit_b = (h / (h.square().sum(1, keepdim=True).sqrt() + 1e-10) for h in (a, b))
        head = state[f"lin{stage}.model.1.weight"].view(1, -1, 1, 1)
        expected += ((unit_a - unit_b).square() * head).sum(1).mean((1, 2))
    torch.testing.assert_close(lpips(x, y, reduction="none"), expected)
    torch.testing.assert_close(lpips(x, y), expected.mean())


def test_lpips_stays_frozen_and_has_a_gradient_where_all_features_are_zero() -> None:
    lpips = _tiny_lpips()
    lpips.features[2].bias.data.fill_(-1e4)  # the first tap sees nothing but zeros
    lpips.train()
    assert not lpips.training
    assert not any(p.requires_grad for p in lpips.parameters())
    x = _pictures().requires_grad_()
    lpips(x, _pictures(seed=1)).backward()
    assert x.grad.isfinite().all()


def test_lpips_reads_both_layouts_and_nothing_else() -> None:
    lpips, x, y = _tiny_lpips(), _pictures(), _pictures(seed=1)
    state = lpips.state_dict()
    slices = {0: 1, 2: 1, 5: 2, 7: 2, 10: 3, 12: 3, 14: 3, 17: 4, 19: 4, 21: 4}
    other = {"scaling_layer.shift": torch.zeros(1, 3, 1, 1)}
    for key, value in state.items():
        if key.startswith("features."):
            index = int(key.split(".")[1])
            key = key.replace("features.", f"net.slice{slices.get(index, 5)}.")
        other[key] = value
    for layout in (state, other):
        torch.testing.assert_close(LPIPS.from_state(layout)(x, y), lpips(x, y))
    with pytest.raises(WeightsError, match=r"missing: lin4\.model\.1\.weight"):
        LPIPS.from_state({k: v for k, v in state.items() if not k.startswith("lin4")})
    with pytest.raises(WeightsError, match=r"left over: features\.0\.extra"):
        LPIPS.from_state(state | {"features.0.extra": torch.zeros(1)})


def test_small_convnext_has_the_published_size() -> None:
    with torch.device("meta"):
        network = ConvNeXt(SMALL)
    assert sum(p.numel() for p in network.parameters()) == 50_223_688


def test_convnext_logits_by_definition() -> None:
    loss, x, y = _tiny_convnext(), _pictures(), _pictures(seed=1)
    difference = loss.logits(x) - loss.logits(y)
    torch.testing.assert_close(loss(x, y), difference.square().mean())
    # A picture of the right size is not resampled, only mapped to [0, 1] and normalised.
    right = x[..., :32, :32]
    normal = ((right + 1) / 2 - loss.imagenet_mean) / loss.imagenet_std
    torch.testing.assert_close(loss.logits(right), loss.network(normal))


def test_convnext_sees_large_pictures_without_aliasing() -> None:
    lines = torch.where(torch.arange(128) % 4 == 1, 1.0, -1.0)  # plain bilinear would see 0
    seen = _tiny_convnext().resize(lines.expand(1, 3, 128, 128))
    assert seen.shape == (1, 3, 32, 32)
    assert (seen + 0.5).abs().max() < 0.15


def test_mixed_weights() -> None:
    lpips, convnext, x, y = _tiny_lpips(), _tiny_convnext(), _pictures(), _pictures(seed=1)
    expected = (lpips(x, y) + 0.1 * convnext(x, y)) / 1.1
    torch.testing.assert_close(MixedPerceptual(lpips, convnext)(x, y), expected)


# --- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "file", "project"),
    [
        ("lpips", "vgg16-397923af.pth", "torchvision"),
        ("convnext", "convnext_small-0c510722.pth", "torchvision"),
        ("mixed", "vgg16-397923af.pth", "torchvision"),
    ],
)
def test_absent_weights_say_what_is_needed_and_where(
    kind: str, file: str, project: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("TESSERA_WEIGHTS", raising=False)
    with pytest.raises(WeightsError) as error:
        build_perceptual(kind)  # type: ignore[arg-type]
    for word in (file, project, "TESSERA_WEIGHTS", str(tmp_path / "hub" / "checkpoints")):
        assert word in str(error.value)


def test_weights_are_found_in_the_users_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    cache, own = tmp_path / "torch" / "hub" / "checkpoints", tmp_path / "own"
    lpips, convnext = _tiny_lpips(), _tiny_convnext()
    for folder in (cache, own):
        folder.mkdir(parents=True)
    state = lpips.state_dict()
    backbone = {k: v for k, v in state.items() if k.startswith("features.")}
    classifier = {"classifier.0.weight": torch.zeros(3, 3)}  # torchvision's file holds it too
    torch.save(backbone | classifier, cache / "vgg16-397923af.pth")
    torch.save({k: v for k, v in state.items() if k.startswith("lin")}, own / "vgg.pth")
    torch.save(convnext.network.state_dict(), own / "convnext_small-0c510722.pth")
    monkeypatch.setenv("TESSERA_WEIGHTS", str(own))
    found = build_perceptual("mixed")
    found.convnext.size = convnext.size
    x, y = _pictures(), _pictures(seed=1)
    torch.testing.assert_close(found(x, y), MixedPerceptual(lpips, convnext)(x, y))
    # The user's own folder comes before torch's cache; an explicit path before both.
    (cache / "vgg.pth").touch()
    assert find_weights("vgg.pth", project="p") == own / "vgg.pth"
    assert find_weights("vgg.pth", project="p", explicit=cache / "vgg.pth") == cache / "vgg.pth"
    with pytest.raises(WeightsError, match="nowhere"):
        find_weights("vgg.pth", project="p", explicit=tmp_path / "nowhere")


class _Unsafe:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("executed",)


@pytest.mark.parametrize("content", [_Unsafe(), [torch.zeros(1)], {"a": {"b": torch.zeros(1)}}])
def test_only_flat_tensor_dicts_are_read(
    content: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"w\.pth"):
        read_weights(tmp_path / "w.pth")
    assert "executed" not in capsys.readouterr().out


# --- discriminator and adversarial terms -------------------------------------------------------


@pytest.mark.parametrize(("h", "w"), [(8, 8), (9, 8), (8, 9), (9, 11)])
def test_blur_halves_up_and_keeps_flat_interiors(h: int, w: int) -> None:
    out = Blur()(torch.ones(1, 3, h, w))
    assert out.shape == (1, 3, -(-h // 2), -(-w // 2))
    torch.testing.assert_close(out[..., 1:3, 1:3], torch.ones(1, 3, 2, 2))


def test_discriminator_judges_each_picture_alone() -> None:
    torch.manual_seed(0)
    network = Discriminator(channels=32, stages=2)
    x = torch.rand(3, 3, 40, 56)
    logits = network(x)
    assert logits.shape == (3, 1, 16, 16)
    torch.testing.assert_close(logits[1:2], network(x[1:2]), atol=1e-5, rtol=1e-5)


def test_hinges_by_hand() -> None:
    real, fake = torch.tensor([2.0, 0.0]), torch.tensor([-3.0, 0.5])
    assert float(discriminator_hinge(real, fake)) == 0.5 * (0.5 + 0.75)
    assert float(generator_hinge(fake)) == 1.25


def test_vanilla_by_hand() -> None:
    real, fake = torch.tensor([0.0, 2.0]), torch.tensor([0.0, -1.0])
    cross = F.binary_cross_entropy_with_logits
    expected = 0.5 * (cross(real, torch.ones(2)) + cross(fake, torch.zeros(2)))
    torch.testing.assert_close(discriminator_vanilla(real, fake), expected)


def test_patchgan_has_the_published_shape() -> None:
    network = PatchDiscriminator()
    assert sum(p.numel() for p in network.parameters()) == 2_765_633
    assert PatchDiscriminator(8, 5)(torch.zeros(1, 3, 96, 128)).shape == (1, 1, 1, 2)
    small = PatchDiscriminator(8, 2).eval()
    x = _pictures()
    torch.testing.assert_close(small(x)[:1], small(x[:1]))


def test_lecam_by_hand() -> None:
    lecam = LeCam(decay=0.9)
    real, fake = torch.tensor([1.0, 3.0]), torch.tensor([-1.0, 0.0])
    assert float(lecam(real, fake)) == pytest.approx(2.0**2 + 0.5**2)
    assert float(lecam.average_real) == pytest.approx(0.2)
    assert float(lecam.average_fake) == pytest.approx(-0.05)
    assert float(lecam(real, fake)) == pytest.approx(2.05**2 + 0.7**2)


def test_lecam_in_xqgans_order() -> None:
    lecam = LeCam(decay=0.9, update_first=True)
    real, fake = torch.tensor([1.0, 3.0]), torch.tensor([-1.0, 0.0])
    first = (1.05**2 + 3.05**2) / 2 + (1.2**2 + 0.2**2) / 2  # averages 0.2 and -0.05
    assert float(lecam(real, fake)) == pytest.approx(first)
    assert float(lecam.average_real) == pytest.approx(0.2)


# --- the objective ------------------------------------------------------------------------------


def _objective(**options: object) -> ImageObjective:
    torch.manual_seed(0)
    settings = TINY | {"perceptual": "weightless", "discriminator": True} | options
    return ImageObjective(ImageObjectiveConfig(**settings))  # type: ignore[arg-type]


def test_terms_and_weights() -> None:
    objective = _objective(
        l2_weight=2.0, l1_weight=3.0, perceptual_weight=0.5, quantizer_weight=4.0,
        discriminator_weight=0.1, discriminator_factor=0.5,
    )
    x, y = _pictures(), _pictures(seed=1)
    terms = objective.generator_losses(x, _output(y), step=5)
    error = (x - y) / 2
    expected = {
        "loss/reconstruction": 2 * error.square().mean() + 3 * error.abs().mean(),
        "loss/perceptual": 0.5 * WeightlessPerceptual()(y, x),
        "loss/gan": -0.05 * objective.discriminator((y + 1) / 2).mean(),
        "loss/quantizer/codebook": torch.tensor(1.2),
        "loss/quantizer/commitment": torch.tensor(0.4),
    }
    torch.testing.assert_close(dict(terms), expected)
    assert float(objective.last_statistics["perceptual"]) == pytest.approx(
        float(expected["loss/perceptual"]) / 0.5
    )


def test_the_discriminator_is_silent_before_its_start() -> None:
    objective, x, out = _objective(), _pictures(), _output(_pictures(seed=1))
    assert "loss/gan" not in objective.generator_losses(x, out, step=4)
    assert not objective.discriminator_active(4)
    assert objective.discriminator_active(5)
    assert objective.discriminator_losses(x, out, step=4) == {}
    assert float(objective.lecam.average_real) == 0.0
    assert set(objective.discriminator_losses(x, out, step=5)) == {
        "discriminator/hinge", "discriminator/lecam"
    }


def test_signed_means_and_the_patchgan() -> None:
    options = {"discriminator_kind": "patchgan", "discriminator_channels": 8, "l1_weight": 1.0}
    objective = _objective(
        picture_range="signed", discriminator_loss="vanilla", lecam_weight=0.0, **options
    )
    unit = _objective(**options)
    x, out = _pictures(), _output(_pictures(seed=1))
    terms = objective.generator_losses(x, out, 5)
    error = out.reconstruction - x
    expected = error.square().mean() + error.abs().mean()
    torch.testing.assert_close(terms["loss/reconstruction"], expected)
    half = unit.generator_losses(x, out, 5)["loss/reconstruction"]
    torch.testing.assert_close(half, error.square().mean() / 4 + error.abs().mean() / 2)
    before = objective.discriminator.main[3].running_mean.clone()
    assert set(objective.discriminator_losses(x, out, 5)) == {"discriminator/vanilla"}
    assert not torch.equal(objective.discriminator.main[3].running_mean, before)


def test_a_head_start_trains_the_discriminator_unheard() -> None:
    objective, x, out = _objective(discriminator_head_start=2), _pictures(), _output(_pictures())
    assert [objective.discriminator_active(step) for step in (2, 3, 4, 5)] == [False] + 3 * [True]
    assert "discriminator/hinge" in objective.discriminator_losses(x, out, 3)
    assert "loss/gan" not in objective.generator_losses(x, out, 4)
    assert "loss/gan" in objective.generator_losses(x, out, 5)
    with pytest.raises(ConfigError, match="head start"):
        _objective(discriminator_head_start=6)


def test_each_player_trains_alone() -> None:
    objective, x = _objective(), _pictures()
    y = _pictures(seed=1).requires_grad_()
    sum(objective.generator_losses(x, _output(y), 5).values()).backward()
    assert y.grad.abs().sum() > 0
    assert all(p.grad is None for p in objective.discriminator.parameters())
    y.grad = None
    sum(objective.discriminator_losses(x, _output(y), 5).values()).backward()
    assert y.grad is None
    assert all(p.grad is not None for p in objective.discriminator.parameters())


def test_the_discriminator_learns_to_tell() -> None:
    objective, x, out = _objective(), _pictures(), _output(torch.zeros(2, 3, 48, 48))
    optimizer = torch.optim.Adam(objective.discriminator.parameters(), lr=1e-3)
    for _ in range(12):
        optimizer.zero_grad()
        terms = objective.discriminator_losses(x, out, 5)
        sum(terms.values()).backward()
        optimizer.step()
    assert float(terms["discriminator/hinge"].detach()) < 0.3
    statistics = objective.last_statistics
    assert statistics["discriminator/logits_real"] > statistics["discriminator/logits_fake"]


def test_shortened_pictures_are_judged_too() -> None:
    objective, x, y, z = _objective(shortened_weight=0.25), *(_pictures(seed=s) for s in range(3))
    both = objective.generator_losses(x, _output(y, shortened=z), 5)
    full, short = (objective.generator_losses(x, _output(p), 5) for p in (y, z))
    for name in ("reconstruction", "perceptual", "gan"):
        torch.testing.assert_close(both[f"loss/{name}"], full[f"loss/{name}"])
        torch.testing.assert_close(both[f"loss/shortened/{name}"], 0.25 * short[f"loss/{name}"])
    hinge = objective.discriminator_losses(x, _output(y, shortened=z), 5)["discriminator/hinge"]
    halves = [
        objective.discriminator_losses(x, _output(p), 5)["discriminator/hinge"] for p in (y, z)
    ]
    torch.testing.assert_close(hinge, sum(halves) / 2)


def test_zero_weights_leave_terms_out() -> None:
    objective = _objective(quantizer_weight=0.0, perceptual_weight=0.0, discriminator_weight=0.0)
    broken = _output(_pictures(seed=1))._replace(losses={"quantizer/kl": torch.tensor(torch.nan)})
    assert set(objective.generator_losses(_pictures(), broken, 5)) == {"loss/reconstruction"}


def test_float32_inside_autocast() -> None:
    objective, x, y = _objective(), _pictures(), _pictures(seed=1)
    expected = objective.generator_losses(x, _output(y), 5)
    with torch.autocast("cpu", torch.bfloat16):
        inside = objective.generator_losses(x, _output(y), 5)
        judged = objective.discriminator_losses(x, _output(y.bfloat16()), 5)
    torch.testing.assert_close(inside, expected)
    assert all(value.dtype == torch.float32 for value in (*inside.values(), *judged.values()))


def test_state_holds_the_players_but_no_pretrained_network() -> None:
    config = ImageObjectiveConfig(discriminator=True, **TINY)  # type: ignore[arg-type]
    objective = ImageObjective(config, perceptual=_tiny_convnext())
    objective.discriminator_losses(_pictures(), _output(_pictures(seed=1)), 5)
    state = objective.state_dict()
    assert {key.split(".")[0] for key in state} == {"discriminator", "lecam"}
    fresh = ImageObjective(config, perceptual=_tiny_convnext(seed=1))
    fresh.load_state_dict(state)
    assert float(fresh.lecam.average_real) == float(objective.lecam.average_real) != 0.0
    with pytest.raises(RuntimeError, match="lecam"):
        fresh.load_state_dict({k: v for k, v in state.items() if "lecam" not in k})
    outer = torch.nn.ModuleDict({"objective": fresh})
    outer.load_state_dict(outer.state_dict())


def test_mistakes_are_sentences() -> None:
    with pytest.raises(ConfigError, match="no picture"):
        _objective().generator_losses(_pictures(), _output(None), 0)
    with pytest.raises(ConfigError, match="multiple of 32"):
        _objective(discriminator_channels=48)
    with pytest.raises(ConfigError, match="no term on the picture"):
        ImageObjective(ImageObjectiveConfig(l2_weight=0.0))
    with pytest.raises(ConfigError, match="teacher is empty"):
        build_objective(ImageObjectiveConfig(target="proxy_codes"))


def test_config_is_read_by_the_run_config_loader() -> None:
    from tok_core.run_config import load_config

    config = load_config(ImageObjectiveConfig, None, ["perceptual=weightless", "l1_weight=1"])
    assert config == ImageObjectiveConfig(perceptual="weightless", l1_weight=1.0)
    with pytest.raises(ConfigError, match="discriminator_start"):
        load_config(ImageObjectiveConfig, None, ["discriminator_strat=3"])
    with pytest.raises(ConfigError):
        load_config(ImageObjectiveConfig, None, ["perceptual=vgg"])
    assert dataclasses.is_dataclass(build_objective(config).config)
