"""Product quantization: branches, scales, dropout, statistics by name, specs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tok_core.binary_spherical import BinarySphericalQuantizer
from tok_core.dual_codebook import DualCodebook
from tok_core.errors import ConfigError, TokenError
from tok_core.multi_scale_quantizer import MultiScaleQuantizer
from tok_core.nearest_code import nearest_code
from tok_core.next_scale_inputs import next_scale_inputs
from tok_core.product_quantizer import ProductQuantizer
from tok_core.quantizer_dropout import Dropped, QuantizerDropout
from tok_core.scale_usage import AverageHits
from tok_core.token_spec import Axis, TokenSpec
from tok_core.vector_quantizer import VectorQuantizer

DIM, CODES, BITS = 4, 16, 4
SCALES = [1, 2, 3, 5]
KINDS = ("vector", "binary", "scales", "binary scales")


def branch(kind: str, size: int = CODES, scales: Any = SCALES, **options: Any) -> nn.Module:
    made: nn.Module
    if kind == "vector":
        made = VectorQuantizer(size, DIM, l2_normalize=True, **options)
    elif kind == "scales":
        made = MultiScaleQuantizer(size, DIM, scales, cosine=True, sum_commitment=True, **options)
    else:
        made = BinarySphericalQuantizer(
            CODES, BITS, scales if kind == "binary scales" else None, **options
        )
    for name, value in made.named_parameters():
        if name == "codebook":
            nn.init.normal_(value)
    return made


def make(kind: str, count: int = 2, **options: Any) -> ProductQuantizer:
    torch.manual_seed(0)
    outer = {name: options.pop(name) for name in ("dropout", "decorrelation") if name in options}
    branches = [branch(kind, **options) for _ in range(count)]
    return ProductQuantizer(branches, **outer).eval()


def latents(count: int = 2, batch: int = 4) -> Tensor:
    return torch.randn(batch, count, DIM, 5, 5, generator=torch.Generator().manual_seed(1))


def alone(one: Any, z: Tensor) -> Any:
    if isinstance(one, VectorQuantizer):
        out = one(z.movedim(1, -1))
        return out._replace(latents=out.latents.movedim(-1, 1))
    return one(z)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_branches_are_quantizers_of_their_own(kind: str, count: int) -> None:
    product, z = make(kind, count), latents(count)
    out = product(z)
    own = [alone(one, z[:, i]) for i, one in enumerate(product)]
    axes = (39,) if "scales" in kind else (5, 5)
    assert out.codes.shape == (4, count, *axes) and out.codes.dtype == torch.int64
    assert torch.equal(out.codes.flatten(2), torch.stack([o.codes.flatten(1) for o in own], 1))
    assert torch.equal(out.latents, torch.cat([o.latents for o in own], 1))
    assert out.latents.shape == (4, count * DIM, 5, 5) and product.code_dim == count * DIM
    for name, loss in out.losses.items():
        torch.testing.assert_close(loss, sum(o.losses[name] for o in own) / count)
    assert torch.equal(product.encode(z), out.codes)
    torch.testing.assert_close(product.lookup(out.codes), out.latents, atol=1e-5, rtol=0)
    one_by_one = torch.cat([product.encode(z[i : i + 1]) for i in range(4)])
    assert torch.equal(one_by_one, out.codes)
    assert [len(book.vectors) for book in product.codebooks] == list(product.vocabulary)


@pytest.mark.parametrize("kind", KINDS)
def test_sequences(kind: str) -> None:
    product = make(kind, scales=[[1, 2], [1, 6]])
    z = torch.randn(3, 2, 6, DIM)
    out = product(z)
    assert out.latents.shape == (3, 6, 2 * DIM)
    assert out.codes.shape == (3, 2, 8 if "scales" in kind else 6)
    size = 6 if "scales" in kind else None
    found = product.lookup(out.codes, size=size)
    torch.testing.assert_close(found, out.latents, atol=1e-5, rtol=0)


def test_prefixes_of_whole_scales() -> None:
    product = make("scales")
    codes = product.encode(latents())
    sums = list(product.cumulative(codes))
    for k, end in enumerate((1, 5, 14, 39)):
        assert torch.equal(product.lookup(codes[..., :end]), sums[k])
        assert torch.equal(product.lookup(codes, k + 1), sums[k])
    assert len(list(make("vector").cumulative(make("vector").encode(latents())))) == 1
    with pytest.raises(TokenError, match="6 tokens came in"):
        product.lookup(codes[..., :6])
    with pytest.raises(TokenError, match=r"takes \(batch, branches, tokens\) with 2 branches"):
        product.lookup(codes[:, :1])
    with pytest.raises(TokenError, match="one scale"):
        make("vector").lookup(torch.zeros(1, 2, 5, 5, dtype=torch.int64), upto=2)
    with pytest.raises(TokenError, match="codes from 0 to 16"):
        product.lookup(torch.full_like(codes, 16).index_fill_(0, torch.tensor([0]), 0))


def test_next_scale_inputs_stand_side_by_side() -> None:
    product = make("scales", 3)
    codes = product.encode(latents(3))
    whole = next_scale_inputs(product, codes)
    assert whole.shape == (4, 38, 3 * DIM)
    for i, one in enumerate(product):
        part = next_scale_inputs(one, codes[:, i])
        assert torch.equal(whole[..., i * DIM : (i + 1) * DIM], part)
    assert torch.equal(next_scale_inputs(product, codes[..., :5]), whole[:, : 4 + 9])
    binary = make("binary scales")
    assert next_scale_inputs(binary, binary.encode(latents())).shape == (4, 38, 2 * BITS)
    with pytest.raises(TokenError, match="one scale"):
        next_scale_inputs(make("vector"), torch.zeros(1, 2, 5, 5, dtype=torch.int64))


# -- dropout ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["scales", "binary scales"])
def test_dropped_items_keep_their_first_scales(kind: str) -> None:
    product, z = make(kind), latents()
    drop = Dropped(torch.tensor([True, True, False, False]), torch.tensor([1, 3, 4, 4]))
    out, full = product(z, dropped=drop), product(z)
    assert torch.equal(out.codes, full.codes)  # dropped scales still reduce the rest
    sums = list(product.cumulative(full.codes))
    expected = torch.stack([sums[d - 1][i] for i, d in enumerate(drop.depths.tolist())])
    torch.testing.assert_close(out.latents, expected, atol=1e-5, rtol=0)
    assert full.dropped is None and torch.equal(out.dropped, drop.items)
    f = [F.normalize(part, dim=1) if "binary" in kind else part for part in z.unbind(1)]
    error = [[
        (total.chunk(2, 1)[i] - f[i]).square().flatten(1).mean(1) for total in sums
    ] for i in range(2)]  # fmt: skip
    each = [
        [error[i][s][drop.depths > s].mean() for s in range(4)] for i in range(2)
    ]  # over the items that are left
    mean = sum(sum(row) / 4 for row in each) / 2
    torch.testing.assert_close(out.losses["quantizer/codebook"], mean)
    summed = mean * 4 if kind == "scales" else mean
    torch.testing.assert_close(out.losses["quantizer/commitment"], 0.25 * summed)


def test_nobody_left_on_a_scale_is_no_division_by_zero() -> None:
    drop = Dropped(torch.ones(4, dtype=torch.bool), torch.full((4,), 2))
    for kind in ("scales", "binary scales"):
        out = make(kind)(latents(), dropped=drop)
        assert all(bool(loss.isfinite()) for loss in out.losses.values())


def test_one_draw_serves_all_branches_in_training_only() -> None:
    product = make("scales", dropout=QuantizerDropout(rate=0.5, start_drop=2))
    z = latents(batch=5)
    assert product(z).dropped is None
    product.train()
    seen = set()
    for seed in range(12):
        torch.manual_seed(seed)
        out = product(z)
        assert out.dropped.tolist() == [True, True, False, False, False]
        sums = list(product.cumulative(out.codes))
        depths = [
            [
                next(d for d, s in enumerate(sums, 1) if torch.allclose(
                    s.chunk(2, 1)[b][i], out.latents.chunk(2, 1)[b][i], atol=1e-5))
                for b in range(2)
            ] for i in range(5)
        ]  # fmt: skip
        assert all(a == b for a, b in depths)
        assert all(a == 4 for a, _ in depths[2:])
        seen |= {a for a, _ in depths[:2]}
    assert seen == {2, 3, 4}


def test_a_single_scale_reports_items_but_drops_nothing() -> None:
    product = make("vector", dropout=QuantizerDropout(rate=0.5, start_drop=3)).train()
    out = product(latents())
    assert out.dropped.tolist() == [True, True, False, False]
    torch.testing.assert_close(out.latents, make("vector")(latents()).latents)


def test_draws_can_be_given_and_chosen_item_by_item() -> None:
    dropout = QuantizerDropout(rate=0.4)
    drop = dropout.draw(3, 5, depths=torch.tensor([4, 3, 3]))
    assert drop.items.tolist() == [True, False, False] and drop.depths.tolist() == [4, 5, 5]
    torch.manual_seed(0)
    each = QuantizerDropout(rate=0.25, start_drop=1, selection="bernoulli").draw(4000, 3)
    assert 0.2 < each.items.float().mean() < 0.3
    assert each.depths[each.items].bincount().tolist()[1:] == pytest.approx([333] * 3, rel=0.25)
    assert (each.depths[~each.items] == 3).all()
    # A list stretched to a smaller grid may have fewer scales than the least kept.
    assert QuantizerDropout(rate=1.0, start_drop=3).draw(2, 2).depths.tolist() == [2, 2]


def test_averaged_commitment_is_a_switch() -> None:
    z = latents()[:, 0]
    torch.manual_seed(0)
    summed = branch("scales")
    averaged = MultiScaleQuantizer(CODES, DIM, SCALES, cosine=True)
    averaged.load_state_dict(summed.state_dict())
    ours, theirs = summed(z).losses, averaged(z).losses
    torch.testing.assert_close(ours["quantizer/codebook"], theirs["quantizer/codebook"])
    torch.testing.assert_close(ours["quantizer/commitment"], 4 * theirs["quantizer/commitment"])


# -- training, statistics, specs -------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_latents_and_every_parameter(kind: str) -> None:
    product = make(kind, dropout=QuantizerDropout(rate=0.5, start_drop=2), decorrelation=0.1)
    z = latents().requires_grad_()
    out = product.train()(z)
    (sum(out.losses.values()) + out.latents.sum()).backward()
    assert z.grad.abs().sum() > 0
    assert all(p.grad is not None for p in product.parameters())


def test_decorrelation_is_the_cosine_of_mean_latents() -> None:
    product = make("scales", 3, decorrelation=0.5)
    out = product(latents(3))
    first, _, last = out.latents.mean((2, 3)).chunk(3, 1)
    expected = 0.5 * F.cosine_similarity(first, last).mean()
    torch.testing.assert_close(out.losses["quantizer/decorrelation"], expected)


def test_statistics_are_named_by_branch_and_scale() -> None:
    out = make("scales", average_usage=True).train()(latents())
    found, codes = out.statistics, out.codes
    offsets = [0, 1, 5, 14, 39]
    for b in range(2):
        seen = codes[:, b].unique().numel()
        assert found[f"codebook/usage/branch{b}"] == pytest.approx(seen / CODES)
        assert found[f"codebook/dead_codes/branch{b}"] == CODES - seen
        for s in range(4):
            part = codes[:, b, offsets[s] : offsets[s + 1]].unique().numel()
            assert found[f"codebook/usage/branch{b}/scale{s}"] == pytest.approx(part / CODES)
            assert found[f"codebook/dead_codes/branch{b}/scale{s}"] == CODES - part
            assert f"codebook/perplexity/branch{b}/scale{s}" in found
            assert f"codebook/average_usage/branch{b}/scale{s}" in found
    means = [found[f"codebook/usage/branch{b}"] for b in range(2)]
    torch.testing.assert_close(found["codebook/usage"], sum(means) / 2)
    assert found["codebook/counts"].shape == (2, 4, CODES)
    mixed = ProductQuantizer([branch("vector", 8), branch("vector", 16)])
    found = mixed(latents()).statistics
    assert "codebook/counts" not in found and found["codebook/counts/branch1"].shape == (16,)
    assert mixed.vocabulary == (8, 16)


@pytest.mark.parametrize("kind", KINDS)
def test_searches_tell_what_was_compared_with_which_codebook(kind: str) -> None:
    product = make(kind, 3)
    drop = Dropped(torch.arange(4) < 1, torch.tensor([1, 4, 4, 4]))
    out, books = product(latents(3), dropped=drop), product.codebooks
    codes, seen = out.codes.flatten(1), torch.zeros(out.codes.flatten(1).shape)
    for search in out.searches:
        book, places = books[search.factor], list(search.places)
        rows = search.rows.reshape(len(codes) * len(places), DIM)
        found = nearest_code(rows, book.vectors).view(len(codes), len(places))
        assert torch.equal(found, codes[:, places])
        seen[:, places] += 1 if search.items is None else search.items.float()[:, None]
    assert (seen[1:] == 1).all()
    # An item's dropped scales are coded but not used.
    assert seen[0].mean() == pytest.approx(1 / 39 if "scales" in kind else 1)


def test_official_count_of_average_hits() -> None:
    counts = torch.tensor([[4, 0], [0, 4]])
    ours, theirs = AverageHits(2, 2), AverageHits(2, 2, official_count=True)
    for average in (ours, theirs):
        average.update(counts)
    assert ours.hits.tolist() == [[4, 0], [0, 4]]
    torch.testing.assert_close(theirs.hits, torch.tensor([[4, 0], [0, 0.4]]))


def test_average_usage_of_one_scale() -> None:
    quantizer = VectorQuantizer(CODES, DIM, average_usage=True)
    z = torch.randn(2, 30, DIM)
    assert quantizer.eval()(z).statistics["codebook/average_usage"] == 0
    out = quantizer.train()(z)
    assert torch.equal(quantizer.average.hits[0], out.codes.flatten().bincount(minlength=CODES))
    expected = (quantizer.average.hits[0] >= 0.08 * 60 / CODES).float().mean()
    assert out.statistics["codebook/average_usage"] == expected


def test_token_spec_of_branches_and_scales() -> None:
    product = make("scales")
    spec = TokenSpec(
        modality="image",
        axes=(Axis(name="branch", size=2), Axis(name="scale_token", size=39, minimum=1)),
        vocabulary=product.vocabulary, scales=product.scales.sizes, grid=(5, 5),
    )  # fmt: skip
    codes = product.encode(latents())
    for end in (39, 14, 5, 1):
        part = codes[..., :end]
        spec.check(part)
        sequence = spec.to_sequence(part)
        assert torch.equal(sequence, part.transpose(1, 2))
        assert torch.equal(spec.from_sequence(sequence, (2, end)), part)
        where = spec.coordinates((2, end))
        assert [len(axis) for axis in where] == [end] * 4
    assert spec.coordinates().scale.bincount().tolist() == [1, 4, 9, 25]
    assert TokenSpec.from_json(spec.to_json()) == spec
    grid = TokenSpec(
        modality="image", vocabulary=(8, 16),
        axes=(Axis(name="branch", size=2), Axis(name="row", size=5), Axis(name="column", size=5)),
    )
    codes = ProductQuantizer([branch("vector", 8), branch("vector", 16)]).encode(latents())
    grid.check(codes)
    assert torch.equal(grid.from_sequence(grid.to_sequence(codes)), codes)
    assert grid.to_sequence(codes).shape == (4, 25, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_precision_of_the_caller_has_no_say(kind: str) -> None:
    product, z = make(kind), latents()
    expected = product(z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = product(z)
    assert torch.equal(found.codes, expected.codes)
    assert torch.equal(found.latents, expected.latents)


@pytest.mark.parametrize("kind", KINDS)
def test_it_runs_on_meta(kind: str) -> None:
    with torch.device("meta"):
        out = make_on_meta(kind)(torch.empty(3, 2, DIM, 5, 5))
    assert out.latents.shape == (3, 2 * DIM, 5, 5)


def make_on_meta(kind: str) -> ProductQuantizer:
    return ProductQuantizer([branch(kind) for _ in range(2)])


# -- bad input -------------------------------------------------------------------------------------


def test_branches_that_do_not_go_together() -> None:
    with pytest.raises(ConfigError, match="0 branches"):
        ProductQuantizer([])
    with pytest.raises(ConfigError, match=r"scales .* give all the same list"):
        ProductQuantizer([branch("scales"), branch("scales", scales=[1, 5])])
    with pytest.raises(ConfigError, match=r"scales .* give all the same list"):
        ProductQuantizer([branch("scales"), branch("vector")])
    with pytest.raises(ConfigError, match=r"code_dim \[4, 5\]"):
        ProductQuantizer([branch("vector"), VectorQuantizer(8, 5)])
    with pytest.raises(ConfigError, match="branch 1 is a DualCodebook"):
        ProductQuantizer([branch("vector"), DualCodebook(8, {"a": DIM})])
    with pytest.raises(ConfigError, match="dropout of its own"):
        ProductQuantizer([branch("scales", dropout=QuantizerDropout(rate=0.1))])
    with pytest.raises(ConfigError, match="at least 2 branches"):
        make("vector", 1, decorrelation=0.1)


def test_dropout_out_of_range() -> None:
    with pytest.raises(ConfigError, match=r"start_drop is 5 .* give 1 to 4"):
        make("scales", dropout=QuantizerDropout(rate=0.1, start_drop=5))
    with pytest.raises(ConfigError, match=r"start_drop is 5 .* give 1 to 4"):
        branch("scales", dropout=QuantizerDropout(rate=0.1, start_drop=5))
    make("scales", dropout=QuantizerDropout(rate=0.0, start_drop=5))
    with pytest.raises(ConfigError, match="at least 1 scale"):
        QuantizerDropout(rate=0.1, start_drop=0)
    with pytest.raises(ConfigError, match="0 to 1"):
        QuantizerDropout(rate=1.5)
    with pytest.raises(ConfigError, match="did you mean 'first'"):
        QuantizerDropout(rate=0.5, selection="frist")


def test_latents_of_other_branches() -> None:
    with pytest.raises(ConfigError, match="met 2 branches of width 4"):
        make("vector")(latents(3))
    with pytest.raises(ConfigError, match="met 2 branches of width 4"):
        make("scales").encode(latents()[:, :, :3])
