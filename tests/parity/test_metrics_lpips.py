"""LPIPS and DISTS with formula backbones against the lpips package and torchmetrics.

Backbones are filled by the rule of the folder's README (features alone; the classifier behind them
takes no part), heads are the published ones.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from eval.perceptual import DISTSDistance, LPIPSDistance
from tests.eval.formula_weights import formula_tensor
from tests.parity.vectors import config_of, manifest_of, parity_folder, tensors_of
from tok_core.dists import DISTS
from tok_core.lpips import LPIPS
from tok_core.perceptual_backbones import backbone_named

FOLDER = parity_folder("metrics/lpips", holds="io.safetensors")

IO, CONFIG = tensors_of(FOLDER), config_of(FOLDER)
# image_b_noisy_a -> b
IMAGES = {key.split("_")[1]: key for key in IO if key.startswith("image_")}
VALUES = [key for key in CONFIG if key.endswith((".lpips_package", ".torchmetrics"))]
LAYERS = [key for key in CONFIG if key.endswith(".per_layer")]
WRONG = [key for key in CONFIG if key.endswith(".wrong_range_0_1_without_normalize")]
MAPS = [key for key in IO if key.endswith(".spatial_map")]
STRUCTURE = [key for key in CONFIG if key.startswith("dists.")]


@pytest.fixture(scope="module", autouse=True)
def files(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Backbone files in a folder of their own, where they are searched for."""
    folder = tmp_path_factory.mktemp("weights")
    manifest = manifest_of(FOLDER.parent)
    nets = {key.split(".")[0] for key in [*VALUES, *LAYERS, *WRONG, *MAPS]}
    for net in nets | ({"vgg"} if STRUCTURE else set()):
        name = backbone_named(net).file
        rows = next(rows for title, rows in manifest.items() if title.startswith(name))
        torch.save({
            row[0]: formula_tensor(row[0], row[1], i, CONFIG["salt"])
            for i, row in enumerate(rows) if row[0].startswith("features.")
        }, folder / name)  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TESSERA_WEIGHTS", str(folder))
        yield
    network.cache_clear()
    metric.cache_clear()


@cache
def network(net: str) -> LPIPS:
    return LPIPS.named(net)


@cache
def metric(name: str) -> Any:
    return DISTSDistance() if name == "dists" else LPIPSDistance(name)


def pair(names: str) -> tuple[Tensor, Tensor]:
    first, second = (IO[IMAGES[letter]][None] for letter in names.split("_"))
    return first, second


def close(ours: Tensor | float, wanted: Any) -> None:
    wanted = torch.as_tensor(wanted, dtype=torch.float64)
    ours = torch.as_tensor(ours).detach().double().reshape(wanted.shape)
    torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-7)


def test_every_kind_was_found() -> None:
    assert all((VALUES, LAYERS, WRONG, MAPS, STRUCTURE))


@pytest.mark.parametrize("key", VALUES)
def test_distance(key: str) -> None:
    net, names, _ = key.split(".")
    metric(net).reset()
    metric(net).update(*pair(names))
    close(metric(net).compute(), CONFIG[key])


@pytest.mark.parametrize("key", LAYERS)
def test_taps(key: str) -> None:
    net, names, _ = key.split(".")
    x, y = (image / 127.5 - 1 for image in pair(names))
    maps = network(net).layer_maps(x, network(net).reference(y))
    close(torch.stack([one.mean() for one in maps]), CONFIG[key])


@pytest.mark.parametrize("key", WRONG)
def test_wrong_range_is_wrong_in_the_same_way(key: str) -> None:
    net, names, _ = key.split(".")
    close(network(net)(*(image / 255 for image in pair(names))), CONFIG[key])


@pytest.mark.parametrize("key", MAPS)
def test_map(key: str) -> None:
    net, names, _ = key.split(".")
    ours = network(net).spatial_map(*(image / 127.5 - 1 for image in pair(names)))
    wanted = IO[key].double()
    error = (ours.double().reshape(wanted.shape) - wanted).abs().max()
    assert float(error) <= 1e-5 * float(wanted.abs().max()) + 1e-7


@pytest.mark.parametrize("key", STRUCTURE)
def test_structure(key: str) -> None:
    metric("dists").reset()
    metric("dists").update(*pair(key.split(".")[1]))
    close(metric("dists").compute(), CONFIG[key])


@pytest.mark.parametrize("key", STRUCTURE[:1])
def test_the_same_module_is_a_loss(key: str) -> None:
    x, y = (image / 127.5 - 1 for image in pair(key.split(".")[1]))
    x.requires_grad_()
    loss = DISTS.from_files()(x, y)
    loss.backward()
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())
    close(loss, CONFIG[key])
