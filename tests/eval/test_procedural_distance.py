"""The shipped classifier and frechet/procedural-v1: size, accuracy, ranking, the recipe itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from assets import asset_path
from eval.procedural_classifier import (
    FACTS,
    VERSION,
    WEIGHTS,
    ProceduralClassifier,
    resized,
    shipped_classifier,
)
from eval.procedural_distance import ENTRIES, NAME, ProceduralDistance
from eval.procedural_recipe import Recipe, TrainingNetwork, accuracy, main, painted, train
from tok_core.errors import MediaError, WeightsError
from tok_core.procedural_images import ProceduralImages

FOLDER = asset_path(f"classifiers/{VERSION}")


def clean(count: int = 48) -> Tensor:
    source = ProceduralImages("natural", 64, seed=3)
    return torch.stack([
        torch.from_numpy(source.pixels(i).transpose(2, 0, 1).copy()) for i in range(count)
    ])  # fmt: skip


def distance(real: Tensor, fake: Tensor) -> float:
    metric = ProceduralDistance()
    metric.update(real, real=True)
    metric.update(fake, real=False)
    return float(metric.compute()[NAME])


def test_what_is_shipped() -> None:
    facts = json.loads((FOLDER / FACTS).read_text())
    assert (FOLDER / WEIGHTS).stat().st_size < 2_000_000
    assert not (FOLDER / "config.json").exists()  # it is no tokenizer
    assert "Limits" in (FOLDER / "README.md").read_text()
    network = shipped_classifier()
    assert network.protocol()["extractor_sha256"] == network.sha256 != ""
    # Never seen: another seed than both of the recipe's.
    assert accuracy(network, *painted(facts["recipe"]["seed"] + 7, 60)) > 0.9


def test_stronger_is_further_away() -> None:
    images = clean()
    blurred = [
        interpolate(avg_pool2d(images.float(), k), 64, mode="bilinear").round().byte()
        for k in (2, 4, 8)
    ]
    generator = torch.Generator().manual_seed(0)
    grain = torch.randn(images.shape, generator=generator)
    noisy = [(images + s * grain).clamp(0, 255).byte() for s in (6, 16, 40)]
    for changed in (blurred, noisy):
        found = [distance(images, one) for one in (images, *changed)]
        assert found == sorted(found)
        assert abs(found[0]) < 1e-6 < found[1]


def test_registry_row_and_protocol() -> None:
    (entry,) = ENTRIES
    metric = entry.build(**entry.options)
    assert entry.values == (NAME,) and "fid" not in NAME
    assert metric.protocol()["extractor"] == VERSION


def test_other_sizes_are_resized_and_others_refused() -> None:
    images = clean(2)
    assert torch.equal(resized(images), images.float() / 127.5 - 1)
    assert resized(images[:, :, :40, :50]).shape == (2, 3, 64, 64)
    with pytest.raises(MediaError, match="give uint8"):
        resized(images.float())


def test_recipe_repeats_itself(tmp_path: Path) -> None:
    recipe = Recipe(pictures=24, steps=3, batch=8, test_pictures=12)
    first, log = train(recipe)
    second, _ = train(recipe)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert len(log) == 3
    words = "--pictures 24 --steps 2 --batch 8 --test-pictures 12 --out".split()
    assert main([*words, str(tmp_path / "a")]) == 0
    network = ProceduralClassifier.from_folder(tmp_path / "a")
    assert network.features(clean(2), ("features",))["features"].shape == (2, 296)
    assert main([*words, str(tmp_path / "a")]) == 1  # never overwritten
    assert ProceduralDistance(folder=tmp_path / "a").extractor.sha256 == network.sha256


def test_folding_changes_nothing() -> None:
    torch.manual_seed(0)
    network = TrainingNetwork(12)
    for norm in network.norms:
        torch.nn.init.uniform_(norm.running_mean, -1, 1)  # type: ignore[arg-type]
        torch.nn.init.uniform_(norm.running_var, 0.5, 2)  # type: ignore[arg-type]
    folded = ProceduralClassifier(12)
    folded.load_state_dict({key: value.float() for key, value in network.folded().items()})
    x = clean(4).float() / 127.5 - 1
    with torch.no_grad():
        assert torch.allclose(folded(x)[1], network.eval()(x), atol=0.02)  # float16 weights


def test_damaged_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="make one with"):
        ProceduralClassifier.from_folder(tmp_path)
    for name in (FACTS, WEIGHTS):
        (tmp_path / name).write_bytes((FOLDER / name).read_bytes())
    (tmp_path / WEIGHTS).write_bytes(b"x" * 99)
    with pytest.raises(WeightsError):
        ProceduralClassifier.from_folder(tmp_path)
    facts = json.loads((FOLDER / FACTS).read_text())
    (tmp_path / FACTS).write_text(json.dumps({**facts, "name": "procedural-v9"}))
    with pytest.raises(WeightsError, match="'procedural-v9'"):
        ProceduralClassifier.from_folder(tmp_path)
