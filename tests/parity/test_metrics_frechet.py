"""Fréchet distance, Inception Score, precision and recall, KID against stored references.

Cases are read from key prefixes, options from the names of the expectations in ``config.json``.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import Tensor

from eval.frechet_distance import frechet_distance, frechet_distance_of_features
from eval.inception_score import inception_score
from eval.kernel_distance import kernel_distance, unbiased_discrepancy
from eval.moments import Moments, add_vectors, empty_moments, merge_moments, moments_of, unpack
from eval.pair_distances import centred, neighbour_radii
from eval.precision_recall import precision_recall
from tests.parity.vectors import config_of, parity_folder, tensors_of

FOLDER = parity_folder("metrics/frechet", holds="io.safetensors")

IO, CONFIG = tensors_of(FOLDER), config_of(FOLDER)
CASES = sorted(CONFIG.get("frechet_cases", {}))
# Where the covariances are singular or nearly so, or the distance is zero: absolute tolerance.
HARD = ("rank_deficient", "ill_conditioned", "identical", "dead")
SCORES = CONFIG.get("inception_score", {})
SPLITS = {
    key: f"{'shuffled' if found[2] == 'True' else 'parts'}-{found[1]}"
    for key in SCORES
    if (found := re.fullmatch(r"torch_fidelity_splits(\d+)_shuffle(True|False)", key))
}
SPLITS |= {
    key: f"chunks-{found[1]}" for key in SCORES
    if (found := re.fullmatch(r"adm_style_chunks_of_(\d+)_in_order", key))
}  # fmt: skip
BALLS = CONFIG.get("precision_recall", {})
NEIGHBOURS = {key: int(key.rpartition("k")[2]) for key in BALLS if re.search(r"(^|_)k\d+$", key)}
RADII = sorted(key for key in IO if key.startswith("pr.radii_"))
KID = CONFIG.get("kid", {})
SUBSETS = sorted(key for key in KID if re.search(r"_\d+_subsets_of_\d+_seed\d+$", key))


def features(case: str) -> tuple[Tensor, Tensor]:
    return IO[f"{case}.features_a"], IO[f"{case}.features_b"]


def one_pass(vectors: Tensor, batch: int = 7) -> Tensor:
    packed = empty_moments(vectors.shape[1])
    for rows in vectors.split(batch):
        add_vectors(packed, rows)
    return packed


def merged(vectors: Tensor, parts: int = 3) -> Moments:
    shares = [one_pass(rows) for rows in vectors.chunk(parts)]
    return unpack(merge_moments(torch.stack([*shares, empty_moments(vectors.shape[1])])))


def route(name: str, case: str) -> Tensor:
    a, b = features(case)
    if name == "features":
        return frechet_distance_of_features(a, b)
    if name == "one pass":
        return frechet_distance(unpack(one_pass(a)), unpack(one_pass(b)))
    if name == "merged":
        return frechet_distance(merged(a), merged(b))
    given = [Moments(IO[f"{case}.mean_{s}"], IO[f"{case}.cov_{s}"], None) for s in "ab"]
    return frechet_distance(*given)


@pytest.mark.parametrize("name", ["features", "one pass", "merged", "covariances"])
@pytest.mark.parametrize("case", CASES)
def test_distance(case: str, name: str) -> None:
    exact = float(CONFIG["frechet_cases"][case]["exact_50_digit"])
    found = float(route(name, case))
    assert found > -1e-6
    hard = case.startswith(HARD)
    assert abs(found - exact) <= (5e-6 if hard else 1e-9 * exact)


@pytest.mark.parametrize("case", CASES)
def test_moments(case: str) -> None:
    for side, vectors in zip("ab", features(case), strict=True):
        for found in (moments_of(vectors), unpack(one_pass(vectors)), merged(vectors)):
            assert found.count == len(vectors)
            scale = IO[f"{case}.cov_{side}"].abs().max()
            assert torch.allclose(found.mean, IO[f"{case}.mean_{side}"], rtol=1e-12, atol=1e-12)
            error = (found.covariance - IO[f"{case}.cov_{side}"]).abs().max()
            assert float(error) <= 1e-9 * float(scale)


@pytest.mark.parametrize("key", sorted(SPLITS))
def test_inception_score(key: str) -> None:
    found = inception_score(IO["is.logits"], SPLITS[key])
    assert float(found.mean) == pytest.approx(SCORES[key]["mean"], rel=1e-6)
    if "std_population" in SCORES[key]:
        assert float(found.std) == pytest.approx(SCORES[key]["std_population"], rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("key", sorted(k for k in SCORES if k.startswith("single_pass")))
def test_inception_score_in_one_pass(key: str) -> None:
    found = inception_score(IO["is.logits"], "one-pass")
    assert float(found.mean) == pytest.approx(SCORES[key], rel=1e-6)


@pytest.mark.parametrize("key", sorted(k for k in IO if "shuffle_permutation_seed" in k))
def test_permutation(key: str) -> None:
    seed = int(key.rpartition("seed")[2])
    order = np.random.RandomState(seed).permutation(len(IO[key]))
    assert torch.equal(torch.from_numpy(order), IO[key])


@pytest.mark.parametrize("key", sorted(NEIGHBOURS))
def test_precision_recall(key: str) -> None:
    found = precision_recall(
        generated=IO["pr.generated"], real=IO["pr.real"], neighbours=NEIGHBOURS[key]
    )
    for name, value in found._asdict().items():
        assert float(value) == pytest.approx(BALLS[key][name], abs=1e-6)


@pytest.mark.parametrize("key", RADII)
def test_radii(key: str) -> None:
    side, _, k = key.removeprefix("pr.radii_").rpartition("_k")
    vectors = IO[f"pr.{side}"]
    found = neighbour_radii(centred(vectors, vectors)[0], int(k)).sqrt()
    assert torch.allclose(found, IO[key], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("key", sorted(k for k in KID if k.startswith("unbiased")))
def test_kernel_discrepancy(key: str) -> None:
    assert float(unbiased_discrepancy(*features("relu_like"))) == pytest.approx(KID[key], rel=1e-5)


@pytest.mark.parametrize("key", SUBSETS)
def test_kernel_distance(key: str) -> None:
    subsets, size, seed = (int(n) for n in re.findall(r"\d+", key))
    found = kernel_distance(*features("relu_like"), subsets=subsets, subset_size=size, seed=seed)
    for name, value in found._asdict().items():
        wanted = KID[key][f"kernel_inception_distance_{name}"]
        assert float(value) == pytest.approx(wanted, rel=1e-5)


def test_every_kind_was_found() -> None:
    assert all((CASES, SPLITS, NEIGHBOURS, KID))
