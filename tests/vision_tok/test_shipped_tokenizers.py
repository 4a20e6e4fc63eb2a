"""The shipped VQGAN and TokenFlow keep their promises: size, bar, card, recipe, both streams."""

from __future__ import annotations

import io
import itertools
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from PIL import Image, ImageOps
from torch import Tensor

from assets import asset_path
from tessera.demo_images import held_out_photographs
from tests.vision_tok.held_out_tiles import assert_all_tiles, assert_first_tiles
from tok_core.image_measures import psnr, to_uint8
from tok_core.loading import load
from tok_core.procedural_images import ProceduralClasses
from vision_tok.semantic_teacher import TeacherOptions, build_teacher

VQGAN, FLOW = "vqgan-tiny", "token-flow-tiny"
SIDES = {VQGAN: 128, FLOW: 64}  # pixels
NAMES = tuple(SIDES)
PAYLOAD = 384  # bytes: 16 x 16 tokens of 12 bits


def folder(name: str) -> Any:
    return asset_path(f"models/{name}")


@cache
def model(name: str) -> Any:
    return load(folder(name))


@cache
def written(name: str) -> dict[str, Any]:
    scores: dict[str, Any] = json.loads((folder(name) / "scores.json").read_text())
    return scores


@pytest.mark.parametrize("name", NAMES)
def test_it_is_small(name: str) -> None:
    assert sum(f.stat().st_size for f in folder(name).iterdir()) <= 6_000_000
    assert model(name).spec.image_size == (SIDES[name],) * 2


@pytest.mark.parametrize("name", NAMES)
def test_the_first_tiles_score_what_they_scored_when_it_was_shipped(name: str) -> None:
    assert_first_tiles(model(name), name)


@pytest.mark.smoke
@pytest.mark.parametrize("name", NAMES)
def test_all_tiles_score_what_is_written(name: str) -> None:
    assert_all_tiles(model(name), written(name))


@pytest.mark.parametrize("name", NAMES)
def test_the_card_tells_the_written_scores(name: str) -> None:
    card = (folder(name) / "README.md").read_text()
    for values in written(name)["budgets"].values():
        assert f"| {values['psnr']:.2f} |" in card
    assert model(name).code_hash()[:16] in card


@pytest.mark.parametrize("name", NAMES)
def test_its_run_is_the_recipe_in_the_package(name: str) -> None:
    recipe = yaml.safe_load(asset_path(f"configs/{name}.yaml").read_text())
    run = yaml.safe_load((folder(name) / "run.yaml").read_text())
    assert run["model"]["class"] == recipe["model"]["class"]
    assert run["model"]["config"] == recipe["model"]["config"]
    for part in ("train", "data", "objective", "optimizer", "schedule"):
        for key, value in recipe[part].items():
            found = run[part][key]
            assert found.items() >= value.items() if isinstance(value, dict) else found == value


def test_the_vqgan_codes_held_out_tiles() -> None:
    network, scores = model(VQGAN), written(VQGAN)
    assert network.spec.grid == (16, 16) and network.spec.bits[0] == 12
    (found,) = scores["budgets"].values()
    assert found["psnr"] >= 22.5
    assert found["psnr"] >= scores["flat_colour_psnr"] + 6.0


def test_the_vqgan_is_no_worse_than_jpeg_2000_on_whole_photographs() -> None:
    """At equal payload: the classic codec's headers are not counted, as ours are not."""
    photographs = torch.stack([shrunk(path, SIDES[VQGAN]) for path in held_out_photographs()])
    with torch.no_grad():
        ours = psnr(model(VQGAN).decode(model(VQGAN).encode(photographs)), photographs)
    classic = torch.stack([jpeg_2000(photograph, PAYLOAD) for photograph in photographs])
    assert float(ours.double().mean()) >= 22.5
    assert float(ours.double().mean()) >= float(psnr(classic, photographs).double().mean())


def shrunk(path: Path, side: int) -> Tensor:
    """Return the middle square of a photograph (3, side, side) in [-1, 1]."""
    with Image.open(path) as photograph:
        square = ImageOps.fit(photograph.convert("RGB"), (side, side), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 127.5 - 1


def jpeg_2000(tile: Tensor, most: int) -> Tensor:
    """Code a picture (3, S, S) in [-1, 1] with as many bytes as fit; return it decoded."""
    picture = Image.fromarray(to_uint8(tile[None])[0].permute(1, 2, 0).numpy())
    low, high, best = 1.0, 2000.0, b""  # compression asked for: too little, enough
    for _ in range(14):
        middle = (low * high) ** 0.5
        buffer = io.BytesIO()
        picture.save(
            buffer, "JPEG2000", quality_mode="rates", quality_layers=[middle], irreversible=True,
            no_jp2=True, num_resolutions=6,
        )  # fmt: skip
        data = buffer.getvalue()
        # Behind the mark that starts the data, without the one that ends the file.
        if len(data) - data.index(b"\xff\x93") - 4 <= most:
            high, best = middle, max(best, data, key=len)
        else:
            low = middle
    with Image.open(io.BytesIO(best)) as decoded:
        pixels = torch.from_numpy(np.array(decoded.convert("RGB")))
    return pixels.permute(2, 0, 1).float() / 127.5 - 1


def test_whole_scales_of_the_token_flow_add_detail() -> None:
    network, scores = model(FLOW), written(FLOW)
    lengths = list(itertools.accumulate(h * w for h, w in network.spec.scales))
    assert [int(budget) for budget in scores["budgets"]] == lengths
    by_scale = [values["psnr"] for values in scores["budgets"].values()]
    assert all(fewer < more for fewer, more in itertools.pairwise(by_scale))
    assert by_scale[-1] >= scores["flat_colour_psnr"] + 4.0


def test_both_streams_come_from_the_same_tokens() -> None:
    network = model(FLOW)
    side, (rows, columns) = SIDES[FLOW], network.spec.scales[-1]
    x = torch.rand(2, 3, side, side, generator=torch.manual_seed(0)) * 2 - 1
    tokens, options = network.encode(x), network.settings
    for stream, width in (("semantic", options.semantic_dim), ("pixel", options.pixel_dim)):
        assert network.embed(tokens, stream=stream).shape == (2, width, rows, columns)
    width = options.semantic_decoder.target_dim
    assert network.features(tokens).shape == (2, rows * columns, width)


@torch.no_grad()
def test_semantic_features_tell_pictures_apart_as_the_teacher_does() -> None:
    network = model(FLOW)
    run = yaml.safe_load((folder(FLOW) / "run.yaml").read_text())
    options = run["objective"]["semantic_teacher"]
    lists = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    teacher, source = build_teacher(TeacherOptions(**lists)), ProceduralClasses(SIDES[FLOW], 31)
    x = torch.stack([source[i][0] for i in range(24)])
    ours = network.features(network.encode(x)).mean(1)
    theirs = teacher(x, network.spec.scales[-1][0]).mean(1)
    # What all pictures have in common tells nothing.
    alike = F.normalize(ours - ours.mean(0), dim=1) @ F.normalize(theirs - theirs.mean(0), dim=1).T
    own = alike.diagonal()
    others = (alike.sum() - own.sum()) / (alike.numel() - len(own))
    assert float(own.mean()) > 0.3 > float(others) + 0.2
