"""Binary spherical quantization: bits and their order, scales, entropy against brute force."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tok_core.binary_spherical import BinarySphericalQuantizer, bit_entropy_loss
from tok_core.entropy_loss import entropy_loss
from tok_core.errors import ConfigError, TokenError
from tok_core.nearest_code import nearest_code
from tok_core.phi_residual import shared_index
from tok_core.quantizer_dropout import Dropped

SCALES = [1, 2, 4]


def latents(bits: int, h: int = 4, w: int = 4, batch: int = 3) -> Tensor:
    return torch.randn(batch, bits, h, w, generator=torch.Generator().manual_seed(1))


def test_bit_j_is_channel_j() -> None:
    quantizer = BinarySphericalQuantizer(8, 3)
    z = torch.tensor([[[0.1, -2.0, -1.0], [-0.1, 2.0, -1.0], [-0.1, -2.0, 1.0], [1, 1, -1]]])
    assert quantizer.encode(z).tolist() == [[1, 2, 4, 3]]
    assert quantizer.encode(torch.zeros(1, 1, 3)).tolist() == [[0]]
    expected = torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, -1]]) / 3**0.5
    torch.testing.assert_close(quantizer.lookup(torch.tensor([[1, 2, 4, 3]]))[0], expected)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 62), st.integers(0, 1000))
def test_codes_survive_a_round_trip(bits: int, seed: int) -> None:
    torch.manual_seed(seed)
    quantizer = BinarySphericalQuantizer(1 << bits, bits)
    codes = torch.randint(0, 1 << bits, (2, 5))
    assert torch.equal(quantizer.encode(quantizer.lookup(codes)), codes)
    assert torch.allclose(quantizer.lookup(codes).norm(dim=-1), torch.ones(2, 5))


@pytest.mark.parametrize("bits", [1, 5, 10])
def test_signs_are_the_nearest_of_all_codes(bits: int) -> None:
    quantizer, z = BinarySphericalQuantizer(1 << bits, bits), latents(bits)
    assert quantizer.vectors.shape == (1 << bits, bits)
    rows = F.normalize(z, dim=1).movedim(1, -1).flatten(0, 2)
    found = nearest_code(rows, quantizer.vectors, metric=quantizer.metric)
    assert torch.equal(quantizer.encode(z).flatten(), found)


def test_every_scale_quantizes_what_is_left_of_the_unit_latent() -> None:
    quantizer, z = BinarySphericalQuantizer(32, 5, SCALES), latents(5)
    out, left = quantizer(z), F.normalize(z, dim=1)
    f, errors = left, []
    for k, codes in enumerate(quantizer.scales.split(out.codes)):
        q = torch.where(F.adaptive_avg_pool2d(left, SCALES[k]) > 0, 1.0, -1.0) / 5**0.5
        bits = (q > 0).long().movedim(1, -1)
        assert torch.equal((bits * 2 ** torch.arange(5)).sum(-1), codes)
        full = F.interpolate(q, size=(4, 4), mode="bicubic")
        left = left - (0.5 * full + 0.5 * quantizer.phi[shared_index(k, 3, 4)](full))
        errors.append(left.square().mean())
    torch.testing.assert_close(out.latents, f - left, atol=1e-5, rtol=0)
    mean = torch.stack(errors).mean()
    torch.testing.assert_close(out.losses["quantizer/codebook"], mean)
    torch.testing.assert_close(out.losses["quantizer/commitment"], 0.25 * mean)
    torch.testing.assert_close(quantizer.lookup(out.codes), out.latents, atol=1e-5, rtol=0)


def test_gradient_goes_through_the_normalisation() -> None:
    quantizer, z = BinarySphericalQuantizer(32, 5, entropy=0.0), latents(5).requires_grad_()
    upstream = torch.randn(z.shape)
    out = quantizer(z)
    assert list(out.losses) == ["quantizer/commitment"]  # there is nothing a codebook could learn
    (ours,) = torch.autograd.grad((out.latents * upstream).sum(), z)
    (theirs,) = torch.autograd.grad((F.normalize(z, dim=1) * upstream).sum(), z)
    torch.testing.assert_close(ours, theirs)


# -- entropy ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.01, 0.3])
def test_entropy_is_that_of_all_codes(temperature: float) -> None:
    """Per latent exactly; of the mean as a sum over its bits."""
    bits = 6
    table = BinarySphericalQuantizer(1 << bits, bits).vectors.double()
    z = F.normalize(torch.randn(50, bits), dim=1).double().requires_grad_()
    distance = (z[:, None] - table).square().sum(-1)
    p = (-distance / temperature).softmax(1)
    own = -torch.special.xlogy(p, p).sum(1).mean()
    one = p.mean(0) @ (table > 0).double()
    codebook = -sum(torch.special.xlogy(q, q).sum() for q in (one, 1 - one))
    expected = own - codebook
    found = bit_entropy_loss(z, temperature)
    torch.testing.assert_close(found.double(), expected, atol=2e-4, rtol=0)
    (ours,), (theirs,) = (torch.autograd.grad(each, z) for each in (found, expected))
    assert (ours - theirs).abs().max() <= 1e-3 * theirs.abs().max()
    # The sum over bits bounds the entropy of the mean from above.
    assert found <= entropy_loss(z.float(), table.float(), temperature=temperature) + 1e-4


def test_entropy_is_averaged_over_scales_and_kept_items() -> None:
    quantizer, z = BinarySphericalQuantizer(32, 5, SCALES), latents(5)
    drop = Dropped(torch.tensor([True, False, False]), torch.tensor([1, 3, 3]))
    left, each = F.normalize(z, dim=1), []
    sums = list(quantizer.cumulative(quantizer.encode(z)))
    for s in range(len(sums)):
        pooled = F.adaptive_avg_pool2d(left if s == 0 else left - sums[s - 1], SCALES[s])
        rows = pooled[drop.depths > s].movedim(1, -1).flatten(0, 2)
        each.append(bit_entropy_loss(rows, 0.01))
    found = quantizer(z, dropped=drop).losses["quantizer/entropy"]
    torch.testing.assert_close(found, 0.1 * sum(each) / 3, atol=1e-5, rtol=1e-4)


def test_entropy_pulls_the_latent_at_every_scale() -> None:
    quantizer, z = BinarySphericalQuantizer(32, 5, SCALES), latents(5).requires_grad_()
    (gradient,) = torch.autograd.grad(quantizer(z).losses["quantizer/entropy"], z)
    assert gradient.abs().sum() > 0
    sure = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    torch.testing.assert_close(
        bit_entropy_loss(sure, 0.01), torch.tensor(-2 * 0.6931), atol=1e-3, rtol=0
    )
    assert bit_entropy_loss(sure[:1], 0.01) == pytest.approx(0, abs=1e-3)


# -- sizes -----------------------------------------------------------------------------------------


def test_tables_and_counts_end_at_sixteen_bits() -> None:
    small, large = BinarySphericalQuantizer(1 << 16, 16), BinarySphericalQuantizer(1 << 17, 17)
    assert small.vectors.shape == (1 << 16, 16)
    assert small(latents(16)).statistics["codebook/counts"].shape == (1 << 16,)
    out = large(latents(17))
    assert set(out.statistics) == {"codebook/bit_entropy"}
    assert 0 < out.statistics["codebook/bit_entropy"] <= 1
    with pytest.raises(ConfigError, match="use lookup"):
        large.vectors  # noqa: B018
    with pytest.raises(ConfigError, match="leave it out above 65536"):
        BinarySphericalQuantizer(1 << 17, 17, average_usage=True)


def test_illegal_options_are_one_sentence() -> None:
    with pytest.raises(ConfigError, match="codes of 12 bits are 4096"):
        BinarySphericalQuantizer(4095, 12)
    with pytest.raises(ConfigError, match="codebook of 4096 met code_dim 32"):
        BinarySphericalQuantizer(4096, 32, SCALES)
    for bits in (0, 63):
        with pytest.raises(ConfigError, match="give 1 to 62"):
            BinarySphericalQuantizer(1 << bits, bits)
    with pytest.raises(ConfigError, match="above 0"):
        BinarySphericalQuantizer(8, 3, temperature=0.0)
    with pytest.raises(ConfigError, match="met codes of width 3"):
        BinarySphericalQuantizer(8, 3)(latents(4))
    with pytest.raises(TokenError, match="codes from 0 to 8"):
        BinarySphericalQuantizer(8, 3).lookup(torch.tensor([[0, 8]]))
    with pytest.raises(ConfigError, match="no streams"):
        BinarySphericalQuantizer(8, 3).lookup(torch.tensor([[0]]), stream="pixel")
