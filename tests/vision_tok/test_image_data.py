"""Training pictures: pure by index, disjoint over processes, robust to bad files."""

from __future__ import annotations

import io
import itertools
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from assets import photograph_path, photograph_split
from tok_core.errors import ConfigError, MediaError
from tok_core.evaluation_crop import resized_by_boxes
from tok_core.procedural_draws import item_draws
from tok_core.run_config import from_mapping, to_mapping
from tok_core.training.data_order import batches
from vision_tok.image_crops import box_crop, colour_change, random_crop, shortest_sides
from vision_tok.image_data import PICTURES, ImageDataConfig, open_images
from vision_tok.image_folder import held_out_name
from vision_tok.image_sources import Photographs
from vision_tok.image_validation_data import HeldOutTiles


def _flat(value: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    return Image.new("RGB", size, (value, value, value))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten flat pictures, each of its own grey, two folders deep."""
    for number in range(10):
        place = tmp_path / "pictures" / str(number % 2)
        place.mkdir(parents=True, exist_ok=True)
        _flat(20 * number + 10).save(place / f"{number}.png")
    (tmp_path / "pictures" / "notes.txt").write_text("no picture")
    return tmp_path / "pictures"


def _shard(path: Path, numbers: range, labels: bool = True) -> None:
    with tarfile.open(path, "w") as tar:
        for number in numbers:
            buffer = io.BytesIO()
            _flat(20 * number + 10).save(buffer, format="PNG")
            members = {f"a/{number:04d}.png": buffer.getvalue()}
            if labels:
                members[f"a/{number:04d}.cls"] = str(number).encode()
            for name, data in members.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))


def _grey(picture: torch.Tensor) -> int:
    return round(float(picture.mean()) * 127.5 + 127.5)


def _all_sources(folder: Path) -> list[ImageDataConfig]:
    plain = [ImageDataConfig(source=name, size=16) for name in PICTURES.without_files]
    mixture = {"folder": 0.4, "photographs": 0.3, "natural": 0.3}
    return [*plain, ImageDataConfig(path=str(folder), size=16, crop_scale=(0.5, 1.0)),
            ImageDataConfig(source="mixture", path=str(folder), size=16, mixture=mixture,
                            colour_jitter=0.2)]


def test_items_depend_on_the_index_alone(folder: Path) -> None:
    for config in _all_sources(folder):
        first, second = open_images(config), open_images(config)
        forward = [first.item(i) for i in range(12)]
        backward = [second.item(i) for i in reversed(range(12))][::-1]
        for a, b in zip(forward, backward, strict=True):
            assert a.shape == (3, 16, 16) and a.dtype == torch.float32 and a.abs().max() <= 1.0
            assert torch.equal(a, b)
        assert len({a.numpy().tobytes() for a in forward}) > 5


def test_every_picture_once_per_pass_in_a_new_order(folder: Path) -> None:
    source = open_images(ImageDataConfig(source="folder", path=str(folder), size=8))
    passes = [[_grey(source.item(10 * p + i)) for i in range(10)] for p in range(4)]
    for order in passes:
        assert sorted(order) == [20 * n + 10 for n in range(10)]
    assert len({tuple(order) for order in passes}) == 4


def test_two_processes_and_workers_see_the_joined_batch(folder: Path) -> None:
    config = ImageDataConfig(source="mixture", path=str(folder), size=8,
                             mixture={"folder": 1, "texture": 1})
    source = open_images(config)

    def take(count: int, **options: int) -> list[torch.Tensor]:
        stream = batches(source, seed=0, start=0, **options)  # type: ignore[arg-type]
        return [batch.samples for batch in itertools.islice(stream, count)]

    joined = take(3, batch_size=4)
    halves = [take(3, batch_size=2, process=p, processes=2) for p in range(2)]
    for whole, first, second in zip(joined, *halves, strict=True):
        assert torch.equal(whole, torch.cat([first, second]))
    for whole, loaded in zip(joined, take(3, batch_size=4, workers=2), strict=True):
        assert torch.equal(whole, loaded)


def test_bad_pictures_are_skipped_counted_and_replaced(folder: Path) -> None:
    (folder / "bad.jpg").write_bytes(b"\xff\xd8 nothing")
    (folder / "empty.png").write_bytes(b"")
    source = open_images(ImageDataConfig(path=str(folder), size=8))

    def run() -> tuple[list[torch.Tensor], list[str]]:
        taken = list(itertools.islice(batches(source, seed=0, start=0, batch_size=12), 2))
        return [b.samples for b in taken], [line for b in taken for line in b.skipped]

    samples, skipped = run()
    assert len([line for line in skipped if "bad.jpg" in line]) >= 2  # once per pass
    assert any("empty.png" in line for line in skipped)
    again, skipped_again = run()
    assert all(torch.equal(a, b) for a, b in zip(samples, again, strict=True))
    assert skipped == skipped_again


def test_only_bad_pictures_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    source = open_images(ImageDataConfig(path=str(tmp_path), size=8))
    with pytest.raises(MediaError, match=r"a\.png"):
        next(batches(source, seed=0, start=0, batch_size=2))


def test_sub_folders_are_the_classes_that_tokenize_counts(tmp_path: Path) -> None:
    for name in ("b/1.png", "b/deep/2.png", "a/3.png", "4.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (9, 9), 10 * int(name[-5])).save(tmp_path / name)
    (tmp_path / "empty").mkdir()
    source = open_images(ImageDataConfig(path=str(tmp_path), size=8))
    found = {_grey(source.item(i)): source.label(i) for i in range(4)}
    assert found == {10: 1, 20: 1, 30: 0, 40: None}


def test_shards_give_the_pictures_of_a_folder_with_labels(tmp_path: Path) -> None:
    _shard(tmp_path / "train-0.tar", range(0, 6))
    _shard(tmp_path / "train-1.tar", range(6, 10), labels=False)
    for path in (tmp_path, tmp_path / "train-*.tar"):
        source = open_images(ImageDataConfig(path=str(path), size=8))
        greys = [_grey(source.item(i)) for i in range(10)]
        assert sorted(greys) == [20 * n + 10 for n in range(10)]
        for index, grey in enumerate(greys):
            number = (grey - 10) // 20
            assert source.label(index) == (number if number < 6 else None)
    one = open_images(ImageDataConfig(path=str(tmp_path / "train-1.tar"), size=8))
    assert sorted(_grey(one.item(i)) for i in range(4)) == [130, 150, 170, 190]


def test_truncated_and_compressed_shards(tmp_path: Path) -> None:
    _shard(tmp_path / "a.tar", range(6))
    data = (tmp_path / "a.tar").read_bytes()
    source = open_images(ImageDataConfig(path=str(tmp_path / "a.tar"), size=8))
    (tmp_path / "a.tar").write_bytes(data[:1200])  # cut off after it was indexed
    with pytest.raises(MediaError, match="truncated"):
        for index in range(6):
            source.item(index)
    with tarfile.open(tmp_path / "b.tar", "w:gz") as tar:
        tar.add(tmp_path / "a.tar")
    with pytest.raises(ConfigError, match="unpack"):
        open_images(ImageDataConfig(path=str(tmp_path / "b.tar"), size=8))
    with tarfile.open(tmp_path / "c.tar", "w"):
        pass
    with pytest.raises(ConfigError, match="hold no picture"):
        open_images(ImageDataConfig(path=str(tmp_path / "c.tar"), size=8))


def test_published_crop_is_shorter_side_then_crop() -> None:
    """Scale (1, 1): all of the shorter side is kept, the place along the longer one is random."""
    ramp = np.tile(np.arange(200, dtype=np.uint8)[None, :, None], (100, 1, 3))
    ramp[:50] += 50
    lefts = set()
    for index in range(40):
        draws = item_draws("test", version=1, seed=0, index=index)
        crop = np.asarray(random_crop(Image.fromarray(ramp), 50, draws, flip=False)).astype(int)
        assert crop.shape == (50, 50, 3)
        assert abs(crop[10, 0, 0] - crop[40, 0, 0] - 50) <= 1  # both halves are there
        assert abs(crop[10, 40, 0] - crop[10, 10, 0] - 60) <= 1  # halved in scale
        lefts.add(int(crop[40, 0, 0]))
    assert min(lefts) < 15 and max(lefts) > 85


def test_fraction_crops_are_windows_of_whole_sizes() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    image, sides = Image.fromarray(noise), set()
    assert shortest_sides(16, (0.8, 1.0)) == (16, 20)
    for index in range(12):
        options = {"crop_fraction": (0.8, 1.0), "flip": False}
        draws = item_draws("t", version=1, seed=0, index=index)
        crop = random_crop(image, 16, draws, **options)
        again = item_draws("t", version=1, seed=0, index=index)
        short = again.integer(16, 20)
        resized = resized_by_boxes(image, short)
        top = again.integer(0, resized.height - 16)
        left = again.integer(0, resized.width - 16)
        assert crop.tobytes() == box_crop(image, 16, short, top, left).tobytes()
        sides.add(short)
    assert sides == {16, 17, 18, 19, 20}
    config = ImageDataConfig(source="photographs", size=16, crop_fraction=(0.8, 1.0))
    assert open_images(config).item(0).shape == (3, 16, 16)


def test_native_crops_are_untouched_pixels() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    windows = np.lib.stride_tricks.sliding_window_view(noise, (16, 16, 3)).reshape(-1, 768)
    known = {window.tobytes() for window in windows}
    for index in range(10):
        draws = item_draws("test", version=1, seed=1, index=index)
        crop = random_crop(Image.fromarray(noise), 16, draws, native_scale=(1.0, 1.0), flip=False)
        assert np.asarray(crop).tobytes() in known
    tiny = random_crop(Image.fromarray(noise[:5, :7]), 16, draws, native_scale=(1.0, 4.0))
    assert tiny.size == (16, 16)


def test_flip_mirrors_half_of_the_crops() -> None:
    ramp = Image.fromarray(np.tile(np.arange(64, dtype=np.uint8)[None, :, None], (64, 1, 3)))
    rising = 0
    for index in range(200):
        draws = item_draws("test", version=1, seed=2, index=index)
        crop = np.asarray(random_crop(ramp, 64, draws)).astype(int)
        rising += crop[0, -1, 0] > crop[0, 0, 0]
    assert 70 < rising < 130


def test_colour_change_of_no_strength_changes_nothing() -> None:
    change = colour_change(item_draws("test", version=1, seed=0, index=0), 1e-9)
    assert np.allclose(change, np.eye(3, 4), atol=1e-6)


def test_split_is_fixed() -> None:
    split = photograph_split()
    assert split["held_out"] == ("chelsea", "coffee", "flower")
    assert not set(split["train"]) & set(split["held_out"])
    names = {path.stem for path in photograph_path("coffee").parent.glob("*.webp")}
    assert names == set(split["train"]) | set(split["held_out"])
    licences = photograph_path("coffee").with_name("LICENSES.md").read_text(encoding="utf-8")
    assert all(f"| {name}.webp |" in licences for name in names)
    total = sum(path.stat().st_size for path in photograph_path("coffee").parent.iterdir())
    assert total < 5_000_000


def test_held_out_photographs_are_never_trained_on(tmp_path: Path) -> None:
    config = ImageDataConfig(source="photographs", size=16)
    assert not set(Photographs(config).names) & set(photograph_split()["held_out"])
    with pytest.raises(ConfigError, match="held-out"):
        open_images(ImageDataConfig(path=str(photograph_path("coffee").parent), size=16))
    copy = Image.open(photograph_path("chelsea")).resize((300, 200))
    copy.save(tmp_path / "innocent.jpg", quality=80)
    source = open_images(ImageDataConfig(path=str(tmp_path), size=16))
    with pytest.raises(MediaError, match="held-out photograph 'chelsea'"):
        source.item(0)


def test_training_photographs_are_not_taken_for_held_out_ones() -> None:
    for name in photograph_split()["train"]:
        assert held_out_name(Image.open(photograph_path(name))) is None
    for name in photograph_split()["held_out"]:
        assert held_out_name(Image.open(photograph_path(name)).convert("RGB")) == name


def test_validation_pictures(folder: Path) -> None:
    tiles = open_images(ImageDataConfig(source="photographs", size=64), validation=True)
    assert isinstance(tiles, HeldOutTiles) and tiles.length == 7 * 4 + 9 * 6 + 10 * 6
    assert {name for name, _, _ in tiles.places[:16]} == set(photograph_split()["held_out"])
    name, top, left = tiles.places[5]
    pixels = np.asarray(Image.open(photograph_path(name)).convert("RGB"))[top:top + 64,
                                                                         left:left + 64]
    assert np.array_equal((tiles.item(5) * 127.5 + 127.5).round().permute(1, 2, 0).numpy(), pixels)
    crops = open_images(ImageDataConfig(path=str(folder), size=8), validation=True)
    assert crops.length == 10
    assert sorted(_grey(crops.item(i)) for i in range(10)) == [20 * n + 10 for n in range(10)]
    own = ImageDataConfig(source="natural", size=16, validation_path=str(folder))
    assert open_images(own, validation=True).length == 10
    natural = ImageDataConfig(source="natural", size=16)
    train, unseen = open_images(natural), open_images(natural, validation=True)
    assert not torch.equal(train.item(0), unseen.item(0))


def test_labels_of_the_labelled_set() -> None:
    source = open_images(ImageDataConfig(source="classes", size=16))
    assert {source.label(i) for i in range(200)} == set(range(12))
    assert open_images(ImageDataConfig(source="natural", size=16)).label(0) is None


def test_data_on_the_command_line_replaces_the_recipes_source(folder: Path) -> None:
    config = ImageDataConfig(source="natural", path=str(folder), size=8)
    assert _grey(open_images(config).item(0)) in {20 * n + 10 for n in range(10)}
    word = ImageDataConfig(source="mixture", mixture={"texture": 1}, path="procedural", size=8)
    assert open_images(word).item(0).shape == (3, 8, 8)


def test_config_goes_through_yaml_values(folder: Path) -> None:
    for config in _all_sources(folder):
        assert from_mapping(ImageDataConfig, to_mapping(config)) == config


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"source": "photograph"}, "did you mean 'photographs'"),
        ({"source": "mixture"}, "empty"),
        ({"source": "mixture", "mixture": {"natural": 0.0}}, "above 0"),
        ({"source": "mixture", "mixture": {"mixture": 1}}, "single sources"),
        ({"crop_scale": (0.0, 1.0)}, "rising"),
        ({"native_scale": (2.0, 1.0)}, "rising"),
        ({"crop_fraction": (0.8, 1.2)}, "crop_fraction"),
        ({"crop_fraction": (0.8, 1.0), "native_scale": (1.0, 2.0)}, "both given"),
        ({"size": 3}, "8 to 2048"),
        ({"seed": -1}, "0 or more"),
        ({"colour_jitter": 2.0}, "0 to 1"),
    ],
)
def test_impossible_configs(values: dict, word: str) -> None:
    with pytest.raises(ConfigError, match=word) as caught:
        ImageDataConfig(**values)
    assert "\n" not in str(caught.value)


def test_places_without_data(tmp_path: Path) -> None:
    for config, word in (
        (ImageDataConfig(), "--data"),
        (ImageDataConfig(source="folder"), "--data"),
        (ImageDataConfig(path=str(tmp_path)), "holds no picture"),
        (ImageDataConfig(path=str(tmp_path / "none")), "neither a folder"),
        (ImageDataConfig(path="natral"), "did you mean 'natural'"),
        (ImageDataConfig(source="shards", path=str(tmp_path)), r"no \.tar"),
    ):
        with pytest.raises(ConfigError, match=word) as caught:
            open_images(config)
        assert "\n" not in str(caught.value)
