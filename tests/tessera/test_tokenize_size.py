"""``tessera tokenize --size``: networks of any size, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_audio import save_tiny, write_sound

from tessera.cli import run
from tok_core.crop_views import crop_views
from tok_core.loading import load
from tok_core.token_shards import TokenShards
from vision_tok.one_d_piece import OneDPiece
from vision_tok.vqgan import VQGAN


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of any size (stride 4, made for 16), one of one size, a codec, and their inputs."""
    folder = tmp_path_factory.mktemp("size")
    torch.manual_seed(0)
    side = {"channels": 8, "multipliers": [1, 2, 2], "res_blocks": 1, "attention": []}
    VQGAN(
        encoder_sizes=side, decoder_sizes=side, z_channels=6, code_dim=4, codebook_size=16,
        norm_groups=4, image_size=16,
    ).save_pretrained(folder / "any")  # fmt: skip
    small = {"width": 32, "layers": 1, "heads": 2}
    OneDPiece(
        image_size=16, patch_size=8, num_tokens=8, codebook_size=32, encoder_size=small,
        decoder_size=small,
    ).save_pretrained(folder / "one")  # fmt: skip
    save_tiny(folder / "codec")
    (folder / "pictures").mkdir()
    for i in range(2):
        Image.effect_noise((50, 40), 60 + i).convert("RGB").save(folder / "pictures" / f"{i}.png")
    write_sound(folder / "sound.wav")
    return folder


def words(folder: Path, model: str, out: Path, *options: object) -> list[str]:
    source = folder / ("sound.wav" if model == "codec" else "pictures")
    return [str(w) for w in ("tokenize", source, out, "-m", folder / model, *options)]


def test_larger_pictures_have_more_codes(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(words(folder, "any", out, "--size", 24, "--ten-crop", "--processes", 2)) == 0
    shards, model = TokenShards(out), load(folder / "any")
    codes, _ = shards.item(1, view=7)
    assert codes.shape == (6, 6)
    with Image.open(folder / "pictures" / "1.png") as image:
        view = crop_views(image.convert("RGB"), 24, "ten-crop")[7]
    pixels = torch.frombuffer(bytearray(view.tobytes()), dtype=torch.uint8).view(24, 24, 3)
    x = pixels.permute(2, 0, 1)[None].float() / 127.5 - 1
    assert torch.equal(model.encode(x).codes[0], codes)


@pytest.mark.parametrize(("model", "size", "error"), [
    ("any", 30, "--size is 30; give a multiple of 4 pixels"),
    ("one", 24, "this OneDPiece takes pictures of 16 x 16 alone"),
    ("codec", 24, "--size cuts pictures but this model takes audio"),
])  # fmt: skip
def test_what_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], model: str, size: int,
    error: str,
) -> None:  # fmt: skip
    assert run(words(folder, model, tmp_path / "out", "--size", size)) == 1
    assert error in capsys.readouterr().err


