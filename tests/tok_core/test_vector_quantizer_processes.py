"""Two processes (gloo) give what one process gives on the joined batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.two_processes import WHOLE, half, in_two, joined
from tok_core.codebook_usage import CodebookUsage
from tok_core.kmeans import kmeans
from tok_core.vector_quantizer import VectorQuantizer

RECIPES: dict[str, dict[str, Any]] = {
    "gradient": {"dead_code_every": 2, "kmeans_start": True, "quantize_after_steps": 2},
    "ema": {"update": "ema", "ema_decay": 0.8, "kmeans_start": True, "dead_code_every": 2},
    "ema unit": {"update": "ema", "l2_normalize": True, "dead_code_every": 3},
    "clustering": {"update": "clustering", "l2_normalize": False},
    "clustering unit": {"update": "clustering", "l2_normalize": True},
}
# Learns from the first process alone.
RANK0 = {"rank0": {"update": "ema", "ema_decay": 0.8, "official_rank0_ema": True}}
STEPS, CODES, DIM = 6, 24, 4


def batch(step: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(40, DIM, generator=generator) * 2


def train(name: str, own: slice) -> dict[str, torch.Tensor]:
    """Return everything a run leaves behind: state, statistics, gradients."""
    torch.manual_seed(7)
    quantizer = VectorQuantizer(CODES, DIM, **(RECIPES | RANK0)[name]).train()
    learns = quantizer.codebook.requires_grad
    model = joined(quantizer) if learns else quantizer
    seen: dict[str, torch.Tensor] = {}
    for step in range(STEPS):
        result = model(batch(step)[own])
        if learns:
            quantizer.codebook.grad = None
            sum(result.losses.values()).backward()
            seen[f"gradient/{step}"] = quantizer.codebook.grad.clone()
        for key, value in result.statistics.items():
            seen[f"{key}/{step}"] = value
        seen[f"codebook/{step}"] = quantizer.codebook.detach().clone()
    return {**seen, **{k: v.clone() for k, v in quantizer.state_dict().items()}}


def measure(own: slice, uneven: slice) -> dict[str, torch.Tensor]:
    meter = CodebookUsage(CODES, num_tokens=2)
    meter.update(batch(0)[own].abs().mul(2).long().clamp(max=CODES - 1)[:, :2])
    seen = dict(meter.compute())
    # 40 latents of at most 32 * 1: subsampled, from parts of unequal length.
    seen["kmeans"] = kmeans(batch(0)[uneven], 1)
    seen["kmeans unit"] = kmeans(batch(1)[uneven], 9, spherical=True)
    seen["kmeans few"] = kmeans(batch(2)[uneven], 50)
    return seen


def run(own: slice, uneven: slice) -> dict[str, dict[str, torch.Tensor]]:
    trained = {name: train(name, own) for name in RECIPES | RANK0}
    return {"measures": measure(own, uneven), **trained}


def share(rank: int) -> dict[str, dict[str, torch.Tensor]]:
    """Unequal parts where k-means gathers."""
    return run(half(rank, 40), slice(0, 13) if rank == 0 else slice(13, None))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, torch.Tensor]]]:
    both = in_two(share, tmp_path_factory.mktemp("two_processes"))
    return [run(WHOLE, WHOLE) | {"rank0": train("rank0", half(0, 40))}, *both]


@pytest.mark.parametrize("name", ["measures", *RECIPES])
def test_two_processes_equal_one_on_the_joined_batch(
    runs: list[dict[str, dict[str, torch.Tensor]]], name: str
) -> None:
    one, first, second = (each[name] for each in runs)
    assert one.keys() == first.keys() == second.keys()
    assert len(one) >= 6
    for key, expected in one.items():
        assert torch.equal(first[key], second[key]), f"{key} differs between the processes"
        torch.testing.assert_close(first[key], expected, rtol=1e-4, atol=1e-5, msg=key)


def test_the_runs_did_something(runs: list[dict[str, dict[str, torch.Tensor]]]) -> None:
    for name in RECIPES:
        result = runs[0][name]
        assert not torch.equal(result["codebook/0"], result[f"codebook/{STEPS - 1}"]), name
    assert any(result["codebook/usage/5"] < 1 for result in list(runs[0].values())[1:])


def test_rank0_ema_is_the_first_process_alone(
    runs: list[dict[str, dict[str, torch.Tensor]]]
) -> None:
    alone, first, second = (each["rank0"] for each in runs)
    for name in ("codebook", "usage_ema", "sum_ema"):
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], alone[name])
    assert not torch.allclose(alone["codebook"], runs[0]["ema"]["codebook"])
