"""The TiTok family: contract, lengths, training, both stages, configs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_pictures import pictures, spread
from torch import Tensor

from tok_core.contract import Tokenizer, Tokens
from tok_core.errors import ConfigError, MediaError, TokenError, WeightsError
from tok_core.tokenizer_contract import TokenizerContract
from tok_core.training.freezing import freeze, set_training
from vision_tok.maskgit_vqgan import MaskGitVQGAN
from vision_tok.one_d_piece import OneDPiece
from vision_tok.titok import TiTok
from vision_tok.titok_config import SIZES
from vision_tok.titok_kl import TiTokKL
from vision_tok.upsample_conv import UpsampleConv

SMALL: dict[str, Any] = {
    "image_size": 16, "patch_size": 4, "encoder_size": {"width": 32, "layers": 2, "heads": 4},
    "decoder_size": {"width": 48, "layers": 2, "heads": 4}, "num_tokens": 8, "token_size": 6,
    "codebook_size": 32,
}  # fmt: skip
PIXELS = {"hidden_channels": 32, "channel_mult": [1, 1, 1], "num_res_blocks": 1, "z_channels": 8}
LEGACY: dict[str, Any] = SMALL | {
    "legacy_reshape": True, "head": "legacy", "proxy_codebook_size": 24,
}  # fmt: skip
CONTINUOUS = {name: value for name, value in SMALL.items() if name != "codebook_size"}
HYBRID: dict[str, Any] = SMALL | {
    "stem": "conv", "latent_seed": "grid", "head": "conv", "conv_channels": [16, 16],
    "num_tokens": 16,
}  # fmt: skip


def piece(**changes: Any) -> OneDPiece:
    torch.manual_seed(0)
    return spread(OneDPiece(**SMALL | changes))


# -- the common contract -------------------------------------------------------------------------


class Family(TokenizerContract):
    code_parameter = "encoder.positional_embedding"
    decoder_parameter = "decoder.positional_embedding"

    def sample(self, batch: int) -> Tensor:
        return pictures(batch)


class TestDirectTiTok(Family):
    def make(self) -> Tokenizer:
        return spread(TiTok(**SMALL, l2_normalize=False))


class TestLegacyOneDPiece(Family):
    def make(self) -> Tokenizer:
        return spread(OneDPiece(**LEGACY, pixel_decoder=PIXELS))


class TestHybridOneDPiece(Family):
    def make(self) -> Tokenizer:
        return spread(OneDPiece(**HYBRID))


class TestMaskGitVQGAN(Family):
    code_parameter = "encoder.conv_in.weight"
    decoder_parameter = "decoder.conv_out.weight"

    def make(self) -> Tokenizer:
        return spread(teacher())

    @pytest.mark.parametrize("shape", [(16, 12), (15, 9), (1, 1)])
    def test_any_size_comes_back(self, model: Tokenizer, shape: tuple[int, int]) -> None:
        x = torch.rand(2, 3, *shape) * 2 - 1
        assert model.decode(model.encode(x)).shape == x.shape
        assert model(x).reconstruction.shape == x.shape


def teacher(codes: int = 24) -> MaskGitVQGAN:
    torch.manual_seed(5)
    return spread(MaskGitVQGAN(**PIXELS, codebook_size=codes))


# -- lengths -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["legacy", "direct", "hybrid"])
def test_a_length_per_item_gives_what_slicing_gives(kind: str) -> None:
    changes = {"legacy": LEGACY | {"pixel_decoder": PIXELS}, "direct": {}, "hybrid": HYBRID}[kind]
    model = piece(**changes)
    codes = model.encode(pictures(4)).codes
    lengths = torch.tensor([1, 5, 8, 3])
    padded = codes.clone()
    padded[torch.arange(codes.shape[1]) >= lengths[:, None]] = -1  # what padding holds is nothing
    together = model.decode(Tokens(padded, lengths))
    for item, k in enumerate(lengths.tolist()):
        alone = model.decode(codes[item : item + 1, :k])
        assert torch.allclose(together[item], alone[0], atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 8), min_size=1, max_size=5), st.integers(1, 7))
def test_many_lengths_in_one_call(lengths: list[int], batch_size: int) -> None:
    model = piece()
    tokens = model.encode(pictures(2))
    out = model.decode_lengths(tokens, lengths, batch_size=batch_size)
    assert out.shape == (len(lengths), 2, 3, 16, 16)
    for k, picture in zip(lengths, out, strict=True):
        assert torch.allclose(picture, model.decode(tokens.codes[:, :k]), atol=1e-5)


def test_prefixes_differ_and_budgets_are_prefixes() -> None:
    model = piece()
    x = pictures(2)
    tokens = model.encode(x)
    assert torch.equal(model.encode(x, num_tokens=3).codes, tokens.codes[:, :3])
    one, all_of_them = model.decode_lengths(tokens, [1, 8])
    assert (one - all_of_them).abs().max() > 1e-3


@pytest.mark.parametrize("bad", [0, 9, -1])
def test_impossible_lengths_are_one_sentence(bad: int) -> None:
    model = piece()
    codes = model.encode(pictures(2)).codes
    for attempt in (
        lambda: model.encode(pictures(2), num_tokens=bad),
        lambda: model.decode(Tokens(codes, torch.tensor([bad, 2]))),
        lambda: model.decode_lengths(codes, [2, bad]),
    ):
        with pytest.raises(TokenError, match="legal"):
            attempt()
    for wrong in (codes[:, :0], torch.cat([codes, codes], 1), codes + 32, codes.int()):
        with pytest.raises(TokenError):
            model.decode(wrong)


def test_titok_decodes_its_one_length_only() -> None:
    model = spread(TiTok(**SMALL))
    tokens = model.encode(pictures(2))
    with pytest.raises(TokenError, match="legal"):
        model.decode(tokens.codes[:, :5])
    with pytest.raises(TokenError):
        model.encode(pictures(2), num_tokens=5)
    with pytest.raises(TokenError):
        model.decode(Tokens(tokens.codes, torch.tensor([8, 4])))
    with pytest.raises(ConfigError, match="OneDPiece"):
        TiTok(**SMALL, tail_drop={})


def test_another_picture_size_is_one_sentence() -> None:
    with pytest.raises(MediaError, match="resize"):
        piece().encode(pictures(1, 20))
    tokens = piece().encode(pictures(1))
    with pytest.raises(TokenError, match="20"):
        piece().decode(tokens._replace(extent=torch.tensor([[20, 16]])))


# -- training ------------------------------------------------------------------------------------


def test_the_shared_draw_slices_and_covers_all_tokens_in_the_losses() -> None:
    model = piece().train()
    torch.manual_seed(3)
    out = model(pictures(4))
    torch.manual_seed(3)
    k = int(torch.randint(1, 9, (1,)))
    assert out.tokens.lengths.tolist() == [k] * 4 and out.tokens.codes.shape == (4, 8)
    z = model.quantizer(model.latents(pictures(4))).latents
    assert torch.allclose(out.reconstruction, model.picture(z[:, :k]), atol=1e-5)
    assert model.eval()(pictures(4)).tokens.lengths is None


def test_a_draw_per_sample_equals_slicing_in_value_and_gradient() -> None:
    model = piece(tail_drop={"per_sample": True}).train()
    torch.manual_seed(1)
    out = model(pictures(4))
    lengths = out.tokens.lengths.tolist()
    assert len(set(lengths)) > 1
    out.reconstruction.square().sum().backward()
    name = "decoder.latent_token_positional_embedding"
    gradient = dict(model.named_parameters())[name].grad.clone()
    model.zero_grad()
    z = model.quantizer(model.latents(pictures(4))).latents
    alone = [model.picture(z[i : i + 1, :k]) for i, k in enumerate(lengths)]
    assert torch.allclose(out.reconstruction, torch.cat(alone), atol=1e-5)
    torch.cat(alone).square().sum().backward()
    again = dict(model.named_parameters())[name].grad
    assert torch.allclose(gradient, again, rtol=1e-4, atol=1e-4 * float(again.abs().max()))


def test_joint_training_decodes_full_and_short() -> None:
    model = piece(tail_drop={"joint": True}).train()
    torch.manual_seed(3)
    out = model(pictures(2))
    z = model.quantizer(model.latents(pictures(2))).latents
    torch.manual_seed(3)
    k = model.tail_drop.draw_length()
    assert k < 8 and out.tokens.lengths is None
    assert torch.allclose(out.reconstruction, model.picture(z), atol=1e-5)
    assert torch.allclose(out.shortened, model.picture(z[:, :k]), atol=1e-5)
    stage1 = piece(**LEGACY, tail_drop={"joint": True}).train()(pictures(2))
    assert {"proxy_logits", "shortened_proxy_logits"} == set(stage1.features)


def test_gradient_checkpointing_changes_nothing() -> None:
    model = piece()
    x = pictures(2)
    plain = model(x).reconstruction
    model.enable_gradient_checkpointing()
    assert model.encoder.blocks.gradient_checkpointing
    assert torch.equal(model(x).reconstruction, plain)
    model(x).reconstruction.sum().backward()


def test_decoder_only_training_keeps_codes_and_drops_their_losses() -> None:
    model = piece()
    before = model.code_hash()
    frozen = freeze(model, train_only="decoder")
    set_training(model, frozen)
    assert model.codes_are_frozen and model.training and not model.encoder.training
    torch.manual_seed(3)
    out = model(pictures(2))
    assert all(float(loss) == 0.0 for loss in out.losses.values())
    assert out.tokens.lengths is not None  # tail drop goes on
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    out.reconstruction.square().mean().backward()
    optimizer.step()
    assert model.code_hash() == before


# -- the two stages ------------------------------------------------------------------------------


def test_stage_1_decodes_through_its_teacher_only() -> None:
    model = piece(**LEGACY)
    tokens = model.encode(pictures(2))
    with pytest.raises(WeightsError, match="stage-1"):
        model.decode(tokens)
    out = model(pictures(2))
    assert out.reconstruction is None and out.features["proxy_logits"].shape == (2, 24, 4, 4)
    model.attach_teacher(teacher())
    codes = model.paint(model.embed(tokens))[1].argmax(1)
    assert torch.equal(model.decode(tokens), teacher().decode(codes))
    assert not any("teacher" in name for name in model.state_dict())
    with pytest.raises(WeightsError, match="48 codes"):
        model.attach_teacher(teacher(48))
    with pytest.raises(WeightsError):
        piece().attach_teacher(teacher())


def test_stage_2_starts_from_stage_1_and_the_teacher(tmp_path: Path) -> None:
    stage1 = piece(**LEGACY, tail_drop={"draw": "power"})
    stage2 = stage1.with_pixel_stage(teacher()).eval()
    assert isinstance(stage2, OneDPiece) and stage2.tail_drop.draw == "power"
    assert torch.equal(stage2.encode(pictures(2)).codes, stage1.encode(pictures(2)).codes)
    out = stage2(pictures(2))
    ours = stage1(pictures(2)).features["proxy_logits"]
    assert torch.equal(out.features["proxy_logits"], ours)
    mixed = (ours.softmax(1).movedim(1, -1) @ teacher().quantizer.codebook).movedim(-1, 1)
    assert torch.allclose(out.reconstruction, teacher().decoder(mixed) * 2 - 1, atol=1e-4)
    stage2.save_pretrained(tmp_path)
    assert OneDPiece.from_pretrained(tmp_path).weights_hash() == stage2.weights_hash()


# -- variants ------------------------------------------------------------------------------------


def test_the_legacy_reshape_reviews_and_does_not_transpose() -> None:
    model = piece(**LEGACY)
    seen: list[Tensor] = []
    model.encoder.norm_out.register_forward_hook(lambda m, a, out: seen.append(out))
    z = model.latents(pictures(1))
    flat = seen[0].reshape(-1)
    rows = torch.stack([flat[j::8] for j in range(8)])
    assert torch.allclose(z[0], model.encoder.projection(rows), atol=1e-6)


def test_text_reaches_the_picture_and_is_asked_for() -> None:
    model = piece(text={"context_length": 3, "embed_dim": 10})
    assert model.spec.condition == "text"
    tokens, text = model.encode(pictures(2)), torch.randn(2, 3, 10)
    there = model.decode(tokens, condition=text)
    assert (there - model.decode(tokens, condition=-text)).abs().max() > 1e-3
    ragged = model.decode(tokens._replace(lengths=torch.tensor([2, 8])), condition=text)
    alone = model.decode(tokens.codes[:1, :2], condition=text[:1])
    assert torch.allclose(ragged[0], alone[0], atol=1e-5)
    assert torch.equal(model.decode_lengths(tokens, [8], condition=text)[0], there)
    with pytest.raises(TokenError, match="text"):
        model.decode(tokens)
    with pytest.raises(TokenError, match="no condition"):
        piece().decode(tokens, condition=text)


def test_gaussian_latents(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = spread(TiTokKL(**CONTINUOUS))
    x = pictures(2)
    assert torch.equal(model.latents(x), model.posterior(x).mean)
    draws = [model.latents(x, sample=True, generator=torch.Generator().manual_seed(0))
             for _ in range(2)]
    assert torch.equal(*draws) and not torch.equal(draws[0], model.latents(x))
    assert model.decode_latents(model.latents(x)).shape == x.shape
    out = model(x)
    assert out.tokens.codes.shape == (2, 0)
    torch.testing.assert_close(out.losses["posterior/kl"], 1e-6 * model.posterior(x).kl().sum() / 2)
    out.losses["posterior/kl"].backward()
    assert model.encoder.projection.weight.grad.abs().sum() > 0
    model.save_pretrained(tmp_path)
    assert TiTokKL.from_pretrained(tmp_path).weights_hash() == model.weights_hash()


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"head": "legaci"}, "legacy"),
        ({"stem": "conv"}, "go together"),
        ({"latent_seed": "gird"}, "grid"),
        ({"encoder_size": "smal"}, "small"),
        ({"encoder_size": {"width": 32, "layer": 2}}, "layers"),
        ({"encoder_size": {"width": 30, "layers": 1, "heads": 4}}, "multiple"),
        ({"patch_size": 5}, "divide"),
        ({"num_tokens": 0}, "at least 1"),
        ({"pixel_decoder": PIXELS}, "legacy"),
        ({"tail_drop": {"draw": "unifrom"}}, "uniform"),
        ({"tail_drop": {"probability": 2.0}}, "0 to 1"),
        ({"quantizer_options": {"ema_decai": 0.9}}, "ema_decay"),
    ],
)
def test_bad_configs_are_one_sentence(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        OneDPiece(**SMALL | changes)


def test_sizes_and_initialisation_follow_the_paper() -> None:
    assert {n: (s.width, s.layers, s.num_heads) for n, s in SIZES.items()} == {
        "small": (512, 8, 8), "base": (768, 12, 12), "large": (1024, 24, 16),
    }  # fmt: skip
    torch.manual_seed(0)
    size = {"width": 256, "layers": 1, "heads": 4}
    model = OneDPiece(**SMALL | {"encoder_size": size, "decoder_size": size, "num_tokens": 64,
                                   "codebook_size": 4096})
    block = model.encoder.blocks[0]
    model.requires_grad_(False)
    assert float(block.mlp.up.weight.std()) == pytest.approx(0.02, rel=0.05)
    assert float(model.encoder.stem.projection.weight.std()) == pytest.approx(0.02, rel=0.05)
    assert float(model.latent_tokens.std()) == pytest.approx(1 / 16, rel=0.05)
    assert float(model.decoder.positional_embedding.std()) == pytest.approx(1 / 16, rel=0.1)
    bound = (6 / (256 + 3 * 256)) ** 0.5
    assert float(block.attention.qkv.weight.abs().max()) == pytest.approx(bound, rel=0.01)
    assert float(model.quantizer.codebook.abs().max()) <= 1 / 4096
    assert all(float(p.abs().max()) == 0 for n, p in model.named_parameters()
               if n.endswith("bias"))


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3))
def test_folded_upsampling_equals_doubling_and_convolving(h: int, w: int, batch: int) -> None:
    torch.manual_seed(h * 10 + w)
    layer = UpsampleConv(6, 4).eval()
    x = torch.randn(batch, 6, h, w)
    expected = layer.train()(x).detach()
    with torch.no_grad():
        assert torch.allclose(layer.eval()(x), expected, atol=1e-5)
        assert layer._folded is not None
        layer.weight.mul_(2.0)  # a stale kernel would show
        layer.bias.mul_(2.0)
        assert torch.allclose(layer(x), 2 * expected, atol=1e-5)


def test_hashes_do_not_depend_on_how_a_config_is_written() -> None:
    small = {"width": 512, "layers": 8, "heads": 8}
    first = OneDPiece(**SMALL)
    again = OneDPiece(**SMALL | {"quantizer_options": {"commitment_weight": 0.5}, "tail_drop": {}})
    again.load_state_dict(first.state_dict())
    assert again.code_hash() == first.code_hash()  # training options decide no code
    other = OneDPiece(**SMALL | {"l2_normalize": False})
    other.load_state_dict(first.state_dict())
    assert other.code_hash() != first.code_hash()
    with torch.device("meta"):
        assert OneDPiece(encoder_size="small").config == OneDPiece(encoder_size=small).config
