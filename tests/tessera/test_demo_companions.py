"""Further shipped models in the demo's table."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from tessera.demo_companions import COMPANIONS, has_classic, shipped_companions
from tessera.demo_images import image_demo
from vision_tok.vqgan import VQGAN

from .conftest import make_picture


def test_demo_shows_other_models_beside_the_first(tiny: Path, tmp_path: Path) -> None:
    """Each at its own budget, and JPEG 2000 near the size of its file."""
    torch.manual_seed(0)
    side = {"channels": 8, "multipliers": [1, 1, 1], "res_blocks": 1}
    grid = VQGAN(encoder_sizes=side, z_channels=8, code_dim=4, codebook_size=32, norm_groups=4,
                 image_size=32).eval()  # fmt: skip
    grid.save_pretrained(tmp_path / "grid")
    picture = make_picture(tmp_path / "own.png", 64, 48)
    (tmp_path / "out").mkdir()
    section = image_demo(
        tmp_path / "out", pictures=[str(picture)], model=str(tiny), budgets=[4], device="cpu",
        companions={"grid-tiny": tmp_path / "grid"},
    )  # fmt: skip
    labels = ["4 tokens", "JPEG", "WebP", "grid-tiny, 64 tokens"]
    labels += ["JPEG 2000 beside grid-tiny"] if has_classic() else []
    assert [row["budget"] for row in section.rows] == labels
    other = section.rows[3]
    assert other["model"] == "grid-tiny"
    assert other["bytes"] == (tmp_path / "out/tokens/own_grid-tiny.tok").stat().st_size
    if has_classic():
        assert {"psnr", "bytes", "quality"} <= section.rows[4].keys()
    with Image.open(tmp_path / "out/pictures/own_grid-tiny.png") as made:
        assert made.size == (64, 48)
    alone = image_demo(
        tmp_path / "out", pictures=[str(picture)], model=str(tiny), budgets=[4], device="cpu"
    )  # fmt: skip
    assert len(alone.rows) == 3


def test_what_is_not_shipped_is_left_out() -> None:
    shipped = shipped_companions()
    assert list(shipped) == [name for name in COMPANIONS if name in shipped]
    assert all((folder / "config.json").is_file() for folder in shipped.values())
