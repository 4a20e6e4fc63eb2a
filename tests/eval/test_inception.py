"""The FID Inception's loader and resize rules; its numbers are checked in tests/parity."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from eval.fid import inception
from eval.inception import FILES, FidInception, find_inception, official_shapes
from eval.inception_resize import resize, resize_tf, tf_bilinear
from tok_core.errors import ConfigError, MediaError, WeightsError


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """Ones that take no memory: the loader's answers do not depend on the values."""
    return {key: torch.ones(1).expand(shape) for key, shape in official_shapes().items()}


def test_it_has_the_published_number_of_tensors() -> None:
    shapes = official_shapes()
    counters = sum(key.endswith(".bn.weight") for key in shapes)
    assert len(shapes) + counters == 566


def test_counters_may_be_there_and_nothing_else(state: dict[str, Tensor]) -> None:
    counted = {**state, "Mixed_6a.branch3x3.bn.num_batches_tracked": torch.tensor(0)}
    network = FidInception.from_state(counted)
    folded = network.get_parameter("Mixed_6a.branch3x3.weight")
    assert float(folded.flatten()[0]) == pytest.approx(1 / (1 + 1e-3) ** 0.5, rel=1e-7)
    assert folded.is_contiguous(memory_format=torch.channels_last)
    missing = {key: value for key, value in state.items() if key != "fc.bias"}
    left_over = {**state, "AuxLogits.conv0.conv.weight": torch.ones(1)}
    other = {**state, "fc.weight": torch.ones(1000, 2048), "fc.bias": torch.ones(1000)}
    for bad, says in ((missing, "missing: fc.bias"), (left_over, "left over: AuxLogits"),
                      (other, "of another shape: fc.bias, fc.weight")):  # fmt: skip
        with pytest.raises(WeightsError, match=says):
            FidInception.from_state(bad)


def test_files_under_both_names_are_found_and_loaded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TESSERA_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "none"))
    with pytest.raises(WeightsError) as caught:
        find_inception()
    assert all(name in str(caught.value) and project.split()[0] in str(caught.value)
               for name, project in FILES)  # fmt: skip
    path = tmp_path / FILES[1][0]
    torch.save({k: torch.full(shape, 0.01) for k, shape in official_shapes().items()}, path)
    network = inception()
    assert network is inception(path)
    assert network.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert network.protocol()["extractor_resize"] == "tf"
    found = network.features(torch.zeros(0, 3, 8, 8, dtype=torch.uint8), ("2048", "logits"))
    assert found["2048"].shape == (0, 2048)
    path.write_bytes(b"no pickle")
    with pytest.raises(WeightsError):
        FidInception.from_file(path)


def test_options_and_pictures_are_checked(state: dict[str, Tensor]) -> None:
    for options, says in (({"resize": "clea"}, "did you mean 'clean'"),
                          ({"precision": "bfloat16"}, "legal are float32, float64")):  # fmt: skip
        with pytest.raises(ConfigError, match=says):
            FidInception(**options)
    network = FidInception.from_state(state)
    with pytest.raises(ConfigError, match="no tap '2047'"):
        network.features(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), ("2047",))
    for bad in (torch.zeros(1, 3, 8, 8), torch.zeros(3, 8, 8, dtype=torch.uint8)):
        with pytest.raises(MediaError, match="give uint8 pictures"):
            network.features(bad, ("2048",))
    assert not network.train().training


@pytest.mark.parametrize("size", [(1, 1), (13, 40), (299, 299), (320, 500)])
def test_resize_rules(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, *size), dtype=np.uint8)
    images = torch.from_numpy(pixels)[None]
    scaled = images.float() / 255
    half_pixel = torch.nn.functional.interpolate(scaled, (299, 299), mode="bilinear")
    assert torch.equal(resize(images, "pytorch-fid", torch.float32), 2 * half_pixel - 1)
    clean = resize(images, "clean", torch.float32)[0] * 128 + 128
    for plane, found in zip(pixels, clean, strict=True):
        wanted = np.asarray(Image.fromarray(plane.astype(np.float32)).resize((299, 299), 3))
        assert np.allclose(found.numpy(), wanted.clip(0, 255), atol=1e-4)
    corner = resize_tf(images, torch.float64)[0, :, 0, 0] * 128 + 128
    assert corner.tolist() == images[0, :, 0, 0].tolist()  # no half-pixel offset
    if size == (299, 299):
        assert torch.equal(resize_tf(images, torch.float32) * 128 + 128, images.float())


def test_tf_bilinear_by_hand() -> None:
    x = torch.tensor([[[[0.0, 10.0, 20.0]]]])
    found = tf_bilinear(x, (2, 6))
    assert found.shape == (1, 1, 2, 6)
    assert found[0, 0, 0].tolist() == [0.0, 5.0, 10.0, 15.0, 20.0, 20.0]
    assert torch.equal(found[0, 0, 0], found[0, 0, 1])
