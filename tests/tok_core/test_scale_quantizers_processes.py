"""Two processes (gloo) give what one process gives on the joined batch, for all quantizers over
scales, alone and as branches, and with dropped scales.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.two_processes import WHOLE, half, in_two, joined
from tok_core.binary_spherical import BinarySphericalQuantizer
from tok_core.dual_codebook import DualCodebook
from tok_core.multi_scale_quantizer import MultiScaleQuantizer
from tok_core.product_quantizer import ProductQuantizer
from tok_core.quantizer_dropout import Dropped
from tok_core.vector_quantizer import Quantized

CODES, BATCH, STEPS = 12, 6, 4
DEPTHS = torch.tensor([1, 2, 3, 3, 3, 2])
DIMS = {"semantic": 4, "pixel": 3}
RECIPES: dict[str, dict[str, Any]] = {
    # A softer entropy term than the usual one, which multiplies rounding twentyfold every step.
    "dual": {"scales": [1, 2, 4], "entropy": 0.1, "temperature": 0.2, "recent_codes": 150,
             "dead_code_every": 2},
    "dual from k-means": {"scales": [3], "kmeans_start": True, "weights": {"pixel": 2.0}},
    "multi-scale": {"scales": [1, 2, 4], "dead_code_every": 2, "average_usage": True},
    "multi-scale from k-means": {"scales": [1, 3], "kmeans_start": True, "cosine": True},
    "branches": {"scales": [1, 2, 4], "cosine": True, "sum_commitment": True},
    "binary branches": {"scales": [1, 2, 4], "temperature": 0.2},
}  # fmt: skip


class Projected(nn.Module):
    """A quantizer behind one layer, so that the latents' gradient is reduced, too."""

    def __init__(self, name: str) -> None:
        super().__init__()
        options = RECIPES[name]
        self.dual, self.product = name.startswith("dual"), name.endswith("branches")
        width = 8 if self.product else sum(DIMS.values()) if self.dual else 4
        self.project = nn.Conv2d(5, width, 1)
        if self.dual:
            self.quantizer: Any = DualCodebook(CODES, DIMS, **options)
        elif name == "binary branches":
            self.quantizer = _branches(BinarySphericalQuantizer, 16, options)
        elif self.product:
            self.quantizer = _branches(MultiScaleQuantizer, CODES, options)
        else:
            self.quantizer = MultiScaleQuantizer(CODES, 4, **options)

    def forward(self, x: Tensor, depths: Tensor) -> Quantized:
        z = self.project(x)
        if self.product:
            # Unequal numbers of items lose a scale in the two processes.
            drop = Dropped(depths < len(self.quantizer.scales), depths)
            return self.quantizer(z.unflatten(1, (2, 4)), dropped=drop)
        return self.quantizer(self.quantizer.split(z) if self.dual else z)


def _branches(kind: Any, size: int, options: dict[str, Any]) -> ProductQuantizer:
    return ProductQuantizer([kind(size, 4, **options) for _ in range(2)])


def batch(step: int, side: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    return 2 * torch.randn(BATCH, 5, side, side, generator=generator)


def train(name: str, own: slice) -> dict[str, Tensor]:
    """Return everything a run leaves behind: state, statistics, gradients."""
    torch.manual_seed(7)
    plain = Projected(name).train()
    model = joined(plain, broadcast_buffers=False)
    seen: dict[str, Tensor] = {}
    for step in range(STEPS):
        plain.zero_grad()
        out = model(batch(step, RECIPES[name]["scales"][-1])[own], DEPTHS[own])
        (out.latents.square().mean() + sum(out.losses.values())).backward()
        seen |= {f"gradient/{key}/{step}": p.grad.clone() for key, p in plain.named_parameters()}
        seen |= {f"{key}/{step}": value.clone() for key, value in out.statistics.items()}
        with torch.no_grad():
            for parameter in plain.parameters():
                parameter -= 0.2 * parameter.grad
    return seen | {key: value.clone() for key, value in plain.state_dict().items()}


def share(rank: int) -> dict[str, dict[str, Tensor]]:
    return {name: train(name, half(rank, BATCH)) for name in RECIPES}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    alone = {name: train(name, WHOLE) for name in RECIPES}
    return [alone, *in_two(share, tmp_path_factory.mktemp("two_processes"))]


@pytest.mark.parametrize("name", RECIPES)
def test_two_processes_equal_one_on_the_joined_batch(
    runs: list[dict[str, dict[str, Tensor]]], name: str
) -> None:
    one, first, second = (each[name] for each in runs)
    assert one.keys() == first.keys() == second.keys()
    for key, expected in one.items():
        assert torch.equal(first[key], second[key]), f"{key} differs between the processes"
        torch.testing.assert_close(
            first[key], expected, rtol=1e-3, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}"
        )


def test_the_runs_did_something(runs: list[dict[str, dict[str, Tensor]]]) -> None:
    for name, result in runs[0].items():
        gradients = [key for key in result if key.startswith("gradient/")]
        assert len(gradients) == STEPS * len(list(Projected(name).parameters())), name
        assert all(result[key].abs().sum() > 0 for key in gradients if "phi" not in key), name
        assert 0 < result["codebook/usage/0"] <= 1
    assert runs[0]["multi-scale"]["quantizer.average.updates"] == STEPS
    assert runs[0]["dual"]["quantizer.revival.batches"] == STEPS
    assert runs[0]["dual"]["quantizer.recent.codes"].float().std() > 1
