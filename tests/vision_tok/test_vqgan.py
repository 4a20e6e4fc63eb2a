"""The VQGAN family: contract, sizes, scales, training, fast forms, bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_pictures import pictures, spread
from torch import Tensor

from tok_core.contract import Tokenizer, Tokens
from tok_core.errors import ConfigError, MediaError, TokenError
from tok_core.tokenizer_contract import TokenizerContract
from tok_core.training.freezing import freeze, set_training
from vision_tok.conv_autoencoder import ConvDecoder, ConvEncoder
from vision_tok.conv_blocks import GridAttention
from vision_tok.conv_sizes import ConvSizes
from vision_tok.image_objective import ImageObjective, ImageObjectiveConfig
from vision_tok.vqgan import VQGAN

SIDE: dict[str, Any] = {"channels": 8, "multipliers": [1, 2, 2], "res_blocks": 1}
SMALL: dict[str, Any] = {
    "encoder_sizes": SIDE, "decoder_sizes": SIDE | {"channels": 12}, "z_channels": 6,
    "code_dim": 4, "codebook_size": 32, "norm_groups": 4,
}  # fmt: skip
SCALES: dict[str, Any] = SMALL | {
    "quantizer_kind": "multi_scale", "l2_normalize": False, "scales": [1, 2, [3, 4]],
    "quant_kernel": 3,
}  # fmt: skip


def vqgan(**changes: Any) -> VQGAN:
    torch.manual_seed(0)
    return spread(VQGAN(**SMALL | changes))


def wide(batch: int) -> Tensor:
    return pictures(batch, 12, 16)


# -- the common contract -------------------------------------------------------------------------


class Family(TokenizerContract):
    code_parameter = "encoder.conv_in.weight"
    decoder_parameter = "decoder.conv_out.weight"

    def sample(self, batch: int) -> Tensor:
        return wide(batch)


class TestUnitCodes(Family):
    def make(self) -> Tokenizer:
        options = {"usage_window": 50, "entropy_weight": 0.1}
        return spread(VQGAN(**SMALL, quantizer_options=options))


class TestRawCodesWithModulatedNorms(Family):
    def make(self) -> Tokenizer:
        return spread(VQGAN(**SMALL, l2_normalize=False, modulated_decoder=True))


class TestScales(Family):
    def make(self) -> Tokenizer:
        return spread(VQGAN(**SCALES, quantizer_options={"average_usage": True}))


# -- sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(16, 12), (15, 9), (1, 1), (4, 41)])
def test_any_size_comes_back(shape: tuple[int, int]) -> None:
    model = vqgan()
    x = pictures(2, *shape)
    tokens = model.encode(x)
    assert tokens.codes.shape == (2, -(-shape[0] // 4), -(-shape[1] // 4))
    assert model.decode(tokens).shape == x.shape
    assert model(x).reconstruction.shape == x.shape


def test_padding_repeats_the_edge_and_is_cut_off_again() -> None:
    model = vqgan()
    x = pictures(1, 10, 13)
    padded = torch.nn.functional.pad(x, (0, 3, 0, 2), mode="replicate")
    assert torch.equal(model.encode(x).codes, model.encode(padded).codes)
    whole = model.decode(model.encode(padded))
    assert torch.equal(model.decode(model.encode(x)), whole[..., :10, :13])


def test_the_native_size_is_for_the_commands_alone() -> None:
    model = vqgan(image_size=[24, 16])
    assert model.spec.image_size == (24, 16) and model.spec.grid == (6, 4)
    assert model.decode(model.encode(wide(1))).shape == (1, 3, 12, 16)


def test_both_sides_may_differ_but_not_in_stride() -> None:
    model = vqgan(decoder_sizes={"channels": 4, "multipliers": [1, 2, 4], "res_blocks": 3})
    assert [len(level.blocks) for level in model.decoder.levels] == [4, 4, 4]
    with pytest.raises(ConfigError, match="same number of multipliers"):
        vqgan(decoder_sizes={"channels": 4, "multipliers": [1, 2]})


# -- scales --------------------------------------------------------------------------------------


def scales(**changes: Any) -> VQGAN:
    torch.manual_seed(0)
    return spread(VQGAN(**SCALES | changes))


def test_whole_scales_decode_and_add_up() -> None:
    model = scales()
    codes = model.encode(wide(2)).codes
    assert codes.shape == (2, 17) and model.spec.scales == ((1, 1), (2, 2), (3, 4))
    for upto, length in ((1, 1), (2, 5), (3, 17)):
        z = model.embed(codes, upto=upto)
        assert torch.equal(z, model.embed(codes[:, :length]))
        assert model.decode(codes[:, :length]).shape == (2, 3, 12, 16)
    assert torch.equal(model.encode(wide(2), num_tokens=5).codes, codes[:, :5])
    for wrong in (codes[:, :4], codes[:, :0], torch.cat([codes, codes], 1), codes + 32):
        with pytest.raises(TokenError):
            model.decode(wrong)
    with pytest.raises(TokenError, match="1, 5, 17"):
        model.encode(wide(2), num_tokens=6)


def test_scales_fix_the_size_of_pictures() -> None:
    model = scales()
    x = pictures(1, 11, 14)  # three by four cells once padded
    assert model.decode(model.encode(x)).shape == x.shape
    with pytest.raises(MediaError, match="4 x 4 cells .* end in 3 x 4.* 12 x 16"):
        model.encode(pictures(1, 16, 16))
    with pytest.raises(ConfigError, match="ends in 3x4 but the latent's grid is 4x4"):
        scales(image_size=16)


# -- training ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["vector", "multi_scale"])
def test_a_few_steps_improve_the_picture(kind: str) -> None:
    torch.manual_seed(0)
    options = SMALL if kind == "vector" else SCALES
    model = VQGAN(**options).train()
    objective = ImageObjective(ImageObjectiveConfig(picture_range="signed"))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    x, errors = torch.nn.functional.interpolate(pictures(4, 3, 4), scale_factor=4.0), []
    for step in range(90):
        out = model(x)
        losses = objective.generator_losses(x, out, step)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        errors.append(float(losses["loss/reconstruction"].detach()))
    assert errors[-1] < 0.6 * errors[0]
    assert (out.statistics["codebook/usage"] > 0).all()


def test_loss_weights_follow_the_options() -> None:
    plain, legacy = vqgan(), vqgan(
        quantizer_options={"codebook_weight": 0.25, "commitment_weight": 1.0}
    )
    legacy.load_state_dict(plain.state_dict())
    ours, theirs = plain.train()(wide(2)).losses, legacy.train()(wide(2)).losses
    for name, share in (("codebook", 0.25), ("commitment", 4.0)):
        torch.testing.assert_close(theirs[f"quantizer/{name}"], share * ours[f"quantizer/{name}"])


def test_the_usage_window_remembers_and_saves() -> None:
    model = vqgan(quantizer_options={"usage_window": 30}).train()
    codes = model(wide(2)).tokens.codes.flatten()
    assert torch.equal(model.recent.codes[-len(codes) :], codes)
    assert (model.recent.codes[: -len(codes)] == 0).all()
    before = model.recent.codes.clone()
    model.eval()(wide(3))
    assert torch.equal(model.recent.codes, before) and "recent.codes" in model.state_dict()


def test_decoder_only_training_keeps_the_codes() -> None:
    model = vqgan(quantizer_options={"dead_code_every": 1, "kmeans_start": True})
    before, code_hash = model.encode(wide(2)).codes, model.code_hash()
    frozen = freeze(model, train_only="decoder", prefixes=["post_quant_conv"])
    set_training(model, frozen)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        out = model(wide(2))
        assert all(float(loss) == 0 for loss in out.losses.values())
        out.reconstruction.square().mean().backward()
        optimizer.step()
    assert model.post_quant_conv.weight.grad is None
    assert model.code_hash() == code_hash
    assert torch.equal(model.eval().encode(wide(2)).codes, before)


def test_gradient_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for trade in (False, True):
        model = vqgan().train()
        if trade:
            model.enable_gradient_checkpointing()
            assert any(getattr(m, "gradient_checkpointing", False) for m in model.modules())
        out = model(wide(2))
        (out.reconstruction.square().mean() + sum(out.losses.values())).backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_the_adaptive_weight_balances_the_last_layer() -> None:
    torch.manual_seed(0)
    model = vqgan().train()
    objective = ImageObjective(ImageObjectiveConfig(
        picture_range="signed", discriminator=True, discriminator_kind="patchgan",
        discriminator_start=0, discriminator_channels=8, discriminator_stages=1,
        discriminator_weight=1.0, lecam_weight=0.0, adaptive_weight=True,
    ))  # fmt: skip
    x = pictures(2, 32, 32)
    out = model(x)
    losses = objective.generator_losses(x, out, 0)
    weight = model.decoder.conv_out.weight
    rest, gan = (
        torch.autograd.grad(losses[f"loss/{name}"], weight, retain_graph=True)[0].norm()
        for name in ("reconstruction", "gan")
    )
    torch.testing.assert_close(gan, rest, rtol=1e-2, atol=0)
    assert float(objective.last_statistics["adaptive_weight"]) > 0
    with pytest.raises(ConfigError, match="adaptive_weight"):
        objective.generator_losses(x, out._replace(features={}), 0)


# -- fast forms ----------------------------------------------------------------------------------


def test_inference_and_training_forms_agree() -> None:
    model = vqgan(encoder_sizes=SIDE | {"attention": [1, 2]})
    x = pictures(2, 24, 32)
    with torch.inference_mode():
        fast = model.latents(x), model.decoder(model.post_quant_conv(model.latents(x)))
    slow = model.latents(x)
    picture = model.train().decoder(model.post_quant_conv(slow))
    for a, b in zip(fast, (slow, picture), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


def test_the_autoencoder_alone() -> None:
    sizes = ConvSizes(channels=8, multipliers=(1, 1.5), groups=4, z_channels=5, res_blocks=1)
    encoder, decoder = ConvEncoder(sizes), ConvDecoder(sizes)
    z = encoder(pictures(2, 10, 8))
    assert encoder.factor == decoder.factor == 2 and sizes.widths == (8, 12)
    assert z.shape == (2, 5, 5, 4) and decoder(z).shape == (2, 3, 10, 8)


def test_attention_is_that_of_the_formula() -> None:
    torch.manual_seed(0)
    part = spread(GridAttention(8, ConvSizes(channels=8, groups=4)))
    x = torch.randn(2, 8, 3, 5)
    q, k, v = part.qkv(part.norm(x)).flatten(2).chunk(3, dim=1)
    scores = torch.softmax(torch.einsum("bcq,bck->bqk", q, k) * 8**-0.5, dim=-1)
    expected = x + part.out(torch.einsum("bqk,bck->bcq", scores, v).unflatten(2, (3, 5)))
    torch.testing.assert_close(part(x), expected)


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"quantizer_kind": "multiscale"}, "did you mean 'multi_scale'"),
        ({"quantizer_kind": "multi_scale"}, "scales is empty"),
        ({"scales": [1, 2]}, "belongs to quantizer_kind 'multi_scale'"),
        ({"quant_kernel": 2}, "legal are 1 and 3"),
        ({"norm_groups": 32}, "multiple of the 32 groups"),
        ({"encoder_sizes": {"chanels": 8}}, "did you mean 'channels'"),
        ({"encoder_sizes": SIDE | {"multipliers": []}}, "one multiplier per level"),
        ({"encoder_sizes": SIDE | {"attention": [3]}}, r"legal are 0 .* to 2"),
        ({"encoder_sizes": SIDE | {"dropout": 1.0}}, "dropout"),
        ({"quantizer_options": {"entropy_weight": -1.0}}, "at least"),
        ({"quantizer_options": {"phi_convs": 4}}, "unknown option 'phi_convs'"),
        ({"image_size": [16, 0]}, "image_size"),
    ],
)  # fmt: skip
def test_impossible_configs_are_one_sentence(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        VQGAN(**SMALL | changes)


def test_impossible_calls_are_one_sentence() -> None:
    model = vqgan()
    tokens = model.encode(wide(2))
    for attempt in (
        lambda: model.encode(wide(2), num_tokens=3),
        lambda: model.encode(wide(2), lengths=torch.tensor([1, 2])),
        lambda: model.decode(tokens, condition=torch.zeros(2, 1, 1)),
        lambda: model.decode(tokens.codes[0]),
        lambda: model.decode(tokens.codes + 32),
        lambda: model.decode(tokens._replace(extent=torch.tensor([[12, 16], [12, 15]]))),
        lambda: model.decode(tokens._replace(extent=torch.tensor([[12, 20]] * 2))),
        lambda: model.embed(tokens, stream="pixel"),
        lambda: model.embed(tokens, upto=2),
    ):
        with pytest.raises(TokenError):
            attempt()
    with pytest.raises(MediaError, match="batch, 3"):
        model.encode(wide(2)[:, :2])
    with pytest.raises(ConfigError, match="modulation"):
        vqgan(modulated_decoder=True).decoder(torch.zeros(1, 6, 2, 2))


def test_an_empty_batch_passes(tmp_path: Path) -> None:
    model = vqgan()
    empty = model.decode(Tokens(torch.zeros(0, 3, 4, dtype=torch.int64)))
    assert empty.shape == (0, 3, 12, 16)
