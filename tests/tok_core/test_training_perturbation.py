"""Latent perturbation in training: choice, draws, neighbours, gradients, schedule, mistakes."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.tiny_training import TinyTokenizer, tiny_engine, tiny_hybrid
from tok_core.code_search import CodeSearch
from tok_core.codebook import Codebook
from tok_core.contract import Tokenizer
from tok_core.dual_codebook import DualCodebook
from tok_core.errors import ConfigError
from tok_core.latent_perturbation import Perturbation, replace_latents
from tok_core.multi_scale_quantizer import MultiScaleQuantizer
from tok_core.neighbour_table import nearest_neighbours, neighbour_table
from tok_core.perturbation_config import AnnealingConfig, PerturbationConfig
from tok_core.product_quantizer import ProductQuantizer
from tok_core.quantizer_dropout import Dropped
from tok_core.residual_quantizer import ResidualQuantizer
from tok_core.run_config import load_config, to_yaml
from tok_core.training.checkpoint import checkpoints
from tok_core.training.engine import EngineConfig
from tok_core.training_perturbation import (
    CLEAN_LATENTS,
    PERTURBED_CODES,
    TrainingDraws,
    TrainingPerturbation,
    attach_perturbation,
    decoder_latents,
    replaced_codes,
)
from tok_core.vector_quantizer import Quantized, VectorQuantizer

CODES, DIM = 24, 4
SCALES = [1, 2, 4]
ON = ("perturbation.alpha=1.0", "perturbation.beta=0.5", "perturbation.delta=8")


class Bare(Tokenizer):
    """A tokenizer that is nothing but its quantizer."""

    def __init__(self, quantizer: nn.Module, books: list[Codebook]) -> None:
        super().__init__()
        self.quantizer, self.books = quantizer, books

    @property
    def codebooks(self) -> tuple[Codebook, ...]:
        return tuple(self.books)


def normal(quantizer: Any, std: float = 1.0) -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in quantizer.parameters():
            parameter.normal_(std=std)
    return quantizer


def rows(batch: int = 4, length: int = 6, dim: int = DIM) -> Tensor:
    return torch.randn(batch, length, dim, generator=torch.Generator().manual_seed(1))


def grid(batch: int = 4, dim: int = DIM) -> Tensor:
    return torch.randn(batch, dim, 4, 4, generator=torch.Generator().manual_seed(1))


def vector(**options: Any) -> tuple[VectorQuantizer, list[Codebook], Tensor]:
    quantizer = normal(VectorQuantizer(CODES, DIM, **options))
    metric = "cosine" if quantizer.l2_normalize else "l2"
    return quantizer, [Codebook(quantizer.vectors, metric)], rows()


def residual(**options: Any) -> tuple[ResidualQuantizer, list[Codebook], Tensor]:
    quantizer = normal(ResidualQuantizer(3, CODES, DIM, **options))
    books = [Codebook(quantizer.level(i).vectors, "l2") for i in range(3)]
    return quantizer, books, rows()


def scaled(**options: Any) -> tuple[MultiScaleQuantizer, list[Codebook], Tensor]:
    quantizer = normal(MultiScaleQuantizer(CODES, DIM, SCALES, **options), 0.5)
    return quantizer, [Codebook(quantizer.vectors, quantizer.metric)], grid()


def dual(**options: Any) -> tuple[DualCodebook, list[Codebook], dict[str, Tensor]]:
    dims = {"semantic": DIM, "pixel": 2}
    quantizer = normal(DualCodebook(CODES, dims, scales=SCALES, weights={"pixel": 0.3}, **options))
    z = {"semantic": grid(), "pixel": grid(dim=2)}
    return quantizer, [Codebook(quantizer.vectors, "l2")], z


def product(**options: Any) -> tuple[ProductQuantizer, list[Codebook], Tensor]:
    branches = [normal(MultiScaleQuantizer(size, DIM, SCALES), 0.5) for size in (CODES, CODES + 5)]
    quantizer = ProductQuantizer(branches, **options)
    return quantizer, list(quantizer.codebooks), torch.stack((grid(), -grid()), 1)


def branches_of_vectors() -> tuple[ProductQuantizer, list[Codebook], Tensor]:
    plain = [normal(VectorQuantizer(CODES, DIM, straight_through=False)) for _ in range(2)]
    quantizer = ProductQuantizer(plain)
    return quantizer, list(quantizer.codebooks), torch.stack((grid(), -grid()), 1)


KINDS = {
    "vector": vector, "unit vectors": lambda: vector(l2_normalize=True),
    "residual": residual, "scales": scaled, "unit scales": lambda: scaled(cosine=True),
    "dual": dual, "product": product, "branches": branches_of_vectors,
}  # fmt: skip


def strength(**options: Any) -> Perturbation:
    return Perturbation(**{"alpha": 1.0, "delta": 5, "neighbourhood": "latent"} | options)


def draws_of(codes: Tensor, delta: int = 5, seed: int = 3) -> TrainingDraws:
    generator = torch.Generator().manual_seed(seed)
    items = torch.arange(len(codes)) != 1
    chance = torch.rand(codes.shape, generator=generator)
    return TrainingDraws(items, chance, torch.randint(delta, codes.shape, generator=generator))


# -- which codes are replaced by which -------------------------------------------------------------


@pytest.mark.parametrize("neighbourhood", ["latent", "code"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_code_becomes_the_neighbour_of_its_rank(kind: str, neighbourhood: str) -> None:
    quantizer, books, z = KINDS[kind]()
    out: Quantized = quantizer.train()(z)
    codes, draws = out.codes, draws_of(out.codes)
    assert out.searches
    setting = strength(alpha=0.6, neighbourhood=neighbourhood)
    new = replaced_codes(codes, out.searches, books, setting, draws)
    flat, places = codes.flatten(1), []
    expected = flat.clone()
    for search in out.searches:
        at, book = list(search.places), books[search.factor]
        seen = search.rows.reshape(len(codes), len(at), -1)
        near = nearest_neighbours(seen, book, 5)
        # What a search reports leads to the codes that the quantizer chose.
        assert torch.equal(near[..., 0], flat[:, at])
        if neighbourhood == "code":
            near = neighbour_table(book, 5)[flat[:, at]]
        rank = draws.rank.flatten(1)[:, at]
        expected[:, at] = near.gather(-1, rank[..., None])[..., 0]
        places += at
    assert sorted(places) == list(range(flat.shape[1]))
    hit = (draws.chance <= 0.6).flatten(1) & draws.items[:, None]
    assert torch.equal(new.flatten(1), torch.where(hit, expected, flat))
    assert torch.equal(new[1], codes[1]) and not torch.equal(new[0], codes[0])


@pytest.mark.parametrize("kind", KINDS)
def test_latents_are_those_of_the_new_codes(kind: str) -> None:
    quantizer, books, z = KINDS[kind]()
    out: Quantized = quantizer.train()(z)
    assert out.searches is not None
    new = replaced_codes(out.codes, out.searches, books, strength(), draws_of(out.codes))
    moved = replace_latents(out.latents, out.codes, new, quantizer.lookup, straight=out.straight)
    assert torch.equal(moved[1], out.latents[1])
    torch.testing.assert_close(moved, quantizer.lookup(new), atol=1e-5, rtol=1e-5)


def test_nothing_drawn_gives_the_very_codes() -> None:
    quantizer, books, z = vector()
    out = quantizer(z)
    none = draws_of(out.codes)._replace(items=torch.zeros(len(z), dtype=torch.bool))
    assert replaced_codes(out.codes, out.searches, books, strength(), none) is out.codes


def test_latents_that_are_not_finite_are_left_to_the_loss() -> None:
    quantizer, books, z = vector()
    out = quantizer(z)
    broken = [CodeSearch(torch.full_like(z, float("nan")), 0, range(z.shape[1]))]
    same = replaced_codes(out.codes, broken, books, strength(), draws_of(out.codes))
    assert torch.equal(same, out.codes)


def test_a_dropped_scale_is_not_perturbed() -> None:
    quantizer, books, z = dual()
    out = quantizer.train()(z, drop=1)
    new = replaced_codes(out.codes, out.searches, books, strength(), draws_of(out.codes))
    _, dropped, fine = quantizer.scales.split(new != out.codes)
    assert not bool(dropped.any()) and bool(fine.any())
    moved = replace_latents(out.latents, out.codes, new, quantizer.lookup)
    assert torch.equal(moved[1], out.latents[1])
    assert (moved - out.latents)[0].abs().max() > 0.1


def test_quantizer_dropout_keeps_its_scales_out() -> None:
    quantizer, books, z = product()
    depths = torch.tensor([3, 3, 1, 3])
    out = quantizer.train()(z, dropped=Dropped(items=depths < 3, depths=depths))
    new = replaced_codes(out.codes, out.searches, books, strength(), draws_of(out.codes))
    assert bool((new != out.codes)[0, :, 5:].any()) and bool((new != out.codes)[2, :, :1].any())
    assert torch.equal(new[2, :, 1:], out.codes[2, :, 1:])


# -- gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize("straight_through", [True, False])
@pytest.mark.parametrize("make", [vector, residual])
def test_replaced_codes_pass_gradients_to_latents_alone(make: Any, straight_through: bool) -> None:
    quantizer, books, z = make(straight_through=straight_through)
    z = z.requires_grad_()
    out = quantizer.train()(z)
    new = replaced_codes(out.codes, out.searches, books, strength(), draws_of(out.codes))
    moved = replace_latents(out.latents, out.codes, new, quantizer.lookup, straight=out.straight)
    weight = torch.randn_like(moved)
    chosen = torch.tensor([0, 2, 3])
    (moved * weight)[chosen].sum().backward()
    assert z.grad is not None
    torch.testing.assert_close(z.grad[chosen], weight[chosen])
    assert all(p.grad is None or not bool(p.grad.any()) for p in quantizer.parameters())


# -- the object a tokenizer holds ------------------------------------------------------------------


def holder(make: Any = vector, **options: Any) -> tuple[Bare, Tensor]:
    quantizer, books, z = make()
    model = Bare(quantizer, books)
    attach_perturbation(model, PerturbationConfig(**{"delta": 5, "beta": 0.5} | options))
    return model.train(), z


def test_draws_are_the_official_ones() -> None:
    """A chance for every token of the whole batch, then an integer rank for each."""
    perturbation = TrainingPerturbation(PerturbationConfig(beta=0.5, delta=7))
    codes = torch.zeros(5, 3, 2, dtype=torch.int64)
    torch.manual_seed(4)
    draws = perturbation.draw(codes, perturbation.setting)
    torch.manual_seed(4)
    assert torch.equal(draws.chance, torch.rand(codes.shape))
    assert torch.equal(draws.rank, torch.randint(7, codes.shape))
    assert draws.items.tolist() == [True, True, False, False, False]


def test_bernoulli_chooses_each_item_for_itself() -> None:
    perturbation = TrainingPerturbation(PerturbationConfig(beta=0.3, selection="bernoulli"))
    torch.manual_seed(0)
    draws = perturbation.draw(torch.zeros(4000, 1, dtype=torch.int64), perturbation.setting)
    assert 0.27 < draws.items.float().mean() < 0.33
    assert not bool(draws.items[:1000].all())


def test_only_training_perturbs_and_says_what_it_did() -> None:
    model, z = holder()
    out = model.quantizer(z)
    heard = decoder_latents(model, out, model.quantizer.lookup)
    changed = heard.features[PERTURBED_CODES] != out.codes
    assert torch.equal(heard.features[CLEAN_LATENTS], out.latents)
    assert bool(changed[:2].any()) and not bool(changed[2:].any())
    assert float(heard.statistics["perturbation/changed"]) == pytest.approx(
        float(changed.float().mean())
    )
    still = decoder_latents(model.eval(), out, model.quantizer.lookup)
    assert still.latents is out.latents and not still.features
    assert "perturbation/changed" not in still.statistics


def test_latents_that_pass_unquantized_are_left_alone() -> None:
    for make in (vector, residual):
        model, z = holder(lambda make=make: make(quantize_after_steps=1))
        out = model.quantizer(z)
        assert out.searches == ()
        assert decoder_latents(model, out, model.quantizer.lookup).latents is out.latents
        out = model.quantizer(z)
        assert decoder_latents(model, out, model.quantizer.lookup).latents is not out.latents


def test_frozen_codes_can_be_perturbed() -> None:
    model, z = holder()
    model.quantizer.eval()
    with torch.no_grad():
        out = model.quantizer(z)
    assert decoder_latents(model, out, model.quantizer.lookup).features


def test_a_batch_too_small_is_said_once() -> None:
    model, z = holder(beta=0.1)
    out = model.quantizer(z)
    with pytest.warns(UserWarning, match=r"int\(4 \* 0.1\) is 0.*at least 0.25.*at least 10"):
        assert decoder_latents(model, out, model.quantizer.lookup).latents is out.latents
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoder_latents(model, out, model.quantizer.lookup)
    assert model.perturbation is not None and len(model.perturbation.remarks) == 1


def test_annealing_counts_steps_or_epochs() -> None:
    steps = AnnealingConfig(start=10, end=20, end_ratio=0.5)
    epochs = AnnealingConfig(start=1, end=3, end_ratio=0.25, epoch_steps=10)
    smooth = AnnealingConfig(start=1, end=3, end_ratio=0.25, epoch_steps=10, continuous=True)
    expected = {
        steps: {0: 100, 10: 100, 15: 75, 20: 50, 99: 50},
        epochs: {0: 100, 19: 100, 20: 87, 29: 87, 30: 75, 39: 75, 40: 25},
        smooth: {0: 100, 20: 62, 30: 25, 40: 25},
    }  # fmt: skip
    for annealing, deltas in expected.items():
        perturbation = TrainingPerturbation(PerturbationConfig(annealing=annealing))
        for step, delta in deltas.items():
            perturbation.step = step
            assert perturbation.setting.delta == delta
            assert int(perturbation.setting.alpha * 100) == delta


# -- in a run --------------------------------------------------------------------------------------


def logged(folder: Path, name: str) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def test_a_run_perturbs_anneals_and_resumes_exactly(tmp_path: Path) -> None:
    options = (
        *ON, "perturbation.neighbourhood=code", "train.steps=6", "log.validate_every=0",
        "log.pictures_every=0", "perturbation.annealing={start: 2, end: 4}",
    )  # fmt: skip

    def run(name: str, *more: str, **how: bool) -> None:
        torch.manual_seed(0)
        tiny_engine(tmp_path / name, *options, *more, model=tiny_hybrid(0)).run(**how)

    run("whole")
    assert all(0.1 < share <= 0.5 for share in logged(tmp_path / "whole", "perturbation/changed"))
    assert logged(tmp_path / "whole", "perturbation/delta") == [8, 8, 8, 6, 4, 4]
    assert "perturbation" not in (tmp_path / "whole" / "model" / "config.json").read_text()
    run("cut", "train.steps=3")
    run("cut", resume=True)
    one, other = (checkpoints(tmp_path / n / "checkpoints")[-1] for n in ("whole", "cut"))
    for file in ("model.safetensors", "optimizer.safetensors"):
        assert (one / file).read_bytes() == (other / file).read_bytes()


def test_a_tokenizer_that_does_not_perturb_is_named(tmp_path: Path) -> None:
    class Deaf(TinyTokenizer):
        @property
        def codebooks(self) -> tuple[Codebook, ...]:
            return (Codebook(self.quantizer.vectors, "l2"),)

    with pytest.raises(ConfigError, match="Deaf does not perturb its codes"):
        tiny_engine(tmp_path, *ON, model=Deaf()).run()


# -- mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{alpha: 1.5}", "alpha is 1.5; it must lie in 0 to 1"),
        ("{beta: -0.1}", "beta is -0.1; it must lie in 0 to 1"),
        ("{delta: 0}", "delta is 0; give at least 1"),
        ("{neighbourhood: codes}", "did you mean 'code'"),
        ("{selection: bernouli}", "did you mean 'bernoulli'"),
        ("{alhpa: 1.0}", "did you mean 'alpha'"),
        ("{beta: 0.2}", "train.batch_size 4 rounds down to no item; give a beta of at least 0.25 "
                        "or a batch of at least 5 per process, or set perturbation.selection"),
        ("{beta: 1.0, annealing: {start: 5, end: 2}}", "legal are 0 <= start <= end"),
        ("{beta: 1.0, annealing: {start: 5, end: 9, epoch_steps: 0}}", "epoch_steps"),
    ],
)  # fmt: skip
def test_mistakes_are_refused_when_the_config_is_read(line: str, sentence: str) -> None:
    overrides = ["train.steps=1", "train.batch_size=4", f"perturbation={line}"]
    with pytest.raises(ConfigError, match=sentence):
        load_config(EngineConfig, None, overrides)


def test_legal_lines_are_read() -> None:
    for line in ("{}", "{beta: 0}", "{beta: 0.2, selection: bernoulli}", "{beta: 0.25}"):
        size = 16 if line == "{}" else 4
        overrides = ["train.steps=1", f"train.batch_size={size}", f"perturbation={line}"]
        config = load_config(EngineConfig, None, overrides)
        assert config.perturbation is not None and config.perturbation.delta == 100
        assert "delta: 100" in to_yaml(config)


def test_more_neighbours_than_codes_are_refused() -> None:
    quantizer, books, _ = product()
    with pytest.raises(ConfigError, match=f"delta is 25 .* has {CODES} codes; give 1 to {CODES}"):
        attach_perturbation(Bare(quantizer, books), PerturbationConfig(delta=25))


def test_a_model_without_codes_is_refused() -> None:
    with pytest.raises(ConfigError, match="Linear has no codes to perturb"):
        attach_perturbation(nn.Linear(1, 1), PerturbationConfig())


def test_a_quantizer_that_does_not_tell_is_refused() -> None:
    model, z = holder()
    out = model.quantizer(z)._replace(searches=None)
    with pytest.raises(ConfigError, match="does not tell what it compared"):
        decoder_latents(model, out, model.quantizer.lookup)


def test_unit_codes_stay_on_the_sphere() -> None:
    quantizer, books, z = vector(l2_normalize=True)
    out = quantizer.train()(z)
    new = replaced_codes(out.codes, out.searches, books, strength(), draws_of(out.codes))
    moved = replace_latents(out.latents, out.codes, new, quantizer.lookup)
    torch.testing.assert_close(moved, F.normalize(moved, dim=-1))
