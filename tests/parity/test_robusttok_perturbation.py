"""Latent perturbation against outputs of the official function, and the annealing schedules.

Cases, grid points and schedules are read from the keys and from ``config.json``; sizes from the
tensors.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.parity.vectors import config_of, parity_folder, tensors_of
from tok_core.codebook import Codebook
from tok_core.item_selection import chosen_items
from tok_core.latent_perturbation import (
    Draws,
    Perturbation,
    PerturbationAnnealing,
    around_code,
    around_latent,
    perturb,
    replace_codes,
    replace_latents,
)
from tok_core.nearest_code import nearest_code
from tok_core.neighbour_table import nearest_neighbours, neighbour_table
from tok_core.token_spec import Axis, TokenSpec
from tok_core.training_perturbation import TrainingDraws, replaced_codes
from tok_core.vector_quantizer import Quantized, VectorQuantizer

FOLDER = parity_folder("robusttok/perturbation", holds="io.safetensors")
IO, CONFIG = tensors_of(FOLDER), config_of(FOLDER)
CASES = sorted({key.rpartition(".")[0] for key in IO if key.endswith(".effective_rank")})
# A grid point's metric is the last part of its prefix: l2 (normalised) or raw.
POINTS = sorted({key.rpartition(".")[0] for key in IO if ".index_neighbours_of_" in key})
INDICES = [
    (name, key)
    for name in CASES
    for key in ("nearest_index", "candidate_index_all_images", "final_index")
    if f"{name}.{key}" in IO
]
SCHEDULES = CONFIG.get("annealing_official", {})
FORWARD = 1e-4


def rows(z: Tensor) -> Tensor:
    """(B, C, h, w) to (B, L, C), row by row."""
    return z.flatten(2).transpose(1, 2)


def book(prefix: str, normalised: bool) -> Codebook:
    return Codebook(IO[f"{prefix}.codebook"], "cosine" if normalised else "l2")


@cache
def case(name: str) -> dict[str, Any]:
    """Everything our side computes from a case's inputs."""
    setting = CONFIG["cases"][name]
    codebook = book(name, setting["l2_normalise"])
    z = rows(IO[f"{name}.z"])
    nearest = nearest_code(z.flatten(0, 1), codebook.vectors, metric=codebook.metric)
    nearest = nearest.view(z.shape[:2])
    chance = IO[f"{name}.draw_prob"].view_as(nearest)
    rank = IO[f"{name}.draw_rank"].view_as(nearest)
    candidates = around_latent(z, rank, codebook)
    every = replace_codes(nearest, candidates, chance, alpha=setting["alpha"])
    items = chosen_items(len(z), setting["beta"], "first")
    some = replace_codes(nearest, candidates, chance, alpha=setting["alpha"], items=items)
    return {
        "setting": setting, "codebook": codebook, "items": items,
        "nearest_index": nearest, "candidate_index_all_images": every.codes,
        "final_index": some.codes, "changed": some.changed,
    }  # fmt: skip


def test_every_kind_is_there() -> None:
    assert {key for _, key in INDICES} >= {"candidate_index_all_images", "final_index"}
    assert POINTS
    assert SCHEDULES


@pytest.mark.parametrize(("name", "key"), INDICES)
def test_indices(name: str, key: str) -> None:
    ours = case(name)[key]
    assert torch.equal(ours, IO[f"{name}.{key}"].view_as(ours))


@pytest.mark.parametrize("name", CASES)
def test_chosen_items_and_changes(name: str) -> None:
    found = case(name)
    if "perturbed_images" in found["setting"]:
        assert int(found["items"].sum()) == found["setting"]["perturbed_images"]
    final = IO[f"{name}.final_index"].view_as(found["changed"])
    assert torch.equal(found["changed"], final != found["nearest_index"])


@pytest.mark.parametrize("name", CASES)
def test_ranks(name: str) -> None:
    """The candidates stand at the official rank of the whole ascending neighbourhood."""
    found = case(name)
    z, delta = rows(IO[f"{name}.z"]), found["setting"]["delta"]
    near = nearest_neighbours(z, found["codebook"], delta)
    rank = IO[f"{name}.effective_rank"].view(z.shape[:2])
    ours = near.gather(-1, rank[..., None])[..., 0]
    assert torch.equal(ours, IO[f"{name}.candidate_index_all_images"].view_as(ours))


def trained(name: str, z: Tensor) -> tuple[VectorQuantizer, Quantized, Tensor]:
    """Run what a training step runs, with the official draws: quantizer, output, new codes."""
    found = case(name)
    setting, vectors = found["setting"], IO[f"{name}.codebook"]
    quantizer = VectorQuantizer(*vectors.shape, l2_normalize=setting["l2_normalise"]).train()
    quantizer.codebook.data.copy_(vectors)
    out: Quantized = quantizer(z)
    assert out.searches is not None
    draws = TrainingDraws(
        found["items"], *(IO[f"{name}.draw_{of}"].view_as(out.codes) for of in ("prob", "rank"))
    )
    strength = Perturbation(
        alpha=setting["alpha"], beta=setting["beta"], delta=setting["delta"],
        neighbourhood="latent",
    )
    book = Codebook(quantizer.vectors, found["codebook"].metric)
    return quantizer, out, replaced_codes(out.codes, out.searches, [book], strength, draws)


@pytest.mark.parametrize("name", [n for n in CASES if f"{n}.final_index" in IO])
def test_codes_of_a_training_step(name: str) -> None:
    _, out, new = trained(name, rows(IO[f"{name}.z"]))
    assert torch.equal(new, IO[f"{name}.final_index"].view_as(new))
    if f"{name}.nearest_index" in IO:
        assert torch.equal(out.codes, IO[f"{name}.nearest_index"].view_as(new))


@pytest.mark.parametrize("name", [n for n in CASES if f"{n}.z_q_out" in IO])
def test_latents_and_gradient(name: str) -> None:
    leaf = IO[f"{name}.z"].clone().requires_grad_()
    quantizer, quantized, new = trained(name, rows(leaf))
    clean = quantized.latents
    if f"{name}.z_q_clean" in IO:
        expected = rows(IO[f"{name}.z_q_clean"])
        assert float((clean - expected).detach().abs().max()) <= FORWARD
    out = replace_latents(
        clean, quantized.codes, new, quantizer.lookup, straight=quantized.straight
    )
    grid = out.transpose(1, 2).view_as(leaf)
    assert float((grid - IO[f"{name}.z_q_out"]).detach().abs().max()) <= FORWARD
    (grid * IO[f"{name}.grad_G"]).sum().backward()
    expected = IO[f"{name}.grad_z"]
    assert leaf.grad is not None
    assert float((leaf.grad - expected).abs().max()) <= 1e-3 * float(expected.abs().max())
    grad = quantizer.codebook.grad
    assert grad is None or not bool(grad.any())


def grid_point(name: str) -> tuple[dict[str, Any], Codebook, Tensor, Tensor, Tensor]:
    top, point, metric = name.split(".")
    setting = CONFIG["pfid_grid"][int(point.removeprefix("grid"))]
    codebook = book(top, metric == "l2")
    clean = IO[f"{top}.clean_index"]
    chance = IO[f"{name}.draw_prob"].view_as(clean)
    return setting, codebook, clean, chance, IO[f"{name}.draw_rank"].view_as(clean)


@pytest.mark.parametrize("name", POINTS)
def test_neighbours_of_the_code(name: str) -> None:
    setting, codebook, clean, chance, rank = grid_point(name)
    table = neighbour_table(codebook, setting["delta"])
    ours = replace_codes(clean, around_code(clean, rank, table), chance, alpha=setting["alpha"])
    assert torch.equal(ours.codes, IO[f"{name}.index_neighbours_of_code"].view_as(clean))


@pytest.mark.parametrize("name", POINTS)
def test_neighbours_of_the_latent(name: str) -> None:
    setting, codebook, _, chance, rank = grid_point(name)
    z = rows(IO[f"{name.split('.')[0]}.z"])
    near = nearest_neighbours(z, codebook, setting["delta"])
    ours = replace_codes(
        near[..., 0], near.gather(-1, rank[..., None])[..., 0], chance, alpha=setting["alpha"]
    )
    expected = IO[f"{name}.index_neighbours_of_latent"].view_as(ours.codes)
    assert torch.equal(ours.codes, expected)


@pytest.mark.parametrize("name", POINTS)
def test_whole_path_on_a_grid(name: str) -> None:
    """`perturb` on (B, h, w) codes with a table that reaches further than the setting."""
    setting, codebook, clean, chance, rank = grid_point(name)
    h, w = IO[f"{name.split('.')[0]}.z"].shape[2:]
    count = len(codebook.vectors)
    axes = (Axis(name="row", size=h), Axis(name="column", size=w))
    spec = TokenSpec(modality="image", axes=axes, vocabulary=(count,), grid=(h, w))
    # The middle of each rank's share of the unit interval leads back to the rank.
    place = (rank.double() + 0.5) / min(setting["delta"], count)
    draws = Draws(torch.zeros(len(clean)), chance[..., None], place[..., None])
    ours = perturb(
        clean.view(-1, h, w), spec, [neighbour_table(codebook, count)],
        Perturbation(alpha=setting["alpha"], delta=setting["delta"]), draws,
    )  # fmt: skip
    expected = IO[f"{name}.index_neighbours_of_code"].view(-1, h, w)
    assert torch.equal(ours.codes, expected)
    assert torch.equal(ours.changed, expected != clean.view(-1, h, w))


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_annealing(name: str) -> None:
    given = SCHEDULES[name]
    schedule = PerturbationAnnealing(
        start=given["anneal_start"], end=given["anneal_end"], end_ratio=given["end_ratio"]
    )
    full = Perturbation(alpha=given["alpha"], delta=given["delta"], beta=0.1)
    for row in given["rows"]:
        epoch, ratio, alpha, delta = (dict(zip(given["columns"], row, strict=True))[k]
                                      for k in ("epoch", "ratio", "alpha", "delta"))  # fmt: skip
        at = schedule.at(epoch, full)
        assert schedule.ratio(epoch) == pytest.approx(ratio, rel=1e-9)
        assert at.alpha == pytest.approx(alpha, rel=1e-9)
        # Where the official neighbourhood is empty its code crashes; ours is the code itself.
        assert at.delta == max(1, delta)
        assert at.beta == full.beta
