"""Two real processes (gloo) give the numbers of one: every value, large offsets, empty shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchmetrics import Metric

from eval.frechet_distance import frechet_distance, frechet_distance_of_features
from eval.moments import add_vectors, empty_moments, merge_moments, unpack
from tests.eval.test_fid import fed, metric, numbers, pictures
from tests.eval.test_moments import vectors
from tests.two_processes import in_two

OFFSET = 1e5  # means large against spreads


class Raw(Metric):
    """The distance of bare vectors over the same states."""

    full_state_update = False
    real: Tensor
    fake: Tensor

    def __init__(self) -> None:
        super().__init__()
        for side in ("real", "fake"):
            self.add_state(side, empty_moments(8), dist_reduce_fx=merge_moments)

    def update(self, x: Tensor, *, real: bool) -> None:
        """Take (N, 8)."""
        add_vectors(self.real if real else self.fake, x)

    def compute(self) -> Tensor:
        """Return the distance."""
        return frechet_distance(unpack(self.real), unpack(self.fake))


def share(rank: int) -> dict[str, Any]:
    """What one of two processes finds; the second one sees no generated picture at all."""
    one, raw = metric(), Raw()
    for real, images in ((True, pictures(40, 1)), (False, pictures(33, 2))):
        for part in torch.arange(len(images)).split(5):
            if (rank == 1) == (real and int(part[0]) % 10 == 5):
                one.update(images[part], real=real, indices=part)
    for real, seed in ((True, 1), (False, 2)):
        raw.update(vectors(90, 8, OFFSET, seed)[rank::2], real=real)
    found = numbers(one)
    return {"values": found, "raw": float(raw.compute()), "again": numbers(one) == found}


def test_two_processes_give_the_numbers_of_one(tmp_path: Path) -> None:
    found, _ = in_two(share, tmp_path)
    assert found["values"] == pytest.approx(numbers(fed(metric())), rel=1e-5)
    exact = frechet_distance_of_features(
        *(vectors(90, 8, OFFSET, seed) - OFFSET for seed in (1, 2))
    )
    assert found["raw"] == pytest.approx(float(exact), rel=1e-9)
    assert found["again"]
