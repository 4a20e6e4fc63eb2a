"""The continuous codec and its dimension-wise tokenizer: contract, lengths, training, bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from audio_tok.audio_data import open_audio
from audio_tok.dimension_wise_codec import DimensionWiseCodec
from audio_tok.kl_codec import KLCodec
from audio_tok.streaming import StreamDecoder, StreamEncoder
from audio_tok.train import AudioRun, train
from audio_tok.wav_decoder import save_decoder
from tok_core.contract import Tokens
from tok_core.errors import ConfigError, MediaError, TokenError
from tok_core.loading import load
from tok_core.run_config import load_config
from tok_core.tokenizer_contract import TokenizerContract

RECIPE = Path(__file__).parents[2] / "assets" / "configs" / "kl-codec-tiny.yaml"
SMALL: dict[str, Any] = {
    "strides": [2, 2, 4], "encoder_width": 4, "latent_dim": 4, "width": 32, "hidden": 48,
    "layers": 2,
}  # fmt: skip
CAUSAL: dict[str, Any] = {"causal": True, "attention_window": 3}
HOP = 16


def continuous(**options: Any) -> KLCodec:
    torch.manual_seed(0)
    model = KLCodec(**SMALL | options).eval()
    with torch.no_grad():
        model.head.out.weight.mul_(0.3)
    return model


def codec(**options: Any) -> DimensionWiseCodec:
    quantization = {"bits": 4, "scale": 0.4} | {
        k: options.pop(k) for k in ("bits", "scale", "shift", "low", "high", "empty_bins")
        if k in options
    }  # fmt: skip
    return DimensionWiseCodec.from_vae(continuous(**options), **quantization)


def sound(batch: int, samples: int, seed: int = 1) -> Tensor:
    return torch.rand(batch, 1, samples, generator=torch.Generator().manual_seed(seed)) * 1.6 - 0.8


class TestDimensionWiseCodec(TokenizerContract):
    decoder_parameter = "backbone.blocks.0.gamma"
    code_parameter = "encoder.first.weight"

    def make(self) -> DimensionWiseCodec:
        return codec()

    def sample(self, batch: int) -> Tensor:
        return sound(batch, 40 * HOP)


class TestCausalWithScalePerChannel(TestDimensionWiseCodec):
    def make(self) -> DimensionWiseCodec:
        return codec(**CAUSAL, scale=[0.4, 0.8, 0.6, 0.2], shift=[0.1, 0.0, -0.1, 0.2], bits=5)


# -- the continuous codec ------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [1, 15, 16, 17, 333])
def test_latents_and_sound_of_any_length(samples: int) -> None:
    model, x = continuous(), sound(2, samples)
    z = model.latents(x)
    assert z.shape == (2, 4, -(-samples // HOP)) and z.dtype == torch.float32
    assert model.decode_latents(z).shape == (2, 1, z.shape[2] * HOP)
    out = model(x)
    assert out.reconstruction is not None and out.reconstruction.shape == x.shape
    drawn = model.latents(x, sample=True, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.latents(x), z) and not torch.equal(drawn, z)


def test_the_divergence_is_weighed_and_trains_the_encoder(tmp_path: Path) -> None:
    model, x = continuous(kl_weight=0.5).train(), sound(3, 160)
    out = model(x)
    expected = model.posterior(x).kl(axis=1).mean()
    assert torch.allclose(out.losses["posterior/kl"], 0.5 * expected)
    out.losses["posterior/kl"].backward()
    assert model.encoder.first.weight.grad is not None
    given = model(x, latents=model.posterior(x).mean.detach())
    assert not given.losses and given.tokens.codes.shape == (3, 0)
    model.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert type(again) is KLCodec and again.weights_hash() == model.weights_hash()


# -- the tokenizer -------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [1, 7, 16, 17, 100, 333])
@pytest.mark.parametrize("options", [{}, CAUSAL], ids=["ordinary", "causal"])
def test_exactly_the_length_that_went_in_comes_back(samples: int, options: dict[str, Any]) -> None:
    model, x = codec(**options), sound(2, samples)
    tokens = model.encode(x)
    frames = -(-samples // HOP)
    assert tokens.codes.shape == (2, 4, frames)
    assert model.decode(tokens).shape == x.shape
    sequence = model.spec.to_sequence(tokens.codes)
    assert sequence.shape == (2, frames, 4)
    assert torch.equal(model.spec.from_sequence(sequence), tokens.codes)


def test_unequal_lengths_in_a_batch_give_what_each_gives_alone() -> None:
    model, x = codec(), sound(3, 333)
    tokens = model.encode(x, lengths=torch.tensor([333, 100, 7]))
    assert tokens.lengths is not None and tokens.lengths.tolist() == [21, 7, 1]
    out = model.decode(tokens)
    for i, length in enumerate((333, 100, 7)):
        alone = model.encode(x[i : i + 1, :, :length])
        frames = alone.codes.shape[-1]
        assert torch.equal(tokens.codes[i, :, :frames], alone.codes[0])
        assert torch.allclose(out[i, :, :length], model.decode(alone)[0], atol=1e-5)
        assert not out[i, :, length:].any() and not model.embed(tokens)[i, :, frames:].any()


def test_latents_embed_and_tables_are_normalised() -> None:
    model, source, x = codec(scale=0.5, shift=0.1), continuous(), sound(2, 160)
    assert torch.allclose(model.latents(x), (source.latents(x) - 0.1) / 2, atol=1e-6)
    codes, values = model.encode(x).codes, model.codebooks[0].vectors[:, 0]
    assert len(model.codebooks) == 4 and torch.equal(model.embed(codes), values[codes])
    restored = model.embed(codes) / 0.5 + 0.1
    assert torch.allclose(model.decode(codes), source.decode_latents(restored), atol=1e-6)


def test_calibrated_settings_fit_the_sounds(tmp_path: Path) -> None:
    source = continuous()
    source.save_pretrained(tmp_path)
    batches = [sound(3, 320), sound(1, 999, seed=2)]
    model = DimensionWiseCodec.calibrated(tmp_path, batches, per_channel=True, bits=8)
    z = torch.cat([model.latents(x).movedim(1, 0).flatten(1) for x in batches], 1).detach()
    assert torch.allclose(z.std(1, correction=0), torch.ones(4), atol=1e-4)
    assert sorted(model.config["channel_order"]) == [0, 1, 2, 3]
    for x in batches:
        apart = model.decode(model.encode(x)) - source.decode_latents(source.latents(x))[
            ..., : x.shape[-1]
        ]  # fmt: skip
        assert apart.square().mean().item() < 1e-3
    assert model.clipped.total == z.numel() and model.clipped.share < 0.01


def test_a_causal_codec_streams_its_codes() -> None:
    model, x = codec(**CAUSAL), sound(1, 333)
    whole = model.encode(x)
    session, back = StreamEncoder(model), StreamDecoder(model)
    parts = [session.push(part) for part in x.split(50, 2)]
    last = session.finish()
    codes = torch.cat([*parts, last.codes], 2)
    assert torch.equal(codes, whole.codes)
    made = torch.cat([back.push(codes[..., :9]), back.push(codes[..., 9:]),
                      back.finish(last.extent)], 2)  # fmt: skip
    assert torch.allclose(made, model.decode(whole), atol=1e-4)


def test_sound_goes_through_token_files(tmp_path: Path) -> None:
    import numpy as np
    import soundfile

    from tessera.cli import run

    codec(sample_rate=8000).save_pretrained(tmp_path / "model")
    soundfile.write(tmp_path / "a.wav", np.sin(np.arange(4001) / 9).astype("float32") / 2, 8000)
    words = [str(tmp_path / "a.wav"), "-o", str(tmp_path / "a.tok"), "-m", str(tmp_path / "model")]
    assert run(["encode", *words]) == 0
    assert run(["decode", str(tmp_path / "a.tok"), "-o", str(tmp_path / "b.wav"), "-m",
                str(tmp_path / "model")]) == 0  # fmt: skip
    assert soundfile.info(tmp_path / "b.wav").frames == 4001


# -- training ------------------------------------------------------------------------------------


def recipe(*more: str) -> AudioRun:
    return load_config(AudioRun, RECIPE, more)


def test_the_shipped_size() -> None:
    with torch.device("meta"):
        model = KLCodec(**recipe().model.config)
    count = sum(t.numel() for t in model.state_dict().values())
    assert count == 1_636_106 and recipe().export.dtype == "float16"
    assert model.hop == 240 and model.settings.latent_dim == 8


def test_the_recipe_trains_and_its_tokenizer_works(tmp_path: Path) -> None:
    config = recipe(
        "train.steps=3", "train.batch_size=2", "train.device=cpu", "log.every=1",
        "log.tracker=none", "validation_sounds=2", "data.segment=4800", "data.source=noise",
        "data.mixture={}", "model.config.width=32", "model.config.hidden=48",
        "model.config.encoder_width=4", "schedule.warmup=1",
    )  # fmt: skip
    folder = train(config, tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert "loss/posterior/kl" in lines and "validation/mel_distance" in lines
    source = open_audio(config.data)
    batches = [torch.stack([source.item(2 * i), source.item(2 * i + 1)]) for i in range(2)]
    model = DimensionWiseCodec.calibrated(str(folder), batches, bits=5)
    model.save_pretrained(tmp_path / "tokens")
    again: Any = load(tmp_path / "tokens")
    assert torch.equal(again.encode(batches[0]).codes, model.encode(batches[0]).codes)
    assert again.spec.token_rate == 100 and again.spec.vocabulary == (32,) * 8


# -- bad input -----------------------------------------------------------------------------------


def test_what_does_not_fit_is_one_sentence(tmp_path: Path) -> None:
    model, x = codec(), sound(1, 160)
    codes = model.encode(x).codes
    with pytest.raises(ConfigError, match="no scale of the latents.*calibrate"):
        DimensionWiseCodec.from_vae(continuous())
    with pytest.raises(ConfigError, match="3 entries.*4 dimensions"):
        DimensionWiseCodec.from_vae(continuous(), scale=1.0, channel_order=[0, 1, 2])
    with pytest.raises(ConfigError, match="a Linear came in"):
        DimensionWiseCodec.from_vae(torch.nn.Linear(1, 1))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="kl_weight is -1"):
        continuous(kl_weight=-1)
    with pytest.raises(MediaError, match="at least one sample"):
        model.encode(torch.zeros(1, 1, 0))
    with pytest.raises(TokenError, match="num_tokens is 2 but every frame takes all 4"):
        model.encode(x, num_tokens=2)
    with pytest.raises(TokenError, match="legal is 4 to 4"):
        model.decode(codes[:, :2])
    with pytest.raises(TokenError, match="outside the vocabulary"):
        model.decode(codes + 16)
    with pytest.raises(TokenError, match="extent"):
        model.decode(Tokens(codes, None, torch.tensor([[161]])))
    with pytest.raises(TokenError, match="dimensions are not summed"):
        model.embed(codes, upto=2)
    with pytest.raises(TokenError, match="save the whole codec"):
        save_decoder(model, tmp_path)
