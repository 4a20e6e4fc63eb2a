"""Views of a picture: which pixels each of them shows."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tok_core.crop_views import VIEWS, crop_views
from tok_core.errors import ConfigError
from tok_core.evaluation_crop import adm_crop


@pytest.fixture
def picture() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (150, 210, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_centre_and_flips(picture: Image.Image) -> None:
    [centre] = crop_views(picture, 64, "centre")
    assert np.array_equal(centre, adm_crop(picture, 64))
    first, second = crop_views(picture, 64, "flips")
    assert np.array_equal(first, centre)
    assert np.array_equal(np.asarray(second), np.asarray(centre)[:, ::-1])


@pytest.mark.parametrize("size, middle", [(64, 3), (50, 2), (256, 12)])
def test_ten_crops_of_a_square_a_tenth_larger(
    picture: Image.Image, size: int, middle: int
) -> None:
    side = int(1.1 * size)
    square = np.asarray(adm_crop(picture, side))
    views = [np.asarray(view) for view in crop_views(picture, size, "ten-crop")]
    far = side - size
    places = [(0, 0), (0, far), (far, 0), (far, far), (middle, middle)]
    for i, (top, left) in enumerate(places):
        cut = (slice(top, top + size), slice(left, left + size))
        assert np.array_equal(views[i], square[cut])
        assert np.array_equal(views[i + 5], square[:, ::-1][cut])


@pytest.mark.parametrize("recipe", VIEWS)
@pytest.mark.parametrize("extent", [(1, 1), (5, 40), (300, 20)])
def test_small_and_narrow_pictures_fill_every_view(recipe: str, extent: tuple[int, int]) -> None:
    views = crop_views(Image.new("RGB", extent), 32, recipe)
    assert len(views) == len(VIEWS[recipe])
    assert {view.size for view in views} == {(32, 32)}


def test_an_unknown_recipe_names_the_nearest(picture: Image.Image) -> None:
    with pytest.raises(ConfigError, match="did you mean 'ten-crop'"):
        crop_views(picture, 32, "tencrop")


def test_twenty_crops_are_ten_of_each_range() -> None:
    picture = Image.effect_noise((90, 70), 40).convert("RGB")
    ten, twenty = (crop_views(picture, 40, name) for name in ("ten-crop", "twenty-crop"))
    assert [t.tobytes() for t in twenty[:10]] == [t.tobytes() for t in ten]
    tighter = adm_crop(picture, 42)
    assert twenty[10].tobytes() == tighter.crop((0, 0, 40, 40)).tobytes()
    assert twenty[14].tobytes() == tighter.crop((1, 1, 41, 41)).tobytes()
    mirrored = tighter.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert twenty[18].tobytes() == mirrored.crop((2, 2, 42, 42)).tobytes()
    assert len(twenty) == len(set(VIEWS["twenty-crop"])) == 20
