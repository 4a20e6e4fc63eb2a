"""Grids and scales through the commands' codec: token files, budgets, prefixes, the demo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tessera.cli import run
from tok_core.errors import ConfigError, TokenError
from tok_core.token_file import read_token_file, write_token_file
from vision_tok.image_codec import ImageCodec
from vision_tok.legal_lengths import legal_lengths
from vision_tok.one_d_piece import OneDPiece
from vision_tok.vqgan import VQGAN

SMALL: dict[str, Any] = {
    "encoder_sizes": {"channels": 8, "multipliers": [1, 2, 2], "res_blocks": 1}, "z_channels": 6,
    "code_dim": 4, "codebook_size": 32, "norm_groups": 4, "image_size": 16,
}  # fmt: skip
SCALES = SMALL | {"quantizer_kind": "multi_scale", "scales": [1, 2, 4]}


def make(**options: Any) -> VQGAN:
    torch.manual_seed(0)
    model = VQGAN(**options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    y, x = np.mgrid[0:20, 0:33]
    waves = [np.sin(x / (5 + i) + y / (9 - i) + i) for i in range(3)]
    Image.fromarray((127 + 120 * np.stack(waves, -1)).astype(np.uint8)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


@pytest.mark.parametrize("policy", ["resize", "crop", "tile"])
@pytest.mark.parametrize("options", [SMALL, SCALES], ids=["grid", "scales"])
def test_through_token_files(
    options: dict[str, Any], policy: str, picture: Path, tmp_path: Path
) -> None:
    codec = ImageCodec(make(**options), policy=policy)
    signal = codec.read(picture)
    [encoded] = codec.encode([signal])
    size = write_token_file(tmp_path / "a.tok", encoded.file)
    file = read_token_file(tmp_path / "a.tok")
    codec.check(file)
    [decoded] = codec.decode([file])
    tiles, codes = len(signal.inputs), codec.full
    assert file.num_codes == tiles * codes == tiles * (21 if "scales" in options else 16)
    assert size <= 5 * tiles * codes / 8 + 40  # 5 bits a code and the preamble
    wide = codec.model.decode(codec.model.encode(signal.inputs))
    assert torch.equal(decoded.outputs, wide)
    assert codec.shortened(file, codes) is file
    assert decoded.pixels.shape[1:] == ((20, 20) if policy == "crop" else (20, 33))


def test_whole_scales_are_budgets(picture: Path) -> None:
    model = make(**SCALES)
    assert legal_lengths(model.spec) == (1, 5, 21)
    whole = ImageCodec(model)
    signal = whole.read(picture)
    files = []
    for options in ({"tokens": 5}, {"target_bytes": 40}, {}):
        [encoded] = ImageCodec(model, **options).encode([signal])
        files.append(encoded.file)
    lengths = [file.num_codes for file in files]
    assert lengths[0] == 5 and lengths[1] in (5, 21) and lengths[2] == 21
    # One call may hold pictures with different numbers of scales.
    together = whole.decode(files)
    for file, decoded in zip(files, together, strict=True):
        [alone] = whole.decode([file])
        torch.testing.assert_close(decoded.outputs, alone.outputs, atol=1e-4, rtol=1e-4)
    with pytest.raises(ConfigError, match="6 tokens are not possible; this model takes 1, 5, 21"):
        ImageCodec(model, tokens=6)
    with pytest.raises(ConfigError, match="prefixes of any length"):
        ImageCodec(model, target_psnr=20.0)
    with pytest.raises(TokenError, match="4 tokens; this model takes 1, 5, 21"):
        whole.check(whole.shortened(files[2], 4))


def test_a_grid_has_one_budget(picture: Path) -> None:
    codec = ImageCodec(make(**SMALL))
    [encoded] = codec.encode([codec.read(picture)])
    with pytest.raises(TokenError, match="4 x 3 cells came in; .* 4 x 4"):
        codec.check(codec.shortened(encoded.file, 3))
    with pytest.raises(ConfigError, match="always uses 16 tokens"):
        ImageCodec(codec.model, target_bytes=20)
    with pytest.raises(ConfigError, match="15 tokens are not possible; this model takes 16"):
        ImageCodec(codec.model, tokens=15)
    with pytest.raises(ConfigError, match="native"):
        ImageCodec(make(**SMALL | {"image_size": None}))


def test_prefixes_keep_every_length() -> None:
    size = {"width": 32, "layers": 1, "heads": 2}
    piece = OneDPiece(
        image_size=16, patch_size=4, num_tokens=6, codebook_size=8, encoder_size=size,
        decoder_size=size,
    )  # fmt: skip
    assert legal_lengths(piece.spec) == (1, 2, 3, 4, 5, 6)
    with pytest.raises(ConfigError, match="image_size"):
        legal_lengths(make(**SMALL | {"image_size": None}).spec)


@pytest.mark.parametrize("options", [SMALL, SCALES], ids=["grid", "scales"])
def test_the_demo_shows_them(
    options: dict[str, Any], picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(**options).save_pretrained(tmp_path / "model")
    out = tmp_path / "out"
    words = ["demo", picture, "-o", out, "-m", tmp_path / "model", "--json"]
    assert run([str(word) for word in words]) == 0
    rows = json.loads(capsys.readouterr().out)
    budgets = [row["budget"] for row in _rows(rows) if "tokens" in row["budget"]]
    assert budgets[-1] == ("21 tokens" if "scales" in options else "16 tokens")


def _rows(found: Any) -> list[dict[str, Any]]:
    """Return the list of rows with budgets, wherever the report keeps it."""
    if isinstance(found, dict):
        for value in found.values():
            if rows := _rows(value):
                return rows
    elif isinstance(found, list) and found and isinstance(found[0], dict) and "budget" in found[0]:
        return found
    return []
