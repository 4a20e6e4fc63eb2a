"""Precision, recall and KID against their definitions written out, whatever the block size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from eval import pair_distances
from eval.kernel_distance import kernel_distance, unbiased_discrepancy
from eval.precision_recall import precision_recall
from tests.eval.test_moments import vectors
from tok_core.errors import ConfigError, MediaError


def by_definition(fake: Tensor, real: Tensor, k: int) -> tuple[float, float]:
    def pairs(a: Tensor, b: Tensor) -> Tensor:
        return (a[:, None] - b[None]).square().sum(-1)

    def radii(x: Tensor) -> Tensor:
        return pairs(x, x).sort(1).values[:, k]

    across = pairs(fake, real)
    precision = (across <= radii(real)).any(1).double().mean()
    recall = (across <= radii(fake)[:, None]).any(0).double().mean()
    return float(precision), float(recall)


@pytest.mark.parametrize("entries", [1, 100, 1 << 22])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_definition_and_blocks(
    entries: int, offset: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair_distances, "ENTRIES", entries)
    fake, real = vectors(31, 4, offset, seed=1), vectors(40, 4, offset, seed=2) * 1.3
    fake[5:8] = fake[4]  # more equal vectors than neighbours: radius 0
    real[7], real[9] = fake[4], fake[20]
    for k in (1, 3):
        found = precision_recall(generated=fake, real=real, neighbours=k)
        assert tuple(map(float, found)) == by_definition(fake, real, k)
        turned = precision_recall(generated=real, real=fake, neighbours=k)
        assert tuple(map(float, turned)) == by_definition(real, fake, k)


def test_equal_sets_are_perfect() -> None:
    x = vectors(50, 6).float()
    assert tuple(map(float, precision_recall(generated=x, real=x))) == (1.0, 1.0)
    far = precision_recall(generated=x + 100, real=x)
    assert tuple(map(float, far)) == (0.0, 0.0)


def test_what_cannot_be() -> None:
    x = vectors(3, 2)
    with pytest.raises(ConfigError, match="3 neighbours of 3 generated"):
        precision_recall(generated=x, real=vectors(9, 2))
    with pytest.raises(ConfigError, match="2 and 3 dimensions"):
        precision_recall(generated=vectors(9, 2), real=vectors(9, 3))
    with pytest.raises(MediaError, match="NaN"):
        precision_recall(generated=vectors(9, 2) * float("nan"), real=vectors(9, 2))
    with pytest.raises(ConfigError, match="subsets of 50"):
        kernel_distance(x, vectors(90, 2), subset_size=50)


def test_kernel_discrepancy_by_definition() -> None:
    x, y = vectors(9, 4, seed=1), vectors(7, 4, seed=2) + 1

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.mT / 4 + 1) ** 3

    wanted = -2 * kernel(x, y).mean()
    for one in (x, y):
        n = len(one)
        wanted += kernel(one, one)[~torch.eye(n, dtype=torch.bool)].sum() / (n * (n - 1))
    assert float(unbiased_discrepancy(x, y)) == pytest.approx(float(wanted), rel=1e-12)
    whole = kernel_distance(x, y[:7], subsets=3, subset_size=7)
    assert float(whole.std) < float(whole.mean)
