"""Dual codebook: one index over several tables, one or more scales, pictures and sound."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from tok_core.codebook import Codebook
from tok_core.dual_codebook import DualCodebook
from tok_core.errors import ConfigError, TokenError
from tok_core.latent_perturbation import Perturbation, perturb, replace_latents, sample_draws
from tok_core.neighbour_table import neighbour_tables
from tok_core.token_spec import Axis, TokenSpec
from tok_core.vector_quantizer import VectorQuantizer

DIMS = {"semantic": 6, "pixel": 3}
CODES = 24
SCALES = [1, 2, 3, 5]


def make(scales: Any = SCALES, size: int = CODES, dims: Any = DIMS, **options: Any) -> DualCodebook:
    torch.manual_seed(0)
    dual = DualCodebook(size, dims, scales=scales, **options)
    with torch.no_grad():
        for table in dual.tables.values():
            table.mul_(torch.rand(size, 1) + 0.5)  # stored rows need not be unit vectors
    return dual.eval()


def streams(*grid: int, batch: int = 3, dims: Any = DIMS) -> dict[str, Tensor]:
    """Grids (B, D, H, W) for two sizes, sequences (B, F, D) for one."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: 3 * (
            torch.randn(batch, width, *grid, generator=generator) if len(grid) == 2
            else torch.randn(batch, *grid, width, generator=generator)
        )
        for name, width in dims.items()
    }


def unit_rows(dual: DualCodebook, codes: Tensor) -> Tensor:
    return torch.cat([F.normalize(dual.tables[n], dim=1)[codes] for n in dual.dims], -1)


# -- the shared index -----------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [None, {"pixel": 4.0}, {"semantic": 0.1, "pixel": 2.0}])
@pytest.mark.parametrize("dims", [DIMS, {"a": 2}, {"z": 2, "a": 3, "m": 4}])
def test_the_index_minimises_the_weighted_sum(dims: dict[str, int], weights: Any) -> None:
    weights = {n: w for n, w in (weights or {}).items() if n in dims} or None
    dual, x = make([4], dims=dims, weights=weights), streams(4, 4, dims=dims)
    distance = torch.zeros(3, 16, CODES)
    for name, z in x.items():
        unit = F.normalize(z.flatten(2).transpose(1, 2), dim=-1)[:, :, None]
        rows = F.normalize(dual.tables[name], dim=1)
        distance += (weights or {}).get(name, 1.0) * (unit - rows).square().sum(-1)
    codes = dual.encode(x)
    assert torch.equal(codes, distance.argmin(-1))
    out = dual(x)
    assert torch.equal(out.codes, codes)
    assert torch.allclose(out.latents.flatten(2).transpose(1, 2), unit_rows(dual, codes), atol=1e-6)


def test_one_stream_and_one_scale_is_the_vector_quantizer_on_the_sphere() -> None:
    dual = make([4], dims={"only": 5}).train()
    plain = VectorQuantizer(CODES, 5, l2_normalize=True).train()
    with torch.no_grad():
        plain.codebook.copy_(dual.tables["only"])
    z = streams(4, 4, dims={"only": 5})["only"].requires_grad_()
    ours, theirs = dual({"only": z}), plain(z.flatten(2).transpose(1, 2))
    assert torch.equal(ours.codes, theirs.codes)
    assert ours.statistics["codebook/counts"].equal(theirs.statistics["codebook/counts"])
    for name, value in theirs.losses.items():
        torch.testing.assert_close(ours.losses[name], value)
    upstream = torch.randn(3, 5, 4, 4)
    total = (ours.latents * upstream).sum() + sum(ours.losses.values())
    (ours_z,) = torch.autograd.grad(total, z, retain_graph=True)
    rows = upstream.flatten(2).transpose(1, 2)
    total = (theirs.latents * rows).sum() + sum(theirs.losses.values())
    (theirs_z,) = torch.autograd.grad(total, z)
    torch.testing.assert_close(ours_z, theirs_z)


@pytest.mark.parametrize("grid", [(5, 5), (4, 7)])
def test_every_scale_quantizes_what_is_left(grid: tuple[int, int]) -> None:
    dual, x = make(other_scales=[[[1, 2], [4, 7]]]), streams(*grid)
    out, scales = dual(x), dual.scales_for(grid)
    assert len(scales) == (2 if grid == (4, 7) else 4)
    left, total = torch.cat(list(x.values()), 1), 0
    for codes, size in zip(scales.split(out.codes), scales.sizes, strict=True):
        pooled = F.adaptive_avg_pool2d(left, size).movedim(1, -1)
        halves = [F.normalize(part, dim=-1) for part in pooled.split([6, 3], -1)]
        best = (torch.cat(halves, -1) @ dual.vectors.t()).argmax(-1)
        assert torch.equal(best, codes)
        rows = unit_rows(dual, codes).movedim(-1, 1)
        part = F.interpolate(rows, size=grid, mode="bicubic")
        left, total = left - part, total + part
    assert torch.allclose(out.latents, total, atol=1e-5)
    assert torch.allclose(dual.lookup(out.codes, size=grid), total, atol=1e-5)


# -- tokens to latents ----------------------------------------------------------------------------


def test_streams_come_apart_again() -> None:
    dual = make()
    codes = dual.encode(streams(5, 5))
    both = dual.lookup(codes)
    parts = dual.split(both)
    assert list(parts) == ["semantic", "pixel"] and dual.streams == ("semantic", "pixel", "both")
    for name, part in parts.items():
        assert torch.equal(dual.lookup(codes, stream=name), part)
    assert torch.equal(dual.lookup(codes, stream="both"), both)
    with pytest.raises(ConfigError, match="'semantc' is unknown.*did you mean 'semantic'"):
        dual.lookup(codes, stream="semantc")
    assert make(dims={"only": 2}).streams == ("only",)


def test_any_prefix_of_whole_scales_is_a_coarser_latent() -> None:
    dual = make()
    codes = dual.encode(streams(5, 5))
    sums = list(dual.cumulative(codes, stream="pixel"))
    for k, end in enumerate(dual.scales.offsets[1:]):
        assert torch.equal(dual.lookup(codes[:, :end], stream="pixel"), sums[k])
        assert torch.equal(dual.lookup(codes, k + 1, stream="pixel"), sums[k])
    with pytest.raises(TokenError, match="4 tokens came in; whole scales .* 1, 5, 14, 39 tokens"):
        dual.lookup(codes[:, :4])


def test_sound_has_one_scale_of_any_length() -> None:
    dual = make(None, dims={"semantic": 6, "acoustic": 3})
    for frames in (1, 9):
        x = streams(frames, dims={"semantic": 6, "acoustic": 3})
        out = dual(x)
        assert out.codes.shape == (3, frames) and out.latents.shape == (3, frames, 9)
        assert torch.allclose(dual.lookup(out.codes), unit_rows(dual, out.codes), atol=1e-6)
        assert dual.split(out.latents)["acoustic"].shape == (3, frames, 3)
        assert dual.lookup(out.codes, stream="acoustic").shape == (3, frames, 3)
        grid = {name: z.transpose(1, 2)[:, :, None] for name, z in x.items()}
        assert torch.equal(dual.encode(grid), out.codes)
    assert dual.lookup(out.codes, size=(3, 3)).shape == (3, 9, 3, 3)


def test_sound_over_several_scales() -> None:
    dual, x = make([[1, 1], [1, 4]]), streams(10)
    out = dual(x)
    assert out.codes.shape == (3, 3 + 10)  # a quarter of ten, rounded up from the half
    assert torch.allclose(dual.lookup(out.codes, size=10), out.latents, atol=1e-6)
    assert dual.lookup(out.codes[:, :3], size=10).shape == (3, 10, 9)


def test_a_batch_gives_what_its_items_give_alone() -> None:
    dual, x = make(), streams(5, 5, batch=6)
    alone = [dual.encode({n: z[i : i + 1] for n, z in x.items()}) for i in range(6)]
    assert torch.equal(torch.cat(alone), dual.encode(x))


# -- training -------------------------------------------------------------------------------------


def test_losses_are_means_over_unit_channels_and_scales() -> None:
    dual, x = make(entropy=0.1).train(), streams(5, 5)
    out = dual(x)
    left, terms = torch.cat(list(x.values()), 1), []
    for codes in dual.scales.split(out.codes):
        pooled = F.adaptive_avg_pool2d(left, codes.shape[1:]).movedim(1, -1)
        unit = torch.cat([F.normalize(part, dim=-1) for part in pooled.split([6, 3], -1)], -1)
        rows = unit_rows(dual, codes)
        terms.append((unit - rows).square().mean())
        left = left - F.interpolate(rows.movedim(-1, 1), size=(5, 5), mode="bicubic")
    expected = torch.stack(terms).mean()
    torch.testing.assert_close(out.losses["quantizer/codebook"], expected)
    torch.testing.assert_close(out.losses["quantizer/commitment"], 0.25 * expected)
    assert out.losses["quantizer/entropy"] < 0
    sum(out.losses.values()).backward()
    assert all(table.grad.abs().sum() > 0 for table in dual.tables.values())


def test_distances_tell_the_share_of_each_stream() -> None:
    dual, x = make([4]), streams(4, 4)
    for name, z in x.items():
        unit = F.normalize(z.flatten(2).transpose(1, 2), dim=-1)[:, :, None]
        distance = (unit - F.normalize(dual.tables[name], dim=1)).square().sum(-1)
        found = dual(x).statistics[f"codebook/distance/{name}"]
        torch.testing.assert_close(found, distance.square().sum(-1).mean())


def test_a_dropped_scale_adds_nothing_and_keeps_its_place() -> None:
    dual, x = make().train(), streams(5, 5)
    out = dual(x, drop=2)
    assert out.codes.shape == (3, 39)
    scales = dual.scales
    maps = dual.maps(out.codes)
    kept = [F.interpolate(maps[k], size=(5, 5), mode="bicubic") for k in (0, 1, 3)]
    assert torch.allclose(out.latents, sum(kept), atol=1e-5)
    shorter = make([1, 2, 5]).train()(x)
    assert torch.allclose(shorter.latents, out.latents, atol=1e-6)
    assert torch.equal(
        shorter.codes, torch.cat((out.codes[:, :5], out.codes[:, scales.offsets[3] :]), 1)
    )
    for name, value in shorter.losses.items():
        torch.testing.assert_close(out.losses[name], value)
    for wrong in (0, 4, -1):
        with pytest.raises(ConfigError, match=f"scale {wrong} of 4"):
            dual(x, drop=wrong)


def test_scales_are_dropped_at_random_in_training_only() -> None:
    dual, x = make(scale_drop=0.5, recent_codes=500), streams(5, 5, batch=1)
    torch.manual_seed(3)
    clean = dual(x).latents
    assert all(torch.equal(dual(x).latents, clean) for _ in range(20))
    dual.train()
    each = {k: dual(x, drop=k).latents for k in (1, 2, 3)}
    found = [
        next((k for k, z in each.items() if torch.equal(z, out)), 0)
        for out in (dual(x).latents for _ in range(200))
    ]
    counts = [found.count(k) for k in range(4)]
    assert 75 <= counts[0] <= 125 and min(counts[1:]) >= 15
    assert int((dual.recent.codes < 0).sum()) == 0
    single = make([5], scale_drop=1.0).train()
    assert single(x).latents.abs().sum() > 0  # the first scale is never dropped


def test_the_window_holds_what_was_used() -> None:
    dual, x = make(recent_codes=100).train(), streams(5, 5)
    out = dual(x, drop=1)
    parts = dual.scales.split(out.codes)
    used = torch.cat([parts[k].reshape(-1) for k in (0, 2, 3)])
    assert torch.equal(dual.recent.codes, used[-100:])
    assert out.statistics["codebook/recent_usage"] == len(used[-100:].unique()) / CODES
    before = dual.recent.codes.clone()
    dual.eval()(streams(5, 5, batch=1))
    assert torch.equal(dual.recent.codes, before)


def test_training_revives_codes() -> None:
    x = streams(5, 5, batch=16)
    started = make(kmeans_start=True, weights={"pixel": 2.0}, entropy=0.1).train()
    sum(started(x).losses.values()).backward()
    usage = started(x).statistics["codebook/usage"]
    placed = {name: t.detach().clone() for name, t in started.tables.items()}
    started(x)
    assert all(torch.equal(t, placed[name]) for name, t in started.tables.items())
    assert usage > 0.9

    restarted = make(dead_code_every=1, entropy=0.1).train()
    with torch.no_grad():
        for table in restarted.tables.values():
            table[1:] = -table[:1]  # all in one place: code 1 wins every tie
    first = restarted(x)
    assert first.statistics["codebook/usage"] <= 2 / CODES
    sum(first.losses.values()).backward()  # although the tables have been changed in place
    assert restarted(x).statistics["codebook/usage"] > 0.5


@pytest.mark.parametrize("table", ["semantic", "pixel", None])
def test_frozen_tables_and_evaluation_stay(table: str | None) -> None:
    dual = make(kmeans_start=True, dead_code_every=1).train(table is not None)
    if table is not None:
        dual.tables[table].requires_grad_(False)
    before = {name: value.clone() for name, value in dual.state_dict().items()}
    for _ in range(2):
        dual(streams(5, 5))
    assert all(torch.equal(value, before[name]) for name, value in dual.state_dict().items())


def test_precision_of_the_caller_has_no_say() -> None:
    dual, x = make(entropy=0.1), streams(5, 5)
    expected = dual(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = dual(x)
    assert torch.equal(found.codes, expected.codes)
    assert torch.equal(found.latents, expected.latents) and found.losses == expected.losses
    half = dual({name: z.bfloat16() for name, z in x.items()})
    assert half.latents.dtype == torch.bfloat16
    assert all(loss.dtype == torch.float32 for loss in half.losses.values())


def test_memory_is_flat_in_the_codebook() -> None:
    """Training forward and backward: four times the codes add a few copies of the tables."""

    def largest(size: int) -> int:
        dual, x = make([1, 4, 16], size).train(), streams(16, 16, batch=4)
        dual(x)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
            sum(dual(x).losses.values()).backward()
        return max(event.self_cpu_memory_usage for event in record.events())

    few, many = largest(1 << 12), largest(1 << 14)
    assert many <= few + 4 * (1 << 14) * (sum(DIMS.values()) + 1)
    assert many < 4 * 1024 * (1 << 14) / 8  # an eighth of the finest scale's distances


def test_latent_perturbation_moves_each_scale_and_adds_up() -> None:
    dual, x = make(), streams(5, 5)
    x = {name: z.requires_grad_() for name, z in x.items()}
    out = dual(x)
    spec = TokenSpec(
        modality="image", axes=(Axis(name="scale_token", size=39, minimum=1),),
        vocabulary=(CODES,), scales=dual.scales.sizes, streams=dual.streams,
    )
    tables = neighbour_tables([Codebook(dual.vectors, "l2")], 5)
    draws = sample_draws(0, range(3), 39, 1)
    new = perturb(out.codes, spec, tables, Perturbation(alpha=1.0, delta=5), draws).codes
    assert (tables[0][out.codes] == new[..., None]).any(-1).all()
    different = dual.scales.split(new != out.codes)
    assert all(bool(part.any()) for part in different[1:])
    # Both streams move together, scale by scale.
    total = sum(
        F.interpolate(unit_rows(dual, codes).movedim(-1, 1), size=(5, 5), mode="bicubic")
        for codes in dual.scales.split(new)
    )
    moved = replace_latents(out.latents, out.codes, new, dual.lookup)
    assert torch.allclose(moved, total, atol=1e-5)
    clean = torch.autograd.grad(out.latents.square().sum(), list(x.values()), retain_graph=True)
    weight = 2 * out.latents.detach()
    after = torch.autograd.grad((moved * weight).sum(), list(x.values()))
    for one, other in zip(clean, after, strict=True):
        torch.testing.assert_close(one, other)


# -- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"dims": {}}, "name at least one"),
        ({"dims": {"a": 0}}, "at least 1 channel"),
        ({"dims": {"both": 2, "a": 2}}, "'both' cannot name a stream"),
        ({"dims": {"a.b": 2}}, "'a.b' cannot name a stream"),
        ({"weights": {"pixle": 1.0}}, "did you mean 'pixel'"),
        ({"weights": {"pixel": 0.0}}, "'pixel' is 0.0; give one above 0"),
        ({"scale_drop": 1.5}, "scale_drop 1.5"),
        ({"temperature": 0.0}, "temperature 0.0"),
        ({"recent_codes": -1}, "recent_codes -1"),
        ({"scales": None, "other_scales": [[2]]}, "give the native list first"),
        ({"dead_code_every": -2}, "dead_code_every is -2"),
    ],
)
def test_illegal_options_are_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        DualCodebook(**{"codebook_size": 8, "dims": DIMS, "scales": [2], **options})


def test_streams_that_do_not_fit_are_one_sentence() -> None:
    dual, x = make(), streams(5, 5)
    with pytest.raises(ConfigError, match="streams semantic came in; give exactly semantic, pixel"):
        dual({"semantic": x["semantic"]})
    with pytest.raises(ConfigError, match="bring them to one grid first"):
        dual.encode({**x, "pixel": x["pixel"][..., :4]})
    with pytest.raises(ConfigError, match="met codes of width 3"):
        dual.encode({**x, "pixel": x["semantic"]})
    with pytest.raises(TokenError, match="codes from -1 to 0"):
        dual.lookup(torch.tensor([[-1, 0, 0, 0, 0]]))


def test_it_runs_on_meta() -> None:
    with torch.device("meta"):
        dual = DualCodebook(CODES, DIMS, scales=SCALES, recent_codes=10)
        x = {name: torch.empty(2, width, 5, 5) for name, width in DIMS.items()}
        out = dual.eval()(x)
    assert out.codes.shape == (2, 39) and out.latents.shape == (2, 9, 5, 5)
