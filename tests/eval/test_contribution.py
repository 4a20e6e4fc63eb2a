"""What each position contributes: by hand, by replacement, per factor, on sound, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_audio import RATE, make_sound, tiny_codec

from eval.contribution import Contribution, mean_code
from eval.heat_map import save_footprints, save_heat_map
from tests.eval.tiny_tokenizers import pictures, tiny_titok
from tok_core.codebook import Codebook
from tok_core.errors import ConfigError
from tok_core.neighbour_table import neighbour_table
from tok_core.token_spec import Axis, TokenSpec


def test_the_mean_code_replaced_by_hand() -> None:
    model, x = tiny_titok(), pictures(2)
    score = Contribution(model, replacement="mean", decode_batch=3)
    score.update(x, [0, 1])
    found = score.compute()
    tokens = model.encode(x)
    clean, code = model.decode(tokens), mean_code(model.codebooks[0])
    for position in range(8):
        codes = tokens.codes.clone()
        codes[:, position] = code
        gap = model.decode(tokens._replace(codes=codes)) - clean
        for name, change in (("mse", gap.square().mean()), ("mae", gap.abs().mean())):
            ours = float(found[f"contribution/{name}"][position, 0])
            assert ours == pytest.approx(float(change), rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("replacement", ["neighbour", "random"])
def test_replacements_always_replace(replacement: str) -> None:
    model, x = tiny_titok(), pictures(20)
    score = Contribution(model, replacement=replacement, delta=4)
    codes = model.spec.to_sequence(model.encode(x).codes)
    new = score._replacements(codes, range(20))
    assert bool((new != codes).all())
    model.spec.check(new[..., 0])
    near = neighbour_table(model.codebooks[0], 4)[codes[..., 0]]
    inside = (near == new).any(-1)
    assert bool(inside.all()) == (replacement == "neighbour")
    assert torch.equal(score._replacements(codes[5:9], range(5, 9)), new[5:9])
    assert not torch.equal(score._replacements(codes[5:9], range(4)), new[5:9])


def test_seeds_and_batches() -> None:
    model, x = tiny_titok(), pictures(5)

    def run(batch: int, seed: int = 0, **options: Any) -> torch.Tensor:
        score = Contribution(model, seed=seed, **options)
        for at in range(0, 5, batch):
            score.update(x[at : at + batch], range(at, min(at + batch, 5)))
        return score.compute()["contribution/mse"]

    assert torch.allclose(run(5), run(2, decode_batch=7), rtol=1e-4)
    assert not torch.equal(run(5), run(5, seed=1))


def test_distance_and_footprint() -> None:
    model, x = tiny_titok(), pictures(3)
    score = Contribution(
        model, footprint=4, distance=lambda a, b: (a - b).abs().mean((1, 2, 3)), num_tokens=5
    )
    score.update(x, range(3))
    found = score.compute()
    assert found["contribution/mse"].shape == (5, 1)
    assert found["contribution/samples"] == 3
    # The cells of a footprint are equally large, so their mean is the whole change.
    mean = found["contribution/footprint"].mean((1, 2))
    assert torch.allclose(mean, found["contribution/mse"][:, 0], rtol=1e-4)
    assert bool((found["contribution/distance"] >= found["contribution/mse"] / 2).all())


def test_levels_of_a_codec_one_at_a_time() -> None:
    codec = tiny_codec()
    x = torch.stack([torch.from_numpy(make_sound(0.1, RATE, seed=s)) for s in range(2)])
    with pytest.raises(ConfigError, match="positions"):
        Contribution(codec)
    score = Contribution(codec, positions=10, per_factor=True, replacement="random")
    score.update(x, [0, 1])
    found = score.compute()["contribution/mse"]
    assert found.shape == (10, 2)
    assert bool((found >= 0).all())
    assert bool((found > 0).any())
    # The first level holds the larger part.
    assert float(found[:, 0].mean()) > float(found[:, 1].mean())
    with pytest.raises(ConfigError, match="20 positions came to a map of 10"):
        score.update(torch.zeros(1, 1, 1600), [0])


def test_pictures_are_written(tmp_path: Path) -> None:
    grid = TokenSpec(modality="image", grid=(3, 4), vocabulary=(8,),
                     axes=(Axis(name="row", size=3), Axis(name="column", size=4)))  # fmt: skip
    axes = (Axis(name="branch", size=2), Axis(name="scale_token", size=5))
    scales = TokenSpec(modality="image", scales=((1, 1), (2, 2)), vocabulary=(8, 8), axes=axes)
    codec = tiny_codec().spec
    for name, spec, shape in (("grid", grid, (12, 1)), ("scales", scales, (5, 2)),
                              ("codec", codec, (30, 2)), ("flat", grid, (12, 1))):  # fmt: skip
        values = torch.zeros(shape) if name == "flat" else torch.rand(shape)
        path = save_heat_map(values, spec, tmp_path / f"{name}.png")
        with Image.open(path) as image:
            # More than white paper.
            assert len(image.convert("RGB").getcolors(1 << 20) or ()) > 20
    path = save_footprints(torch.rand(20, 4, 4), tmp_path / "cells.png")
    with Image.open(path) as image:
        assert image.width > image.height


def test_wrong_use_is_told() -> None:
    with pytest.raises(ConfigError, match="did you mean 'neighbour'"):
        Contribution(tiny_titok(), replacement="neighbor")
    with pytest.raises(ConfigError, match="delta is 1"):
        Contribution(tiny_titok(), delta=1)
    with pytest.raises(ConfigError, match="images only"):
        Contribution(tiny_codec(), positions=5, footprint=4)
    assert mean_code(Codebook(torch.tensor([[0.0], [4.0], [1.0]]), "l2")) == 2
