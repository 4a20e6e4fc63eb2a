"""Residual quantization: one level is a vector quantizer, each further one refines."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tok_core.ema_codebook import update_ema_codebook
from tok_core.errors import ConfigError, TokenError
from tok_core.kmeans import kmeans
from tok_core.residual_quantizer import ResidualQuantizer
from tok_core.tail_drop import TailDrop
from tok_core.vector_quantizer import VectorQuantizer


def make(levels: int = 3, **options: object) -> ResidualQuantizer:
    torch.manual_seed(0)
    quantizer = ResidualQuantizer(levels, 16, 4, **options)
    with torch.no_grad():
        for i, level in enumerate(quantizer.levels):
            level.codebook.normal_(std=0.7**i)
    return quantizer.eval()


@pytest.fixture
def z() -> Tensor:
    return torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("update", ["gradient", "ema", "clustering"])
def test_one_level_is_a_vector_quantizer(update: str, z: Tensor) -> None:
    ours = make(1, update=update)
    plain = VectorQuantizer(16, 4, update=update)
    plain.load_state_dict(ours.levels[0].state_dict())
    a, b = ours.train()(z), plain.train()(z)
    assert torch.equal(a.latents, b.latents) and torch.equal(a.codes[..., 0], b.codes)
    assert a.losses == b.losses
    assert torch.equal(ours.levels[0].codebook, plain.codebook)
    assert a.statistics["codebook/counts"].shape == (16,)


def test_every_level_quantizes_what_is_left(z: Tensor) -> None:
    quantizer = make()
    out = quantizer(z)
    assert out.codes.shape == (2, 9, 3) and torch.equal(quantizer.encode(z), out.codes)
    left = z
    for i, level in enumerate(quantizer.levels):
        nearest = (left[:, :, None] - level.codebook).square().sum(-1).argmin(-1)
        assert torch.equal(nearest, out.codes[..., i])
        assert torch.equal(quantizer.encode(z, i + 1), out.codes[..., : i + 1])
        left = left - level.codebook[nearest]
        assert torch.allclose(quantizer.lookup(out.codes, upto=i + 1), z - left, atol=1e-6)
    assert torch.allclose(out.latents, quantizer.lookup(out.codes), atol=1e-6)
    assert out.statistics["codebook/counts"].shape == (3, 16)
    assert out.statistics["codebook/usage"].dim() == 0


def test_on_the_sphere_every_level_refines_too(z: Tensor) -> None:
    """Latents are normalised once; levels that measure directions find the first one again."""
    torch.manual_seed(0)
    options = {"update": "ema", "kmeans_start": True, "ema_decay": 0.9, "l2_normalize": True}
    quantizer = ResidualQuantizer(3, 16, 4, **options).train()
    many = 300 * torch.randn(8, 64, 4)
    for _ in range(20):
        out = quantizer(many)
    unit, quantizer = torch.nn.functional.normalize(many, dim=-1), quantizer.eval()
    codes = quantizer.encode(many)
    errors = [
        float((unit - quantizer.lookup(codes, upto=level)).square().sum(-1).mean())
        for level in (1, 2, 3)
    ]
    assert errors[1] < 0.5 * errors[0] and errors[2] < 0.5 * errors[1], errors
    assert torch.equal(quantizer.encode(2 * many), codes), "the length says nothing"
    assert torch.allclose(quantizer(many).latents, quantizer.lookup(codes), atol=1e-5)
    small = z.clone().requires_grad_()
    out = quantizer(small)
    out.latents.square().sum().backward()
    along = (small.grad * small.detach()).sum(-1)
    assert small.grad.abs().sum() > 0 and along.abs().max() < 1e-5, "the gradient is of directions"
    assert out.losses["quantizer/commitment"].isfinite()


def test_the_gradient_is_passed_on_once(z: Tensor) -> None:
    quantizer = make(update="ema").train()
    x = z.clone().requires_grad_()
    probe = torch.randn_like(z)
    (quantizer(x).latents * probe).sum().backward()
    assert x.grad is not None and torch.allclose(x.grad, probe)
    # Commitment pulls by the mean of what each level left over, never through a code.
    x.grad = None
    out = quantizer.eval()(x)
    out.losses["quantizer/commitment"].backward()
    left, pull = z, torch.zeros_like(z)
    for i in range(3):
        left = left - quantizer.levels[i].lookup(out.codes[..., i])
        pull += 0.25 * 2 * left / left.numel() / 3
    assert torch.allclose(x.grad, pull, atol=1e-6)


def test_without_straight_through_the_decoder_trains_every_level(z: Tensor) -> None:
    quantizer = make(straight_through=False)
    quantizer(z).latents.sum().backward()
    assert all(level.codebook.grad.any() for level in quantizer.levels)


def test_kept_levels_per_item(z: Tensor) -> None:
    quantizer = make()
    out = quantizer(z, levels=torch.tensor([1, 3]))
    assert out.codes.shape[-1] == 3
    assert torch.allclose(out.latents[0], quantizer.lookup(out.codes[0], 1), atol=1e-6)
    assert torch.allclose(out.latents[1], quantizer.lookup(out.codes[1], 3), atol=1e-6)


def test_tail_drop_draws_in_training_only(z: Tensor) -> None:
    quantizer = make(tail_drop=TailDrop(3, per_sample=True))
    full = quantizer(z).latents
    assert torch.equal(quantizer(z).latents, full)
    quantizer.train()
    found = set()
    for seed in range(20):
        torch.manual_seed(seed)
        lengths = tuple(torch.randint(1, 4, (2,)).tolist())
        torch.manual_seed(seed)
        out = quantizer(z)
        for item, kept in enumerate(lengths):
            expected = quantizer.lookup(out.codes[item], kept)
            assert torch.allclose(out.latents[item], expected, atol=1e-6)
        found.add(lengths)
    assert len(found) > 4


def test_an_ema_life_lowers_the_error_of_all_levels_together() -> None:
    torch.manual_seed(0)
    quantizer = ResidualQuantizer(3, 16, 4, update="ema", kmeans_start=True, ema_decay=0.9)
    data = torch.randn(64, 32, 4)
    quantizer.train()
    for batch in data.split(4):
        quantizer(batch)
    codes = quantizer.eval().encode(data)
    errors = [float((quantizer.lookup(codes, k) - data).square().mean()) for k in (1, 2, 3)]
    assert errors[0] < 0.5 and errors[1] < 0.6 * errors[0] and errors[2] < 0.6 * errors[1]


def test_bypass_and_late_quantization_pass_latents_on(z: Tensor) -> None:
    quantizer = make(quantize_after_steps=1).train()
    assert torch.allclose(quantizer(z).latents, z, atol=1e-6)
    assert not torch.allclose(quantizer(z).latents, z, atol=1e-2)


def test_errors_are_sentences(z: Tensor) -> None:
    quantizer = make()
    with pytest.raises(ConfigError, match="num_codebooks is 0"):
        ResidualQuantizer(0, 16, 4)
    with pytest.raises(ConfigError, match="tail drop over 2 levels"):
        ResidualQuantizer(3, 16, 4, tail_drop=TailDrop(2))
    with pytest.raises(TokenError, match="4 levels"):
        quantizer.lookup(torch.zeros(1, 4, dtype=torch.int64))
    with pytest.raises(TokenError, match="codes from"):
        quantizer.lookup(torch.full((1, 3), 16))


# -- what the levels learnt for published codecs ---------------------------------------------------


def test_laplace_smoothing_lets_unused_codes_drift_and_none_keeps_them() -> None:
    def run(smoothing: float) -> Tensor:
        vectors = torch.eye(4)
        usage, sums = torch.full((4,), 1e-5), torch.eye(4) * 1e-5
        usage[0], sums[0] = 1.0, torch.eye(4)[0]
        counts = torch.tensor([5, 0, 0, 0])
        update_ema_codebook(
            vectors, usage, sums, counts, torch.zeros(5, dtype=torch.int64),
            torch.eye(4)[:1].expand(5, 4), smoothing=smoothing,
        )  # fmt: skip
        return vectors

    smoothed, kept = run(1e-5), run(0.0)
    assert torch.equal(kept[1:], torch.eye(4)[1:])
    assert torch.allclose(smoothed[1:].norm(dim=1), torch.full((3,), 0.5), atol=0.01)
    assert torch.allclose(smoothed[0], kept[0], atol=1e-4)


def test_kmeans_from_given_centres_may_leave_empty_ones_alone() -> None:
    points = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
    start = torch.tensor([[0.4], [10.4], [99.0]])
    kept = kmeans(points, 3, iterations=3, start=start, keep_empty=True, points_per_code=None)
    assert kept.flatten().tolist() == [0.5, 10.5, 99.0]
    moved = kmeans(points, 3, iterations=3, start=start)
    assert moved.max() < 12
