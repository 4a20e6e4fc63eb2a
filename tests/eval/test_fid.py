"""The distribution metrics: one pass, batches, processes, files, states, and what they warn of.

The network is the shipped procedural classifier: small, real, and on every machine.
"""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from eval.fid import ENTRIES, FAMILY, FrechetInception, distribution_metric
from eval.frechet_distance import frechet_distance_of_features
from eval.image_distribution import ImageDistribution
from eval.inception_score import inception_score
from eval.kernel_distance import kernel_distance
from eval.moments import moments_of
from eval.perturbed_decoding import PerturbationGrid
from eval.pfid import PerturbedDistance
from eval.precision_recall import precision_recall
from eval.procedural_classifier import shipped_classifier
from eval.reference_statistics import read_statistics, write_statistics
from tests.eval import tiny_tokenizers
from tok_core.errors import ConfigError, MediaError, WeightsError

ALL = ("fid", "is", "precision", "recall", "kid")
SMALL: dict[str, Any] = {"subsets": 4, "subset_size": 11, "splits": "shuffled-5"}


@cache
def pictures(count: int, seed: int) -> Tensor:
    """Soft random pictures, another colour and contrast per seed."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 8, 8, generator=generator) * (60 + 40 * seed)
    return torch.nn.functional.interpolate(coarse, (48, 40), mode="bilinear").to(torch.uint8)


def metric(values: tuple[str, ...] = ALL, **options: Any) -> ImageDistribution:
    return ImageDistribution(shipped_classifier(), values, **{**SMALL, **options})


def fed(one: ImageDistribution, batch: int = 10) -> ImageDistribution:
    for real, images in ((True, pictures(40, 1)), (False, pictures(33, 2))):
        for at in range(0, len(images), batch):
            one.update(images[at : at + batch], real=real)
    return one


def numbers(one: ImageDistribution) -> dict[str, float]:
    return {name: float(value) for name, value in one.compute().items()}


def test_values_are_those_of_the_functions() -> None:
    network = shipped_classifier()
    real = network.features(pictures(40, 1), ("features",))["features"]
    found = network.features(pictures(33, 2), ("features", "logits"))
    fake, logits = found["features"], found["logits"]
    values = numbers(fed(metric()))
    both = precision_recall(generated=fake, real=real)
    kid = kernel_distance(fake, real, subsets=4, subset_size=11)
    score = inception_score(logits, "shuffled-5")
    wanted = {
        "fid": frechet_distance_of_features(real, fake), "is": score.mean, "is/std": score.std,
        "precision": both.precision, "recall": both.recall, "kid": kid.mean, "kid/std": kid.std,
        "samples/real": 40, "samples/fake": 33,
    }  # fmt: skip
    assert values == pytest.approx({k: float(v) for k, v in wanted.items()}, rel=1e-5)


@pytest.mark.parametrize("splits", ["shuffled-5", "chunks-20", "one-pass"])
def test_batches_and_order_with_indices_do_not_matter(splits: str) -> None:
    whole = numbers(fed(metric(splits=splits), 64))
    assert numbers(fed(metric(splits=splits), 7)) == pytest.approx(whole, rel=1e-5)
    turned = metric(splits=splits)
    for real, images in ((True, pictures(40, 1)), (False, pictures(33, 2))):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(3))
        for part in order.split(9):
            turned.update(images[part], real=real, indices=part)
    assert numbers(turned) == pytest.approx(whole, rel=1e-5)


def test_saved_in_the_middle_and_restored(tmp_path: Path) -> None:
    for values in (ALL, ("fid",), ("is",)):
        whole = numbers(fed(metric(values)))
        first = metric(values)
        first.update(pictures(40, 1), real=True)
        first.update(pictures(33, 2)[:20], real=False)
        torch.save(first.state_dict(), tmp_path / "state.pt")
        state = torch.load(tmp_path / "state.pt", weights_only=True)
        kept = copy.deepcopy(state)
        second = metric(values)
        second.load_state_dict(dict(state))
        second.update(pictures(33, 2)[20:], real=False)
        assert numbers(second) == pytest.approx(whole, rel=1e-5)
        for name, value in kept.items():  # what was loaded is not written to
            pairs = zip(value, state[name], strict=True) if isinstance(value, list) else (
                (value, state[name]),)  # fmt: skip
            assert all(torch.equal(a, b) for a, b in pairs)
        second.reset()
        assert int(second.fake_count) == 0  # type: ignore[arg-type]


def test_merge_state_and_clone() -> None:
    one, other = metric(), metric()
    one.update(pictures(40, 1), real=True)
    # Which of both comes first is torchmetrics' affair; indices settle the order.
    one.update(pictures(33, 2)[:12], real=False, indices=range(12))
    other.update(pictures(33, 2)[12:], real=False, indices=range(12, 33))
    twin = one.clone()
    one.merge_state(other)
    assert numbers(one) == pytest.approx(numbers(fed(metric())), rel=1e-5)
    assert int(twin.fake_count) == 12 and twin.extractor is one.extractor  # type: ignore[arg-type]


def test_memory_is_flat_unless_features_must_be_kept() -> None:
    def size(one: ImageDistribution) -> int:
        states = (getattr(one, name) for name in one._defaults)
        rows = [row for state in states for row in (state if isinstance(state, list) else [state])]
        return sum(row.numel() * row.element_size() for row in rows)

    flat = metric(("fid", "is"), splits="one-pass")
    before = size(flat)
    assert size(fed(flat)) == before
    assert not [n for n in flat._defaults if "features" in n or "logits" in n]
    kept = fed(metric(("kid",)))
    assert size(kept) == 73 * (296 * 4 + 8) + 2 * 8  # float32 features, places, two counts


def test_reference_files_stand_for_real_pictures(tmp_path: Path) -> None:
    network, real = shipped_classifier(), pictures(40, 1)
    moments = moments_of(network.features(real, ("features",))["features"])
    images = real.permute(0, 2, 3, 1).contiguous().numpy()
    write_statistics(
        tmp_path / "all.npz", moments, extractor=network.protocol(), images=np.array(images)
    )
    write_statistics(tmp_path / "moments.npz", moments)
    whole = numbers(fed(metric()))
    one = metric(reference=read_statistics(tmp_path / "all.npz"))
    one.update(pictures(33, 2), real=False)
    assert numbers(one) == pytest.approx(whole, rel=1e-5)
    assert [name for name in one._defaults if name.startswith("real")] == ["real_count"]
    assert one.protocol()["reference"] == "file" and one.protocol()["reference_sha256"]
    assert metric().protocol()["reference"] == "originals"
    # Without pictures in the file precision needs real ones, and the distance ignores them.
    one = metric(reference=read_statistics(tmp_path / "moments.npz"))
    one.update(pictures(33, 2), real=True)
    one.update(pictures(33, 2), real=False)
    found = numbers(one)
    assert found["fid"] == pytest.approx(whole["fid"], rel=1e-5)
    assert found["recall"] == found["precision"] == 1.0
    write_statistics(tmp_path / "small.npz", moments_of(torch.randn(9, 5)))
    with pytest.raises(ConfigError, match="has 5 where fid needs 296"):
        metric(reference=read_statistics(tmp_path / "small.npz"))
    write_statistics(tmp_path / "other.npz", moments, extractor={"extractor": "inception-fid"})
    with pytest.raises(ConfigError, match="was made with extractor"):
        metric(reference=read_statistics(tmp_path / "other.npz"))


def test_it_warns_and_never_invents_numbers() -> None:
    one = fed(metric())
    one.compute()
    assert sum("fewer than the 296 feature dimensions" in text for text in one.warnings) == 2
    lonely = metric(("fid", "precision", "kid", "is"))
    lonely.update(pictures(33, 2)[:1], real=False)
    found = numbers(lonely)
    assert all(np.isnan(found[name]) for name in ("fid", "precision", "kid", "is"))
    assert found["samples/fake"] == 1 and len(lonely.warnings) == 4
    enough = metric(("fid",))
    for real in (True, False):
        enough.update(torch.randint(0, 256, (300, 3, 8, 8), dtype=torch.uint8), real=real)
    enough.compute()
    assert enough.warnings == ()


def test_what_cannot_be() -> None:
    with pytest.raises(ConfigError, match="no 'sfid'"):
        metric(("sfid",))
    with pytest.raises(ConfigError, match="did you mean 'kid'"):
        metric(("kidd",))
    with pytest.raises(ConfigError, match="no value"):
        metric(())
    one = metric(("fid",))
    with pytest.raises(MediaError, match="give uint8 pictures"):
        one.update(pictures(40, 1).float(), real=True)
    with pytest.raises(ConfigError, match="3 indices came with 40"):
        one.update(pictures(40, 1), real=True, indices=[1, 2, 3])
    with pytest.raises(ConfigError, match="ask for one"):
        distribution_metric(["rfid", "gfid"], extractor=shipped_classifier())
    with pytest.raises(ConfigError, match="did you mean 'rfid'"):
        distribution_metric(["rfd"])


def test_rows_of_the_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {entry.name for entry in ENTRIES} == set(FAMILY)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("TESSERA_WEIGHTS", raising=False)
    for entry in ENTRIES:
        with pytest.raises(WeightsError, match=entry.weights[0]):
            entry.build(**entry.options)
    joined = distribution_metric(
        ["gfid", "is", "kid"], extractor=shipped_classifier(), **SMALL)  # fmt: skip
    assert isinstance(joined, FrechetInception)
    found = numbers(fed(joined))
    assert {"gfid", "is", "is/std", "kid", "kid/std"} <= set(found)
    assert found["gfid"] == pytest.approx(numbers(fed(metric()))["fid"], rel=1e-5)


def test_it_serves_the_perturbed_distance() -> None:
    grid = PerturbationGrid.product("test", (0.25, 0.9), (2, 400), seed=4)
    one = PerturbedDistance(
        tiny_tokenizers.tiny_titok(), lambda: metric(("fid",)), grid=grid, value="fid"
    )
    x = tiny_tokenizers.pictures(12)
    one.update(x, range(12))
    found = {name: float(value) for name, value in one.compute().items()}
    assert found["pfid/samples"] == 12 and found["pfid"] > 0
    assert not [key for key in one.state_dict() if "convolutions" in key]
