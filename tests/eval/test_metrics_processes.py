"""Two real processes (gloo) give what one gives: pictures, codes, rates and words in one run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torchmetrics import Metric

from eval.code_usage import CodeUsage
from eval.image_quality import PSNR, PooledPSNR
from eval.rates import RateMeter
from eval.word_errors import WordErrors
from tests.eval.test_image_quality import images, noisy
from tests.two_processes import in_two
from tok_core.contract import Tokens
from tok_core.token_spec import Axis, TokenSpec

ITEMS = 7
AXES = (Axis(name="level", size=2), Axis(name="token", size=5))
SPEC = TokenSpec(modality="image", axes=AXES, vocabulary=(9, 4))
TEXTS = ["a b c", "a c", "", "b b b", "c", "a b c d", "d"]


def metrics() -> dict[str, Metric]:
    return {
        "psnr": PSNR(), "pooled": PooledPSNR(), "codes": CodeUsage(SPEC), "rates": RateMeter(),
        "words": WordErrors(), "per file": WordErrors(average="per-file"),
    }  # fmt: skip


def take(metric: Any, name: str, item: int) -> None:
    if name in ("psnr", "pooled"):
        x = images(ITEMS)
        metric.update(noisy(x)[item : item + 1], x[item : item + 1], indices=[item])
    elif name == "codes":
        generator = torch.Generator().manual_seed(item)
        codes = torch.randint(0, 4, (1, 2, 5), generator=generator)
        metric.update(Tokens(codes, torch.tensor([1 + item % 5])))
    elif name == "rates":
        metric.update(100 + item, pixels=50 * (1 + item), tokens=item)
    else:
        metric.update(TEXTS[item], TEXTS[-1 - item], indices=[item])


def found(rank: int = 0, world: int = 1) -> dict[str, list[float]]:
    """Every number that one process of so many finds; the last item is rank 0's alone."""
    numbers: dict[str, list[float]] = {}
    for name, metric in metrics().items():
        for item in range(rank, ITEMS, world):
            take(metric, name, item)
        result = metric.compute()
        parts = result if isinstance(result, dict) else {"": result}
        for key, value in parts.items():
            numbers[name + key] = value.flatten().tolist()
        if name == "psnr":
            with metric.sync_context(should_sync=world > 1):
                numbers["values"] = metric.collected()[0].tolist()  # type: ignore[operator]
    return numbers


def share(rank: int) -> dict[str, list[float]]:
    """What one of two processes finds."""
    return found(rank, 2)


def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    (two, _), one = in_two(share, tmp_path), found()
    assert two.keys() == one.keys()
    for name, values in one.items():
        assert two[name] == pytest.approx(values, rel=1e-12, nan_ok=True), name
