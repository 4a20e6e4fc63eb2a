"""Any picture to network inputs and back at its own size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tok_core.errors import ConfigError, MediaError
from vision_tok.image_policy import POLICIES, Geometry, prepare, restore

SIDES = st.integers(1, 90)


def _picture(height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.rand(3, height, width, generator=generator) * 2 - 1


@given(height=SIDES, width=SIDES, size=st.integers(1, 48), data=st.data())
@settings(max_examples=60, deadline=None)
def test_tiles_put_together_are_the_picture(height: int, width: int, size: int, data) -> None:  # type: ignore[no-untyped-def]
    overlap = data.draw(st.none() | st.integers(0, size - 1))
    if overlap is not None and size - overlap < 4:
        overlap = max(0, size - 4)  # a pixel of progress per tile would make thousands of tiles
    picture = _picture(height, width)
    inputs, geometry = prepare(picture, "tile", size, overlap=overlap)
    assert inputs.shape == (geometry.tiles, 3, size, size)
    assert torch.allclose(restore(inputs, geometry), picture, atol=1e-5)


@given(height=SIDES, width=SIDES, policy=st.sampled_from(POLICIES))
@settings(max_examples=60, deadline=None)
def test_geometry_follows_from_policy_extent_and_size(height: int, width: int, policy: str) -> None:
    inputs, geometry = prepare(_picture(height, width), policy, 16)
    again = Geometry(policy=policy, extent=geometry.extent, size=16)
    assert again.tiles == geometry.tiles == len(inputs)
    assert torch.equal(restore(inputs, again), restore(inputs, geometry))
    assert restore(inputs, again).shape == (3, *geometry.extent)
    assert geometry.extent == ((min(height, width),) * 2 if policy == "crop" else (height, width))
    assert inputs.min() >= -1 and inputs.max() <= 1 and inputs.dtype == torch.float32


@given(length=st.integers(1, 700), size=st.integers(2, 99), data=st.data())
@settings(max_examples=100, deadline=None)
def test_tiles_cover_a_side_with_the_overlap_asked_for(length: int, size: int, data) -> None:  # type: ignore[no-untyped-def]
    overlap = data.draw(st.integers(0, size - 1))
    starts = Geometry("tile", (length, 1), size, overlap).rows
    assert starts[0] == 0 and max(starts) == max(0, length - size)
    gaps = np.diff(starts)
    assert (gaps <= size - overlap).all() and (gaps > 0).all()


def test_blending_is_smooth_where_tiles_disagree() -> None:
    geometry = Geometry("tile", (32, 120), 32)
    count = len(geometry.columns)
    levels = torch.tensor([(-1.0) ** i * 0.8 for i in range(count)])
    row = restore(levels[:, None, None, None].expand(-1, 3, 32, 32), geometry)[0, 16]
    overlap = geometry.columns[0] + 32 - geometry.columns[1]
    assert overlap >= 4
    assert row.diff().abs().max() < 1.6 * 3 / overlap  # a hard seam would jump by 1.6
    assert row.max() <= 0.8 + 1e-6 and row.min() >= -0.8 - 1e-6


def test_small_pictures_are_continued_by_reflection() -> None:
    picture = _picture(5, 40)
    inputs, _ = prepare(picture, "tile", 16)
    assert torch.equal(inputs[0, :, 5], picture[:, 3, :16])
    single, _ = prepare(_picture(1, 1), "tile", 16)
    assert (single == single[..., :1, :1]).all()


def test_crop_takes_the_central_square() -> None:
    picture = _picture(20, 50)
    inputs, geometry = prepare(picture, "crop", 20)
    assert geometry.box == (15, 0, 35, 20)
    assert torch.equal(inputs[0], picture[:, :, 15:35])
    assert torch.equal(restore(inputs, geometry), picture[:, :, 15:35])


@pytest.mark.parametrize("policy", POLICIES)
def test_image_and_tensor_agree(policy: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1
    a, _ = prepare(image, policy, 32)
    b, _ = prepare(tensor, policy, 32)
    assert (a - b).abs().max() < 1.2 / 127.5  # Pillow rounds resized bytes


def test_resize_of_a_smooth_picture_comes_back() -> None:
    x = torch.linspace(-0.9, 0.9, 200)
    picture = (x[None, :, None] * x[None, None, :100]).expand(3, -1, -1)
    inputs, geometry = prepare(picture, "resize", 64)
    assert (restore(inputs, geometry) - picture).abs().max() < 0.01
    same, geometry = prepare(picture[:, :64, :64], "resize", 64)
    assert torch.equal(restore(same, geometry), picture[:, :64, :64])


def test_very_long_pictures_stay_in_bounds() -> None:
    for policy in POLICIES:
        inputs, geometry = prepare(Image.new("RGB", (5000, 1), (9, 99, 199)), policy, 64)
        back = restore(inputs, geometry)
        assert back.shape == (3, *geometry.extent)
        assert (back[:, 0, 0] * 127.5 + 127.5).round().tolist() == [9, 99, 199]


def test_mistakes_are_one_sentence() -> None:
    picture = _picture(8, 8)
    with pytest.raises(ConfigError, match="did you mean 'tile'"):
        prepare(picture, "tiles", 8)
    with pytest.raises(ConfigError, match="0 to 7"):
        prepare(picture, "tile", 8, overlap=8)
    with pytest.raises(MediaError, match="legal"):
        prepare(picture[0], "tile", 8)
    inputs, geometry = prepare(picture, "tile", 4)
    with pytest.raises(MediaError, match="do not make a picture"):
        restore(inputs[1:], geometry)
    with pytest.raises(ConfigError):
        Geometry("tile", (0, 5), 8)
