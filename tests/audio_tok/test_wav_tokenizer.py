"""The codec as a tokenizer: contract, exact lengths, levels, the causal variant, the importer."""

from __future__ import annotations

import argparse
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from audio_tok.import_wav_tokenizer import import_wav_tokenizer, wav_tokenizer_from_state
from audio_tok.official_keys import official_names, weight_norm_parts
from audio_tok.wav_decoder import WavDecoder, save_decoder
from audio_tok.wav_tokenizer import WavTokenizer
from tok_core.contract import Tokens
from tok_core.errors import ConfigError, MediaError, TokenError, WeightsError
from tok_core.tokenizer_contract import TokenizerContract

SMALL: dict[str, Any] = {
    "strides": [2, 2, 4], "encoder_width": 4, "latent_dim": 8, "codebook_size": 32, "width": 32,
    "hidden": 48, "layers": 2,
}  # fmt: skip
CAUSAL: dict[str, Any] = SMALL | {"causal": True, "attention_window": 3}
LEVELS: dict[str, Any] = SMALL | {"num_codebooks": 4}
HOP = 16


def make(seed: int = 0, **options: Any) -> WavTokenizer:
    """A small codec whose codes depend on the sound."""
    torch.manual_seed(seed)
    model = WavTokenizer(**SMALL | options).eval()
    with torch.no_grad():
        for level in model.quantizer.levels:
            level.codebook.normal_(std=0.1)
        model.head.out.weight.mul_(0.3)
    return model


def sound(batch: int, samples: int, seed: int = 1) -> Tensor:
    return torch.rand(batch, 1, samples, generator=torch.Generator().manual_seed(seed)) * 1.6 - 0.8


class TestWavTokenizer(TokenizerContract):
    decoder_parameter = "backbone.blocks.0.gamma"
    code_parameter = "encoder.first.weight"

    def make(self) -> WavTokenizer:
        return make()

    def sample(self, batch: int) -> Tensor:
        return sound(batch, 40 * HOP)


class TestCausalLevels(TestWavTokenizer):
    def make(self) -> WavTokenizer:
        drop = {"joint": True, "per_sample": True}
        return make(**CAUSAL | {"num_codebooks": 3, "tail_drop": drop})


class TestGradientCodebookWithoutAttentionOrLstm(TestWavTokenizer):
    def make(self) -> WavTokenizer:
        quantizer = {"update": "gradient", "l2_normalize": True, "kmeans_start": False}
        return make(attention=False, lstm_layers=0, width=20, quantizer=quantizer)


class TestLevelsOnTheSphere(TestWavTokenizer):
    def make(self) -> WavTokenizer:
        return make(**LEVELS | {"quantizer": {"l2_normalize": True}, "tail_drop": {}})


# -- lengths -------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [1, 2, 7, 15, 16, 17, 100, 16 * 9, 333])
@pytest.mark.parametrize("options", [{}, CAUSAL], ids=["ordinary", "causal"])
def test_exactly_the_length_that_went_in_comes_back(samples: int, options: dict[str, Any]) -> None:
    model, x = make(**options), sound(2, samples)
    tokens = model.encode(x)
    assert tokens.codes.shape == (2, 1, -(-samples // HOP)) and tokens.lengths is None
    assert model.decode(tokens).shape == x.shape
    assert model.decode(tokens.codes).shape[-1] == tokens.codes.shape[-1] * HOP


def test_unequal_lengths_in_a_batch_give_what_each_gives_alone() -> None:
    model, x = make(), sound(4, 333)
    lengths = torch.tensor([333, 100, 7, 100])
    tokens = model.encode(x, lengths=lengths)
    assert tokens.lengths is not None and tokens.lengths.tolist() == [21, 7, 1, 7]
    out = model.decode(tokens)
    assert out.shape == x.shape
    for i, length in enumerate(lengths.tolist()):
        alone = model.encode(x[i : i + 1, :, :length])
        frames = alone.codes.shape[-1]
        assert torch.equal(tokens.codes[i, :, :frames], alone.codes[0])
        assert not tokens.codes[i, :, frames:].any()
        assert torch.allclose(out[i, :, :length], model.decode(alone)[0], atol=1e-5)
        assert not out[i, :, length:].any()


def test_padding_behind_the_length_is_neither_read_nor_checked() -> None:
    model, x = make(), sound(2, 160)
    tokens = model.encode(x, lengths=torch.tensor([160, 50]))
    spoilt = tokens.codes.clone()
    spoilt[1, :, 4:] = 10**6
    spoilt_tokens = tokens._replace(codes=spoilt)
    assert torch.equal(model.decode(spoilt_tokens), model.decode(tokens))
    assert not model.embed(spoilt_tokens)[1, :, 4:].any()


def test_what_does_not_fit_is_one_sentence() -> None:
    model = make()
    codes = model.encode(sound(1, 160)).codes
    with pytest.raises(MediaError, match="at least one sample"):
        model.encode(torch.zeros(1, 1, 0))
    with pytest.raises(MediaError, match="channels one by one"):
        model.encode(torch.zeros(1, 2, 100))
    with pytest.raises(TokenError, match="outside the vocabulary"):
        model.decode(codes + 32)
    with pytest.raises(TokenError, match="lengths"):
        model.decode(Tokens(codes, torch.tensor([11])))
    with pytest.raises(TokenError, match="extent"):
        model.decode(Tokens(codes, None, torch.tensor([[161]])))
    with pytest.raises(TokenError, match="num_tokens is 2 codebooks"):
        model.encode(sound(1, 160), num_tokens=2)
    with pytest.raises(TokenError, match="lengths"):
        model.encode(sound(1, 160), lengths=torch.tensor([0]))


# -- levels --------------------------------------------------------------------------------------


def test_a_budget_of_levels_is_a_prefix_and_decodes() -> None:
    model, x = make(**LEVELS).requires_grad_(False), sound(2, 320)
    full = model.encode(x)
    assert full.codes.shape == (2, 4, 20)
    z = model.latents(x).detach()
    errors: list[float] = []
    for count in range(1, 5):
        kept = model.encode(x, num_tokens=count)
        assert torch.equal(kept.codes, full.codes[:, :count])
        assert model.decode(kept).shape == x.shape
        assert torch.allclose(model.embed(full, upto=count), model.embed(kept), atol=1e-6)
        errors.append(float((model.embed(kept) - z).square().mean()))
    assert errors[-1] < errors[0]
    sequence = model.spec.to_sequence(model.encode(x, num_tokens=2).codes)
    assert sequence.shape == (2, 20, 2)
    assert torch.equal(model.spec.from_sequence(sequence), full.codes[:, :2])


def test_dropped_levels_reach_the_decoder_and_every_level_keeps_training() -> None:
    x = sound(3, 320)
    model = make(**LEVELS, tail_drop={"draw": "uniform"}, dropout=0.0).train()
    row = torch.zeros(1, dtype=torch.int64)
    model.quantizer.levels.apply(lambda part: setattr(part, "frozen", True))
    seen = set()
    for seed in range(12):
        torch.manual_seed(seed)
        kept = int(torch.randint(1, 5, (1,)))
        torch.manual_seed(seed)
        out = model(x, condition=row)
        assert out.tokens.codes.shape[1] == 4
        short = Tokens(out.tokens.codes[:, :kept], extent=out.tokens.extent)
        expected = model(x, tokens=short, condition=row).reconstruction
        assert torch.allclose(out.reconstruction, expected, atol=1e-5)
        seen.add(kept)
    assert len(seen) > 2


def test_joint_training_gives_both_and_one_codebook_refuses_tail_drop() -> None:
    model = make(**LEVELS, tail_drop={"joint": True}, dropout=0.0).train()
    out = model(sound(2, 320))
    assert out.shortened is not None and out.shortened.shape == out.reconstruction.shape
    with pytest.raises(ConfigError, match="num_codebooks is 1"):
        WavTokenizer(**SMALL, tail_drop={})


# -- causality -----------------------------------------------------------------------------------


def test_the_causal_variant_never_reads_ahead() -> None:
    model, x = make(**CAUSAL), sound(1, 640)
    changed = x.clone()
    changed[..., 20 * HOP :] = sound(1, 320, seed=9)
    before, after = model.latents(x), model.latents(changed)
    assert torch.allclose(before[..., :20], after[..., :20], atol=1e-6)
    assert not torch.allclose(before[..., 20:], after[..., 20:], atol=1e-3)
    z, other = before, before.clone()
    other[..., 20:] += 1
    ahead = (model.settings.n_fft - HOP) // 2  # the head's window is all that waits
    wave, changed_wave = model.decode_latents(z), model.decode_latents(other)
    safe = 20 * HOP - ahead
    assert torch.allclose(wave[..., :safe], changed_wave[..., :safe], atol=1e-6)
    assert not torch.allclose(wave[..., safe:], changed_wave[..., safe:], atol=1e-3)


def test_the_ordinary_variant_does_read_ahead() -> None:
    model, x = make(), sound(1, 640)
    changed = x.clone()
    changed[..., 20 * HOP :] = 0
    last = slice(18, 20)
    assert not torch.allclose(model.latents(x)[..., last], model.latents(changed)[..., last])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"causal": True}, "attention_window"),
        ({"attention_window": 5}, "not causal"),
        ({"width": 40}, "multiple of 32"),
        ({"strides": []}, "strides"),
        ({"strides": [3, 5]}, "n_fft"),
        ({"strides": [3, 5], "n_fft": 7}, "n_fft"),
        ({"encoder_width": 3}, "even"),
        ({"quantizer": {"comitment_weight": 1.0}}, "commitment_weight"),
        ({"tail_drop": {"joined": True}, "num_codebooks": 2}, "joint"),
        ({"dropout": 1.0}, "dropout"),
        ({"codebook_size": 0}, "codebook_size"),
    ],
)
def test_illegal_configs_are_one_sentence(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        WavTokenizer(**SMALL | options)


# -- condition -----------------------------------------------------------------------------------


def test_rows_of_the_adaptive_norms() -> None:
    model, x = make(), sound(2, 160)
    with torch.no_grad():
        model.backbone.norm.scale.normal_(1.0, 0.5)
    tokens = model.encode(x)
    waves = [model.decode(tokens, condition=torch.tensor([i])) for i in range(4)]
    assert torch.equal(waves[0], model.decode(tokens))
    assert not torch.allclose(waves[0], waves[1], atol=1e-4)
    mixed = model.decode(tokens, condition=torch.tensor([2, 1]))
    assert torch.allclose(mixed, torch.stack((waves[2][0], waves[1][1])), atol=1e-6)
    model.eval().backbone.position_net.requires_grad_(False)
    drawn = set()
    for seed in range(10):
        torch.manual_seed(seed)
        drawn.add(int(model.train().draw_row(x)))
    assert len(drawn) > 2 and not model.eval().draw_row(x).any()


# -- the decoder alone ---------------------------------------------------------------------------


def test_the_decoder_alone_decodes_the_same_and_says_whose_codes(tmp_path: Path) -> None:
    model, x = make(**LEVELS), sound(2, 333)
    save_decoder(model, tmp_path)
    decoder = WavDecoder.from_pretrained(tmp_path)
    tokens = model.encode(x)
    assert torch.equal(decoder.decode(tokens), model.decode(tokens))
    assert torch.equal(decoder(tokens.codes), model.decode(tokens.codes))
    assert decoder.code_hash() == model.code_hash() and decoder.spec == model.spec
    assert not any(name.startswith("encoder.") for name in decoder.state_dict())
    assert all("codebook" in n for n in decoder.state_dict() if n.startswith("quantizer."))


# -- importing -----------------------------------------------------------------------------------


def official_state(model: WavTokenizer) -> dict[str, Tensor]:
    """The state as the authors would have saved it, dead decoder and extras included."""
    state: dict[str, Tensor] = {"head.istft.window": torch.hann_window(model.settings.n_fft)}
    names = official_names(model)
    for own, tensor in model.state_dict().items():
        official, tensor = names[own], tensor.clone()
        parts = weight_norm_parts(official)
        if parts is None:
            one_by_one = ".pos_net.2." in official and tensor.dim() == 2
            shaped = tensor.float().reshape(1) if official.endswith("inited") else tensor
            state[official] = shaped[..., None] if one_by_one else shaped
            continue
        direction = tensor if tensor.dim() == 3 else tensor[..., None]
        length = direction.flatten(1).norm(dim=1)[:, None, None]
        state[parts[0]], state[parts[1]] = length, direction * 3.0
    state["feature_extractor.encodec.decoder.model.0.conv.conv.bias"] = torch.zeros(3)
    state["multiperioddisc.discriminators.0.convs.0.bias"] = torch.zeros(3)
    return state


@pytest.fixture
def published() -> WavTokenizer:
    return make(quantizer={"ema_smoothing": 1e-5, "kmeans_iterations": 200})


def test_a_lightning_checkpoint_comes_in_whole(published: WavTokenizer, tmp_path: Path) -> None:
    checkpoint = {
        "state_dict": OrderedDict(official_state(published)),
        "hyper_parameters": argparse.Namespace(sample_rate=24000, folder=Path("runs")),
        "epoch": 3, "callbacks": {"best": Path("best.ckpt")},
    }  # fmt: skip
    torch.save(checkpoint, tmp_path / "model.ckpt")
    for source in (tmp_path / "model.ckpt", tmp_path):
        model = import_wav_tokenizer(source)
        assert not model.training and model.settings == published.settings
        theirs = published.state_dict()
        for name, tensor in model.state_dict().items():
            assert torch.allclose(tensor, theirs[name], atol=1e-6), name
    x = sound(1, 200)
    assert torch.equal(model.encode(x).codes, published.encode(x).codes)


def test_an_encoder_without_lstm_and_a_plain_backbone_come_in(tmp_path: Path) -> None:
    plain = make(lstm_layers=0, attention=False, quantizer={"ema_smoothing": 1e-5})
    save_file(official_state(plain), tmp_path / "weights.safetensors")
    model = import_wav_tokenizer(tmp_path / "weights.safetensors")
    assert (model.settings.lstm_layers, model.settings.attention) == (0, False)
    assert torch.allclose(model.latents(sound(1, 99)), plain.latents(sound(1, 99)), atol=1e-5)


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (os.environ["HOSTILE_FOLDER"],))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_checkpoint_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool
) -> None:
    monkeypatch.setenv("HOSTILE_FOLDER", str(tmp_path / "made"))
    file = tmp_path / "model.ckpt"
    if zipped:
        torch.save({"state_dict": {}, "callbacks": Hostile()}, file)
    else:
        file.write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(WeightsError, match="cannot read"):
        import_wav_tokenizer(file)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("missing", "lacks backbone.final_layer_norm.bias"),
        ("unknown", "unknown backbone.stranger"),
        ("misshapen", "of shape"),
        ("window", "Hann"),
        ("no window", "lacks head.istft.window"),
        ("no encoder", "not a whole WavTokenizer"),
        ("other codes", "mixes two models"),
    ],
)
def test_what_does_not_fit_is_named(published: WavTokenizer, damage: str, words: str) -> None:
    state = official_state(published)
    if damage == "missing":
        del state["backbone.final_layer_norm.bias"]
    elif damage == "unknown":
        state["backbone.stranger"] = torch.zeros(1)
    elif damage == "misshapen":
        state["backbone.final_layer_norm.bias"] = torch.zeros(3)
    elif damage == "window":
        state["head.istft.window"] = torch.ones(64)
    elif damage == "no window":
        del state["head.istft.window"]
    elif damage == "no encoder":
        state = {k: t for k, t in state.items() if ".encoder." not in k}
    else:
        key = "feature_extractor.encodec.quantizer.vq.layers.0._codebook.embed"
        state[key] = torch.zeros(32, 9)
    with pytest.raises(WeightsError, match=words):
        wav_tokenizer_from_state(state)


def test_missing_and_ambiguous_sources_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="there is no file"):
        import_wav_tokenizer(tmp_path / "nowhere.ckpt")
    with pytest.raises(WeightsError, match="name one"):
        import_wav_tokenizer(tmp_path)
