"""Any picture file becomes RGB with notes, or one sentence."""

from __future__ import annotations

import io
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tok_core.errors import MediaError
from vision_tok.image_file import MAX_PIXELS, read_image


def _photo(width: int = 40, height: int = 24) -> Image.Image:
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([x * 6, y * 9, (x + y) * 4], -1).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp", "ppm", "tga"])
def test_lossless_formats_come_back_exactly(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    _photo().save(path, **({"lossless": True} if suffix == "webp" else {}))
    picture = read_image(path)
    assert picture.pixels.mode == "RGB" and picture.notes == ()
    assert np.array_equal(np.asarray(picture.pixels), np.asarray(_photo()))


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_rotation_is_applied(tmp_path: Path, turn: int) -> None:
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Transpose that undoes what EXIF will do
    stored = _photo().transpose(Image.Transpose(back[turn])) if turn > 1 else _photo()
    exif = Image.Exif()
    exif[0x0112] = turn
    stored.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(np.asarray(read_image(tmp_path / "a.png").pixels), np.asarray(_photo()))


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    layered = _photo().convert("RGBA")
    layered.putalpha(Image.fromarray(np.where(np.arange(40) < 20, 0, 255).astype(np.uint8)[None]
                                     .repeat(24, 0)))
    layered.save(tmp_path / "a.png")
    picture = read_image(tmp_path / "a.png")
    pixels = np.asarray(picture.pixels)
    assert (pixels[:, :20] == 255).all()
    assert np.array_equal(pixels[:, 20:], np.asarray(_photo())[:, 20:])
    assert "white" in picture.notes[0]
    opaque = _photo().convert("RGBA")
    opaque.save(tmp_path / "b.png")
    assert read_image(tmp_path / "b.png").notes == ()


def test_palette_with_a_transparent_entry(tmp_path: Path) -> None:
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((0, 0), 0)
    palette.save(tmp_path / "a.png", transparency=0)
    pixels = np.asarray(read_image(tmp_path / "a.png").pixels)
    assert tuple(pixels[0, 0]) == (255, 255, 255) and tuple(pixels[1, 1]) == (0, 0, 255)


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    deep = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    for name in ("a.png", "a.tif"):
        Image.fromarray(deep).save(tmp_path / name)
        grey = np.asarray(read_image(tmp_path / name).pixels)[..., 0]
        assert np.array_equal(grey.ravel(), np.arange(256))


def _png(depth: int, colour: int, rows: bytes, width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(
            ">I", zlib.crc32(kind + data))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows))
            + chunk(b"IEND", b""))


def test_sixteen_bit_rgb_is_scaled_not_clipped() -> None:
    values = np.array([[0, 32768, 65535], [257, 514, 60000]], dtype=">u2")
    data = _png(16, 2, b"\0" + values.tobytes(), 2, 1)
    pixels = np.asarray(read_image(data).pixels).astype(int).reshape(2, 3)
    assert np.abs(pixels - values.astype(float) / 257).max() <= 1.0


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "RGBA", "YCbCr"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr") else "a.png")
    _photo().convert(mode).save(path)
    picture = read_image(path)
    assert picture.pixels.mode == "RGB" and picture.pixels.size == (40, 24)
    assert any("CMYK" in note for note in picture.notes) == (mode == "CMYK")


def test_float_pictures_are_scaled_by_their_range(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32)).save(tmp_path / "a.tif")
    assert np.asarray(read_image(tmp_path / "a.tif").pixels)[0, :, 0].tolist() == [0, 128, 255]
    Image.fromarray(np.array([[-5.0, 0.0, 5.0]], np.float32)).save(tmp_path / "b.tif")
    stretched = read_image(tmp_path / "b.tif")
    assert np.asarray(stretched.pixels)[0, :, 0].tolist() == [0, 128, 255]
    assert "stretched" in stretched.notes[0]


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_of_several_frames_the_first_is_taken(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    options = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], **options)
    picture = read_image(tmp_path / f"a.{suffix}")
    assert picture.pixels.getpixel((3, 3)) == (255, 0, 0)
    assert "first" in picture.notes[0]


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (2500, 2000)])
def test_extreme_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size, (1, 2, 3)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").pixels.size == size


def test_a_bomb_is_refused_by_its_header() -> None:
    """The header promises far more than the file holds; nothing of that size may be allocated."""
    for side in (12_000, 60_000):
        data = _png(8, 2, b"\0" * 100, side, side)
        with pytest.raises(MediaError, match=r"134,217,728") as caught:
            read_image(data, "bomb.png")
        assert "\n" not in str(caught.value) and MAX_PIXELS == 134_217_728


def test_large_but_legal_pictures_bring_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    data = _png(1, 0, (b"\0" + b"\0" * 1250) * 10_000, 10_000, 10_000)
    assert read_image(data).pixels.size == (10_000, 10_000)
    assert not recwarn.list


@pytest.mark.parametrize(
    ("content", "word"),
    [(b"", "empty"), (b"hello, world" * 40, "no picture"), (b"\xff\xd8\xff\xe0\0", "damaged")],
)
def test_what_is_no_picture_is_one_sentence(tmp_path: Path, content: bytes, word: str) -> None:
    (tmp_path / "bad.jpg").write_bytes(content)
    with pytest.raises(MediaError, match=word) as caught:
        read_image(tmp_path / "bad.jpg")
    assert "bad.jpg" in str(caught.value) and "\n" not in str(caught.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(MediaError, match="cannot be opened"):
            read_image(path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"])
def test_truncated_files(tmp_path: Path, kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / "a"
    Image.fromarray(noise).save(path, format=kind)
    data = path.read_bytes()
    for keep in (0.1, 0.5, 0.9):
        with pytest.raises(MediaError):
            read_image(data[: int(len(data) * keep)])


@given(place=st.integers(0, 10**6), byte=st.integers(0, 255), cut=st.integers(0, 10**6))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "GIF", "WEBP"])
def test_damaged_files_give_a_picture_or_a_sentence(
    kind: str, place: int, byte: int, cut: int
) -> None:
    buffer = io.BytesIO()
    _photo().save(buffer, format=kind)
    data = bytearray(buffer.getvalue())
    data[place % len(data)] = byte
    data = data[: len(data) - (cut % len(data) if cut % 3 == 0 else 0)]
    try:
        assert read_image(bytes(data)).pixels.mode == "RGB"
    except MediaError as error:
        assert "\n" not in str(error)


def test_threads_read_at_the_same_time(tmp_path: Path) -> None:
    _photo(400, 300).save(tmp_path / "a.jpg")
    results: list[object] = []

    def work() -> None:
        for _ in range(20):
            results.append(read_image(tmp_path / "a.jpg").pixels.size)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [(400, 300)] * 80
