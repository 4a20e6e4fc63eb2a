"""Latent perturbation and neighbour tables: any shape of codes, any split of the items."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tok_core import neighbour_table as table_module
from tok_core.codebook import Codebook
from tok_core.errors import ConfigError, TokenError
from tok_core.item_selection import chosen_items
from tok_core.latent_perturbation import (
    Draws,
    Perturbation,
    PerturbationAnnealing,
    perturb,
    sample_draws,
)
from tok_core.neighbour_table import nearest_neighbours, neighbour_table, neighbour_tables
from tok_core.token_spec import Axis, TokenSpec


def axis(name: str, size: int | None = None, minimum: int = 1) -> Axis:
    return Axis(name=name, size=size, minimum=minimum)


def levels(count: int) -> Codebook:
    return Codebook(torch.linspace(-1, 1, count)[:, None], "l2")


def table_of(count: int, width: int, seed: int = 0, metric: str = "l2") -> Codebook:
    generator = torch.Generator().manual_seed(seed)
    return Codebook(torch.randn(count, width, generator=generator), metric)


def binary(bits: int) -> Codebook:
    words = torch.arange(2**bits)[:, None] >> torch.arange(bits) & 1
    return Codebook(words.float() * 2 - 1, "l2")


# spec, codebooks and the sizes of the codes: one of each kind the contract knows.
KINDS: dict[str, tuple[TokenSpec, list[Codebook], tuple[int, ...]]] = {
    "1d": (
        TokenSpec(modality="image", axes=(axis("token", 12),), vocabulary=(40,)),
        [table_of(40, 4, metric="cosine")], (12,),
    ),
    "grid": (
        TokenSpec(modality="image", axes=(axis("row"), axis("column")), vocabulary=(40,)),
        [table_of(40, 4)], (3, 5),
    ),
    "dimension": (
        TokenSpec(modality="image", vocabulary=(8, 5, 5),
                  axes=(axis("row", 3), axis("column", 4), axis("dimension", 3))),
        [levels(8), levels(5), levels(5)], (3, 4, 3),
    ),
    "branch": (
        TokenSpec(modality="image", vocabulary=(30, 20),
                  axes=(axis("branch", 2), axis("row", 3), axis("column", 3))),
        [table_of(30, 4, 1), table_of(20, 4, 2)], (2, 3, 3),
    ),
    "scales of branches": (
        TokenSpec(modality="image", vocabulary=(30, 30), scales=((1, 1), (2, 2), (3, 3)),
                  axes=(axis("branch", 2), axis("scale_token", 14))),
        [table_of(30, 4, 1), table_of(30, 4, 2)], (2, 14),
    ),
    "residual": (
        TokenSpec(modality="audio", vocabulary=(16, 16, 16), token_rate=50.0,
                  axes=(axis("level", 3, 1), axis("time"))),
        [table_of(16, 4, seed) for seed in range(3)], (3, 20),
    ),
    "binary": (
        TokenSpec(modality="image", axes=(axis("token", 10),), vocabulary=(64,)),
        [binary(6)], (10,),
    ),
}  # fmt: skip


def clean_codes(kind: str, batch: int = 4) -> Tensor:
    spec, _, sizes = KINDS[kind]
    generator = torch.Generator().manual_seed(5)
    length = spec.to_sequence(torch.zeros(1, *sizes, dtype=torch.int64)).shape[1]
    parts = [torch.randint(k, (batch, length), generator=generator) for k in spec.vocabulary]
    return spec.from_sequence(torch.stack(parts, -1), sizes)


def run(kind: str, codes: Tensor, setting: Perturbation, indices: Any = None) -> Any:
    spec, books, _ = KINDS[kind]
    length = spec.to_sequence(codes).shape[1]
    draws = sample_draws(3, indices or range(len(codes)), length, spec.factors)
    return perturb(codes, spec, neighbour_tables(books, 64), setting, draws)


# -- tables --------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("blocks", [(64, 8192), (7, 11)])
def test_a_table_equals_sorted_distances(
    metric: str, blocks: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_module, "_ROWS", blocks[0])
    monkeypatch.setattr(table_module, "_COLUMNS", blocks[1])
    book = table_of(90, 6, metric=metric)
    points = book.vectors.double()
    if metric == "cosine":
        points = torch.nn.functional.normalize(points, dim=-1)
    distances = (points[:, None] - points[None]).square().sum(-1)
    assert torch.equal(neighbour_table(book, 25), distances.argsort(1)[:, :25])


def test_equals_are_taken_in_order_and_every_code_comes_first_for_itself() -> None:
    twins = Codebook(torch.tensor([[0.0], [1.0], [0.0], [-1.0]]), "l2")
    assert neighbour_table(twins, 4).tolist() == [
        [0, 2, 1, 3], [1, 0, 2, 3], [2, 0, 1, 3], [3, 0, 2, 1],
    ]  # fmt: skip
    near = neighbour_table(binary(6), 7)
    flips = torch.arange(64)[:, None] ^ (1 << torch.arange(6))
    assert torch.equal(near[:, 0], torch.arange(64))
    assert torch.equal(near[:, 1:], flips.sort(1).values)


def test_scalar_neighbours_are_the_nearest_levels() -> None:
    # Nine levels are exact in binary, so both sides are equally far.
    assert neighbour_table(levels(9), 3).tolist()[3] == [3, 2, 4]
    assert neighbour_table(levels(9), 3).tolist()[0] == [0, 1, 2]
    assert {*neighbour_table(levels(8), 3).tolist()[3]} == {2, 3, 4}


def test_delta_is_clipped_and_checked() -> None:
    assert neighbour_table(levels(5), 360).shape == (5, 5)
    with pytest.raises(ConfigError, match="at least 1"):
        neighbour_table(levels(5), 0)
    with pytest.raises(ConfigError, match="not finite"):
        neighbour_table(Codebook(torch.tensor([[0.0], [float("nan")]]), "l2"), 2)
    with pytest.raises(ConfigError, match="width"):
        nearest_neighbours(torch.zeros(2, 3), levels(5), 2)


def test_equal_codebooks_share_one_table() -> None:
    a, b, c = neighbour_tables([levels(5), levels(5), levels(7)], 3)
    assert a is b
    assert len(c) == 7


def test_a_latent_finds_the_same_in_any_company() -> None:
    book, z = table_of(50, 6, metric="cosine"), torch.randn(9, 6)
    together = nearest_neighbours(z, book, 10)
    for row in range(9):
        assert torch.equal(nearest_neighbours(z[row : row + 1], book, 10)[0], together[row])


# -- perturbation --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_codes(kind: str) -> None:
    spec, books, _ = KINDS[kind]
    codes = clean_codes(kind)
    found = run(kind, codes, Perturbation(alpha=0.7, delta=4))
    spec.check(found.codes)
    assert torch.equal(found.changed, found.codes != codes)
    assert bool(found.changed.any())
    before, after = spec.to_sequence(codes), spec.to_sequence(found.codes)
    for factor, book in enumerate(books):
        near = neighbour_table(book, 4)[before[..., factor]]
        assert bool((near == after[..., factor, None]).any(-1).all())
        assert bool((before[..., factor] != after[..., factor]).any())


@pytest.mark.parametrize("kind", KINDS)
def test_items_do_not_depend_on_their_company(kind: str) -> None:
    """One process with all items, two with every other one, three batches: the same codes."""
    codes = clean_codes(kind, 6)
    setting = Perturbation(alpha=0.6, delta=5, beta=0.5)
    whole = run(kind, codes, setting).codes
    for rank in range(2):
        mine = list(range(rank, 6, 2))
        assert torch.equal(run(kind, codes[mine], setting, mine).codes, whole[mine])
    assert bool((whole != codes).flatten(1).any(1).any())


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_changes_without_alpha_delta_or_beta(kind: str) -> None:
    codes = clean_codes(kind)
    for setting in (
        Perturbation(alpha=0.0, delta=9), Perturbation(alpha=1.0, delta=1),
        Perturbation(alpha=1.0, delta=9, beta=0.0),
    ):  # fmt: skip
        assert not bool(run(kind, codes, setting).changed.any())


@settings(max_examples=20, deadline=None)
@given(alpha=st.floats(0, 1), delta=st.integers(1, 40))
def test_the_share_of_changes(alpha: float, delta: int) -> None:
    """alpha (1 - 1 / delta), as the paper's rule says."""
    spec, books, _ = KINDS["grid"]
    codes = torch.zeros(1, 100, 100, dtype=torch.int64)
    draws = sample_draws(0, [7], 10_000, 1)
    setting = Perturbation(alpha=alpha, delta=delta)
    found = perturb(codes, spec, neighbour_tables(books, 40), setting, draws)
    expected = alpha * (1 - 1 / delta)
    assert float(found.changed.float().mean()) == pytest.approx(expected, abs=0.025)


def test_beta_is_the_share_of_items() -> None:
    codes = clean_codes("1d").repeat(100, 1)
    found = run("1d", codes, Perturbation(alpha=1.0, delta=40, beta=0.3))
    assert float(found.changed.any(1).float().mean()) == pytest.approx(0.3, abs=0.07)


def test_a_larger_alpha_changes_the_same_tokens_and_more() -> None:
    codes = clean_codes("1d", 16)
    little = run("1d", codes, Perturbation(alpha=0.3, delta=9)).changed
    much = run("1d", codes, Perturbation(alpha=0.8, delta=9)).changed
    assert bool((much | ~little).all())
    assert int(much.sum()) > int(little.sum())


def test_longer_and_deeper_items_begin_with_the_same_draws() -> None:
    short, long = sample_draws(1, [4, 9], 5, 3), sample_draws(1, [9, 4], 8, 3)
    assert torch.equal(short.chance, long.chance[[1, 0], :5])
    assert torch.equal(short.place, long.place[[1, 0], :5])
    other = sample_draws(2, [4, 9], 5, 3)
    assert not bool((other.chance == short.chance).any())
    # A prefix of the levels is perturbed as it is inside all of them.
    codes = clean_codes("residual")
    setting = Perturbation(alpha=0.7, delta=6)
    whole = run("residual", codes, setting).codes
    assert torch.equal(run("residual", codes[:, :2], setting).codes, whole[:, :2])


def test_padding_stays() -> None:
    spec, books, _ = KINDS["residual"]
    codes, lengths = clean_codes("residual", 3), torch.tensor([20, 1, 7])
    draws = sample_draws(0, range(3), 20, 3)
    setting = Perturbation(alpha=1.0, delta=16)
    tables = neighbour_tables(books, 16)
    found = perturb(codes, spec, tables, setting, draws, lengths=lengths)
    for row, length in enumerate(lengths.tolist()):
        assert not bool(found.changed[row, :, length:].any())
    assert bool(found.changed[0, :, 7:].any())


def test_tables_and_draws_must_fit() -> None:
    spec, books, _ = KINDS["branch"]
    codes = clean_codes("branch")
    tables, draws = neighbour_tables(books, 4), sample_draws(0, range(4), 9, 2)
    setting = Perturbation(alpha=0.5, delta=4)
    with pytest.raises(TokenError, match="neighbour tables"):
        perturb(codes, spec, tables[:1], setting, draws)
    with pytest.raises(TokenError, match="draws"):
        perturb(codes, spec, tables, setting, Draws(draws.item, *(d[:, :4] for d in draws[1:])))


@pytest.mark.parametrize(
    "wrong", [{"alpha": 1.1}, {"beta": -0.1}, {"delta": 0}, {"neighbourhood": "codes"}]
)
def test_settings_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=str(next(iter(wrong.values())))):
        Perturbation(**{"alpha": 0.5, "delta": 2} | wrong)


def test_the_released_choice_truncates() -> None:
    assert chosen_items(128, 0.1, "first").sum() == 12
    assert chosen_items(9, 0.1, "first").sum() == 0
    assert chosen_items(4, 0.75, "first").tolist() == [True, True, True, False]


def test_the_other_choice_is_by_chance() -> None:
    torch.manual_seed(0)
    assert chosen_items(9, 0.0, "bernoulli").sum() == 0
    assert chosen_items(9, 1.0, "bernoulli").all()
    assert 400 < int(chosen_items(1000, 0.5, "bernoulli").sum()) < 600


def test_continuous_annealing_arrives_where_it_says() -> None:
    full = Perturbation(alpha=1.0, delta=100)
    smooth = PerturbationAnnealing(start=10, end=20, end_ratio=0.25, continuous=True)
    official = PerturbationAnnealing(start=10, end=20, end_ratio=0.25)
    assert [smooth.ratio(e) for e in (0, 10, 20, 21)] == [1.0, 1.0, 0.25, 0.25]
    assert [official.ratio(e) for e in (10, 20, 21)] == [1.0, 0.75, 0.25]
    assert PerturbationAnnealing(start=0, end=4, end_ratio=0.0).at(9, full).delta == 1
