"""LPIPS and DISTS as metrics: tiny networks of every kind, failures, state, missing files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from eval.perceptual import ENTRIES, DISTSDistance, LPIPSDistance, PerceptualDistance
from tests.eval.test_image_quality import images, noisy
from tok_core.dists import DISTS
from tok_core.errors import ConfigError, MediaError, WeightsError
from tok_core.lpips import LPIPS
from tok_core.perceptual_backbones import Backbone, alexnet, backbone_named, squeezenet, vgg

FIRES = dict.fromkeys((3, 4, 6, 7, 9, 10, 11, 12), (2, 3, 3))


def backbone(net: str) -> Backbone:
    if net == "vgg":
        return vgg((4, 6, 6, 8, 8), (2, 1, 2, 1, 2))
    return alexnet((4, 6, 8, 6, 6)) if net == "alex" else squeezenet(5, FIRES)


def filled(network: Any) -> Any:
    generator = torch.Generator().manual_seed(3)
    for name, parameter in network.named_parameters():
        parameter.data.uniform_(-0.5, 0.5, generator=generator)
        if name.startswith(("lin", "alpha", "beta")):
            parameter.data.abs_()
    return network


def tiny(net: str) -> Any:
    if net == "dists":
        return filled(DISTS(backbone("vgg")))
    return filled(LPIPS(backbone=backbone(net)))


NETS = ("vgg", "alex", "squeeze", "dists")


@pytest.mark.parametrize("net", NETS)
def test_mean_over_pictures(net: str) -> None:
    x, y = images(5, 40, 48), noisy(images(5, 40, 48), 30)
    network, metric = tiny(net), PerceptualDistance(tiny(net), chunk=2)
    metric.update(y[:3], x[:3], indices=[2, 1, 0])
    metric.update(y[3:], x[3:], indices=[3, 4])
    a, b = (z / 127.5 - 1 for z in (y, x))
    wanted = network(a, b, reduction="none").double()
    torch.testing.assert_close(
        metric.collected()[0], wanted[[2, 1, 0, 3, 4]], rtol=1e-5, atol=1e-7
    )
    assert float(metric.compute()) == pytest.approx(float(wanted.mean()), rel=1e-5)
    assert float(network(a, b)) == pytest.approx(float(wanted.mean()), rel=1e-5)
    assert float(wanted.min()) > 0


@pytest.mark.parametrize("net", NETS)
def test_equal_pictures_and_gradient(net: str) -> None:
    network, x = tiny(net), images(2, 40, 40) / 127.5 - 1
    assert network(x, x).abs() < 1e-7
    assert not network.train().training
    moved = x.clone().requires_grad_()
    network(moved, -x).backward()
    assert moved.grad is not None
    assert bool(moved.grad.isfinite().all())
    assert float(moved.grad.abs().max()) > 0
    assert not any(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize("net", ["vgg", "alex", "squeeze"])
def test_the_smallest_side(net: str) -> None:
    side = backbone(net).minimum_side
    network = tiny(net)
    x = images(1, side, side + 3) / 127.5 - 1
    assert network(x, -x) > 0
    with pytest.raises((RuntimeError, ValueError)):
        network(x[:, :, :-1], -x[:, :, :-1])
    metric = PerceptualDistance(network)
    small = images(2, side - 1, side)
    metric.update(small, small)
    assert "too small" in metric.reason(int(metric.collected()[1][0]))


def test_dists_of_one_pixel() -> None:
    x = images(1, 1, 1) / 127.5 - 1
    assert tiny("dists")(x, -x).isfinite()


def test_dists_by_definition() -> None:
    """Weights of one channel alone: its own two likenesses, on the picture itself."""
    x, y = images(1, 12, 12) / 127.5 - 1, noisy(images(1, 12, 12), 80) / 127.5 - 1
    network = tiny("dists")
    for name in ("alpha", "beta"):
        getattr(network, name).data.zero_()
    network.alpha.data[0, 1], network.beta.data[0, 1] = 0.3, 0.1
    a, b = ((z[0, 1].double() + 1) / 2 for z in (x, y))
    means = (2 * a.mean() * b.mean() + 1e-6) / (a.mean() ** 2 + b.mean() ** 2 + 1e-6)
    covariance = ((a - a.mean()) * (b - b.mean())).mean()
    spread = a.var(correction=0) + b.var(correction=0)
    wanted = 1 - 0.75 * means - 0.25 * (2 * covariance + 1e-6) / (spread + 1e-6)
    assert float(network(x, y)) == pytest.approx(float(wanted), abs=1e-6)


@pytest.mark.parametrize("net", ["vgg", "alex", "squeeze"])
def test_both_layouts_and_sizes_off_the_weights(net: str) -> None:
    network = tiny(net)
    state = network.state_dict()
    x, y = images(1, 40, 40) / 127.5 - 1, noisy(images(1, 40, 40), 30) / 127.5 - 1
    packaged = {
        key.replace("features.", "net.slice1."): value for key, value in state.items()
    } | {"scaling_layer.shift": torch.zeros(1, 3, 1, 1)}
    for layout in (state, packaged):
        torch.testing.assert_close(LPIPS.from_state(layout, net=net)(x, y), network(x, y))
    for key in state:
        with pytest.raises(WeightsError):
            LPIPS.from_state({k: v for k, v in state.items() if k != key}, net=net)
    other = "alex" if net != "alex" else "squeeze"
    with pytest.raises(WeightsError):
        LPIPS.from_state(state, net=other)


def _files(folder: Path, net: str) -> dict[str, Tensor]:
    """Write a tiny classifier and its heads under the published names."""
    state = tiny(net).state_dict()
    features = {key: value for key, value in state.items() if key.startswith("features.")}
    classifier = {"classifier.1.weight": torch.zeros(2, 2)}
    torch.save(features | classifier, folder / backbone_named(net).file)
    heads = {key: value for key, value in state.items() if key.startswith("lin")}
    torch.save(heads, folder / f"{net}.pth")
    return state


@pytest.mark.parametrize("net", ["vgg", "alex", "squeeze"])
def test_files_by_their_published_names(
    net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _files(tmp_path, net)
    monkeypatch.setenv("TESSERA_WEIGHTS", str(tmp_path))
    x, y = images(2, 40, 40), noisy(images(2, 40, 40))
    entry = next(one for one in ENTRIES if one.name == f"lpips/{net}")
    metric, by_hand = entry.build(**entry.options), PerceptualDistance(tiny(net))
    assert tuple(metric.weight_files) == entry.weights
    for one in (metric, by_hand):
        one.update(y, x)
    assert torch.equal(metric.compute(), by_hand.compute())
    assert not any("features" in key for key in metric.state_dict())
    resumed = entry.build(**entry.options)
    resumed.load_state_dict(metric.state_dict())
    resumed.update(x, x)
    assert len(resumed.collected()[0]) == 4


def test_dists_weights_come_from_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = filled(LPIPS()).state_dict()
    features = {key: value for key, value in state.items() if key.startswith("features.")}
    torch.save(features, tmp_path / "mine.pth")
    monkeypatch.setenv("TESSERA_WEIGHTS", str(tmp_path / "nowhere"))
    metric = DISTSDistance(vgg16=tmp_path / "mine.pth")
    network = metric.kept[0]
    assert isinstance(network, DISTS)
    assert float(network.alpha.sum()) == pytest.approx(0.876, abs=1e-3)
    assert float(network.beta.sum()) == pytest.approx(0.124, abs=1e-3)


def test_missing_files_and_wrong_names_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TESSERA_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for entry in ENTRIES:
        with pytest.raises(WeightsError, match=f"{entry.weights[0]} of torchvision"):
            entry.build(**entry.options)
    with pytest.raises(ConfigError, match="did you mean 'squeeze'"):
        LPIPSDistance("squeezenet")
    with pytest.raises(MediaError, match="cannot be compared"):
        PerceptualDistance(tiny("vgg")).update(images(2), images(3))
