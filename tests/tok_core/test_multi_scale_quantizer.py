"""VAR's quantizer: the loop, prefixes, any grid, options, memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from tok_core.codebook import Codebook
from tok_core.errors import ConfigError, TokenError
from tok_core.full_float32 import full_float32_convolutions
from tok_core.latent_perturbation import Perturbation, perturb, replace_latents, sample_draws
from tok_core.multi_scale_quantizer import MultiScaleQuantizer
from tok_core.neighbour_table import neighbour_tables
from tok_core.phi_residual import shared_index
from tok_core.residual_quantizer import ResidualQuantizer
from tok_core.token_spec import Axis, TokenSpec

DIM, CODES = 4, 32
SCALES = [1, 2, 3, 5]


def make(scales: Any = SCALES, size: int = CODES, **options: Any) -> MultiScaleQuantizer:
    torch.manual_seed(0)
    quantizer = MultiScaleQuantizer(size, DIM, scales, **options)
    with torch.no_grad():
        quantizer.codebook.normal_()
    return quantizer.eval()


def latents(h: int = 5, w: int = 5, batch: int = 3) -> Tensor:
    return torch.randn(batch, DIM, h, w, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("grid", [(5, 5), (5, 8), (3, 2)])
def test_every_scale_quantizes_what_is_left(grid: tuple[int, int], cosine: bool) -> None:
    quantizer, z = make(cosine=cosine), latents(*grid)
    out, scales = quantizer(z), quantizer.scales_for(grid)
    assert scales.grid == grid
    left, sums = z, list(quantizer.cumulative(out.codes, size=grid))
    for k, codes in enumerate(scales.split(out.codes)):
        pooled = F.adaptive_avg_pool2d(left, scales.sizes[k])
        table, rows = quantizer.codebook, pooled.movedim(1, -1)
        if cosine:
            best = (F.normalize(rows, dim=-1) @ F.normalize(table, dim=-1).t()).argmax(-1)
        else:
            best = (rows[..., None, :] - table).square().sum(-1).argmin(-1)
        assert torch.equal(best, codes)
        full = F.interpolate(table[codes].movedim(-1, 1), size=grid, mode="bicubic")
        conv = quantizer.phi[shared_index(k, len(scales), 4)]
        left = left - (0.5 * full + 0.5 * conv(full))
        assert torch.allclose(sums[k], z - left, atol=1e-5)
    assert torch.allclose(out.latents, sums[-1], atol=1e-5)
    assert torch.equal(quantizer.encode(z), out.codes)


def test_any_prefix_of_whole_scales_is_a_coarser_latent() -> None:
    quantizer = make()
    codes = quantizer.encode(latents())
    sums = list(quantizer.cumulative(codes))
    for k, end in enumerate(quantizer.scales.offsets[1:]):
        assert torch.equal(quantizer.lookup(codes[:, :end]), sums[k])
        assert torch.equal(quantizer.lookup(codes, k + 1), sums[k])
    with pytest.raises(TokenError, match="6 tokens came in"):
        quantizer.lookup(codes[:, :6])
    with pytest.raises(TokenError, match="from 1 to 2"):
        quantizer.lookup(codes[:, :5], upto=3)
    with pytest.raises(TokenError, match="codes from 0 to 32"):
        quantizer.lookup(torch.tensor([[0, 32, 0, 0, 0]]))


def test_equal_scales_without_phi_are_a_residual_quantizer() -> None:
    quantizer, plain = make([3, 3], phi_convs=0), ResidualQuantizer(2, CODES, DIM)
    with torch.no_grad():
        for level in plain.levels:
            level.codebook.copy_(quantizer.codebook)
    z = latents(3, 3)
    codes = plain.encode(z.flatten(2).transpose(1, 2))
    assert torch.equal(quantizer.encode(z), codes.transpose(1, 2).flatten(1))


def test_sequences_are_grids_of_one_row() -> None:
    quantizer = make([[1, 2], [1, 6]])
    z = torch.randn(2, 9, DIM)
    out = quantizer(z)
    assert out.latents.shape == z.shape and out.codes.shape == (2, 3 + 9)
    assert torch.allclose(quantizer.lookup(out.codes, size=9), out.latents, atol=1e-6)
    assert torch.equal(quantizer.encode(z.transpose(1, 2)[:, :, None]), out.codes)


def test_gradients_and_losses() -> None:
    quantizer, z = make(), latents().requires_grad_()
    out = quantizer.train()(z)
    upstream = torch.randn(z.shape)
    (decoder,) = torch.autograd.grad((out.latents * upstream).sum(), z, retain_graph=True)
    assert torch.allclose(decoder, upstream, atol=1e-6)  # straight through, once
    assert not any(
        g is not None
        for g in torch.autograd.grad(
            out.latents.sum(), list(quantizer.parameters()), retain_graph=True, allow_unused=True
        )
    )
    sums = list(quantizer.cumulative(out.codes))
    expected = torch.stack([(s - z).square().mean() for s in sums]).mean()
    torch.testing.assert_close(out.losses["quantizer/codebook"], expected)
    torch.testing.assert_close(out.losses["quantizer/commitment"], 0.25 * expected)
    sum(out.losses.values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in quantizer.parameters())


def test_few_scales_leave_no_parameter_outside_the_graph() -> None:
    quantizer = make([1, 3]).train()
    assert {shared_index(k, 2, 4) for k in range(2)} == {0, 3}
    sum(quantizer(latents(3, 3)).losses.values()).backward()
    assert all(p.grad is not None for p in quantizer.parameters())
    assert quantizer.phi[1].weight.grad.abs().sum() == 0


@pytest.mark.parametrize(
    ("scales", "shared", "expected"),
    # Of ten scales two lie midway between ticks, and float64 decides: VAR's models were so trained.
    [(10, 4, [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]), (3, 1, [0, 0, 0]), (5, 5, [0, 1, 2, 3, 4]),
     (1, 4, [0])],
)
def test_shared_convolutions(scales: int, shared: int, expected: list[int]) -> None:
    assert [shared_index(k, scales, shared) for k in range(scales)] == expected


def test_training_revives_codes() -> None:
    z = latents(batch=8)
    started = make(kmeans_start=True).train()
    before = started.codebook.clone()
    started(z)
    assert not torch.equal(started.codebook, before)
    placed = started.codebook.clone()
    started(z)
    assert torch.equal(started.codebook, placed)  # once

    restarted = make(dead_code_every=2).train()
    with torch.no_grad():
        restarted.codebook[5:] = 1e3  # nothing chooses these
    assert restarted(z).statistics["codebook/usage"] <= 5 / CODES
    assert (restarted.codebook[5:] == 1e3).all()
    restarted(z)
    assert restarted.codebook.abs().max() < 1e2
    assert restarted(z).statistics["codebook/usage"] > 0.5


@pytest.mark.parametrize("frozen", ["eval", "no gradient"])
def test_nothing_moves_outside_training(frozen: str) -> None:
    quantizer = make(kmeans_start=True, dead_code_every=1, average_usage=True)
    if frozen == "no gradient":
        quantizer.train()
        quantizer.codebook.requires_grad_(False)
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    for _ in range(2):
        quantizer(latents())
    for name, value in quantizer.state_dict().items():
        if frozen == "eval" or not name.startswith("average."):
            assert torch.equal(value, before[name]), name


def test_average_usage_is_of_many_batches() -> None:
    quantizer = make(average_usage=True).train()
    for seed in range(3):
        out = quantizer(latents(batch=2 + seed))
    names = [f"codebook/average_usage/scale{k}" for k in range(len(SCALES))]
    assert [out.statistics[name].dim() for name in names] == [0] * len(SCALES)
    assert quantizer.average.updates == 3 and 0 < out.statistics[names[-1]] <= 1
    quantizer.scales_for((5, 5))
    hits = quantizer.average.hits.clone()
    single = MultiScaleQuantizer(CODES, DIM, SCALES, other_scales=[[2, 7]], average_usage=True)
    single.train()(latents(7, 7))
    assert single.average.updates == 0  # two scales are not four
    assert torch.equal(quantizer.average.hits, hits)


def test_precision_of_the_caller_has_no_say() -> None:
    quantizer, z = make(), latents()
    expected = quantizer(z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = quantizer(z)
        assert torch.equal(quantizer.lookup(found.codes), quantizer.lookup(expected.codes))
    assert torch.equal(found.codes, expected.codes)
    assert torch.equal(found.latents, expected.latents)
    half = quantizer(z.bfloat16())
    assert half.latents.dtype == torch.bfloat16
    assert all(loss.dtype == torch.float32 for loss in half.losses.values())


def test_reduced_convolutions_are_lifted_and_put_back() -> None:
    backend = torch.backends.cudnn
    for allowed in (True, False):
        backend.allow_tf32 = allowed
        try:
            with full_float32_convolutions():
                assert not backend.allow_tf32
            assert backend.allow_tf32 is allowed
        finally:
            backend.allow_tf32 = True


def test_memory_is_flat_in_the_codebook() -> None:
    """Four times the codes take no more than the tables' own share more."""

    def largest(size: int) -> int:
        quantizer, z = make([1, 4, 16], size), latents(16, 16, batch=4)
        quantizer.encode(z)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
            quantizer.encode(z)
        return max(event.self_cpu_memory_usage for event in record.events())

    few, many = largest(1 << 12), largest(1 << 14)
    table = 4 * (1 << 14) * (DIM + 1)
    assert many <= few + table
    assert many < 4 * 1024 * (1 << 14) / 8  # an eighth of the finest scale's distances


def test_latent_perturbation_moves_each_scale_and_adds_up() -> None:
    quantizer, z = make(), latents().requires_grad_()
    out = quantizer(z)
    tokens = out.codes.shape[1]
    spec = TokenSpec(
        modality="image", axes=(Axis(name="scale_token", size=tokens),), vocabulary=(CODES,),
        scales=quantizer.scales.sizes,
    )
    tables = neighbour_tables([Codebook(quantizer.vectors, quantizer.metric)], 6)
    draws = sample_draws(0, range(len(z)), tokens, 1)
    new = perturb(out.codes, spec, tables, Perturbation(alpha=1.0, delta=6), draws)
    changed = quantizer.scales.split(new.changed)
    assert all(bool(part.any()) for part in changed[1:]) and not bool(new.changed.all())
    assert (tables[0][out.codes] == new.codes[..., None]).any(-1).all()
    kept = torch.tensor([False, True, False])[:, None]
    codes = torch.where(kept, out.codes, new.codes)
    moved = replace_latents(out.latents, out.codes, codes, quantizer.lookup)
    assert torch.allclose(moved[0], quantizer.lookup(new.codes)[0], atol=1e-5)
    assert torch.equal(moved[1], out.latents[1])
    (gradient,) = torch.autograd.grad(moved.sum(), z)
    assert torch.allclose(gradient, torch.ones_like(z))


def test_illegal_options_are_one_sentence() -> None:
    for options in ({"code_dim": 0}, {"phi_convs": -1}, {"codebook_size": 0}):
        with pytest.raises(ConfigError, match="give at least 1"):
            MultiScaleQuantizer(**{"codebook_size": 4, "code_dim": 2, "scales": [1], **options})
    with pytest.raises(ConfigError, match="dead_code_every is -1"):
        make(dead_code_every=-1)
    with pytest.raises(ConfigError, match=r"legal are\s+\(batch, 4, rows, columns\)"):
        make()(torch.randn(2, 5, 3, 3))
    with pytest.raises(ConfigError, match="has no streams"):
        make().lookup(torch.zeros(1, 1, dtype=torch.int64), stream="pixel")
    with pytest.raises(TokenError, match=r"takes \(batch, tokens\)"):
        make().lookup(torch.zeros(1, 5, 5, dtype=torch.int64))


def test_it_runs_on_meta() -> None:
    with torch.device("meta"):
        out = MultiScaleQuantizer(CODES, DIM, SCALES)(torch.empty(2, DIM, 5, 5))
    assert out.codes.shape == (2, 39) and out.latents.shape == (2, DIM, 5, 5)
