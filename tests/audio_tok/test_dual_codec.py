"""The codec with a dual codebook: contract, one index for two streams, recipes, training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from audio_tok.audio_objective import AudioObjective
from audio_tok.dual_wav_tokenizer import DualWavTokenizer
from audio_tok.streaming import StreamDecoder, StreamEncoder
from audio_tok.train import AudioRun, main
from audio_tok.wav_decoder import WavDecoder, save_decoder
from tok_core.errors import ConfigError, MediaError, TokenError
from tok_core.latent_neighbours import latent_neighbours
from tok_core.loading import load
from tok_core.run_config import load_config
from tok_core.tokenizer_contract import TokenizerContract

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "assets" / "configs"
RECIPES = sorted(FOLDER.glob("dual-codec-*.yaml"))
PARAMETERS = {"dual-codec-tiny": 0.7, "dual-codec-smoke": 0.1}  # millions, as measured
HOP = 16
SMALL: dict[str, Any] = {
    "strides": [2, 2, 4], "encoder_width": 4, "acoustic_dim": 6, "codebook_size": 32,
    "decoder": {"width": 32, "hidden": 48, "layers": 2},
    "semantic": {"dim": 10, "encoder_width": 4, "width": 24, "hidden": 32, "layers": 1},
}  # fmt: skip


def make(seed: int = 0, **options: Any) -> DualWavTokenizer:
    torch.manual_seed(seed)
    model = DualWavTokenizer(**SMALL | options).eval()
    with torch.no_grad():
        model.head.out.weight.mul_(0.3)
    return model


def causal(window: int) -> dict[str, Any]:
    return {"causal": True, "decoder": SMALL["decoder"] | {"attention_window": window}}


def sound(batch: int, samples: int, seed: int = 1) -> Tensor:
    return torch.rand(batch, 1, samples, generator=torch.Generator().manual_seed(seed)) * 1.6 - 0.8


class TestDualWavTokenizer(TokenizerContract):
    decoder_parameter = "backbone.blocks.0.gamma"
    code_parameter = "semantic_encoder.first.weight"

    def make(self) -> DualWavTokenizer:
        return make()

    def sample(self, batch: int) -> Tensor:
        return sound(batch, 40 * HOP)


class TestCausal(TestDualWavTokenizer):
    code_parameter = "encoder.first.weight"

    def make(self) -> DualWavTokenizer:
        return make(**causal(3), stream_weights={"acoustic": 2.0})


class TestTables(TestDualWavTokenizer):
    code_parameter = "quantizer.tables.acoustic"

    def make(self) -> DualWavTokenizer:
        return make(
            lstm_layers=0, decoder=SMALL["decoder"] | {"attention": False},
            quantizer={"dead_code_every": 2},
        )  # fmt: skip

    def test_given_tokens_skip_the_encoder(self, model: Any, x: Tensor) -> None:
        """Tables are used on the way from tokens to sound, encoders are not."""
        model.train()(x, tokens=model.encode(x)).reconstruction.square().mean().backward()
        assert model.encoder.first.weight.grad is None
        assert model.semantic_encoder.first.weight.grad is None
        assert model.backbone.blocks[0].gamma.grad is not None


# -- one index, two streams ----------------------------------------------------------------------


def test_the_index_is_the_nearest_of_both_halves_together() -> None:
    model, x = make(stream_weights={"semantic": 1.0, "acoustic": 0.7}), sound(2, 320)
    with torch.no_grad():
        streams = dict(zip(("semantic", "acoustic"), model.frames_of(x), strict=True))
        distance = torch.zeros(2, 20, 32)
        for name, weight in (("semantic", 1.0), ("acoustic", 0.7)):
            z = F.normalize(streams[name], dim=-1)
            rows = F.normalize(model.quantizer.tables[name], dim=-1)
            distance += weight * (z[:, :, None] - rows).square().sum(-1)
    codes = model.encode(x).codes
    assert torch.equal(codes[:, 0], distance.argmin(-1))
    assert len(codes.unique()) > 3
    only = make(stream_weights={"acoustic": 1e-6})
    alone = F.normalize(streams["semantic"], dim=-1) @ F.normalize(
        only.quantizer.tables["semantic"], dim=-1
    ).T
    assert torch.equal(only.encode(x).codes[:, 0], alone.argmax(-1))


def test_every_stream_of_the_same_tokens() -> None:
    model, x = make(), sound(2, 320)
    tokens = model.encode(x)
    assert model.spec.streams == ("semantic", "acoustic", "both")
    semantic, acoustic, both = (model.embed(tokens, stream=s) for s in model.spec.streams)
    assert semantic.shape == (2, 10, 20) and acoustic.shape == (2, 6, 20)
    assert torch.equal(torch.cat([semantic, acoustic], 1), both)
    assert torch.equal(model.embed(tokens), both)
    assert torch.allclose(semantic.norm(dim=1), torch.ones(2, 20), atol=1e-5)
    assert model.latents(x).shape == (2, 16, 20)
    assert model.features(tokens).shape == (2, 20, 39)
    with pytest.raises(ConfigError, match="did you mean 'semantic'"):
        model.embed(tokens, stream="semantics")
    with pytest.raises(TokenError):
        model.embed(tokens, upto=2)


def test_sound_comes_from_the_acoustic_half_and_meaning_from_the_other() -> None:
    model, x = make(), sound(1, 320)
    tokens = model.encode(x)
    wave, meaning = model.decode(tokens), model.features(tokens)
    with torch.no_grad():
        model.quantizer.tables["semantic"].copy_(torch.randn(32, 10))
    assert torch.equal(model.decode(tokens), wave)
    assert not torch.allclose(model.features(tokens), meaning, atol=1e-3)
    with torch.no_grad():
        model.quantizer.tables["acoustic"].copy_(torch.randn(32, 6))
    assert not torch.allclose(model.decode(tokens), wave, atol=1e-4)


def test_latents_lead_to_the_codes() -> None:
    """So that latent perturbation finds the codes around a latent."""
    model, x = make(), sound(2, 320)
    tokens = model.encode(x)
    (found,) = latent_neighbours(model, x, tokens, 4)
    assert torch.equal(found[..., 0], tokens.codes[:, 0]) and found.shape == (2, 20, 4)


def test_unequal_lengths_and_what_does_not_fit() -> None:
    model, x = make(), sound(3, 333)
    lengths = torch.tensor([333, 100, 7])
    tokens = model.encode(x, lengths=lengths)
    assert tokens.lengths is not None and tokens.lengths.tolist() == [21, 7, 1]
    out = model.decode(tokens)
    for i, length in enumerate(lengths.tolist()):
        alone = model.encode(x[i : i + 1, :, :length])
        frames = alone.codes.shape[-1]
        assert torch.equal(tokens.codes[i, :, :frames], alone.codes[0])
        assert torch.allclose(out[i, :, :length], model.decode(alone)[0], atol=1e-5)
        assert not model.embed(tokens, stream="semantic")[i, :, frames:].any()
    with pytest.raises(TokenError, match="for this model is 1 to 1"):
        model.encode(x, num_tokens=2)
    with pytest.raises(TokenError, match="lengths"):
        model.encode(x, lengths=torch.tensor([334, 1, 1]))
    with pytest.raises(MediaError, match="channels one by one"):
        model.encode(torch.zeros(1, 2, 100))
    with pytest.raises(TokenError, match="both halves"):
        model.decode_latents(torch.zeros(1, 6, 20))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"semantic": {"dims": 3}}, "did you mean 'dim'"),
        ({"semantic": {"encoder_width": 3}}, "semantic.encoder_width is 3"),
        ({"semantic": {"features": 0}}, "semantic.features"),
        ({"quantizer": {"betta": 1.0}}, "did you mean 'beta'"),
        ({"stream_weights": {"pixel": 1.0}}, "pixel"),
        ({"strides": []}, "strides"),
        ({"acoustic_dim": 0}, "acoustic_dim"),
        ({"decoder": {"wide": 3}}, "decoder has the unknown option 'wide'"),
        ({"causal": True}, "attention_window"),
    ],
)
def test_illegal_configs_are_one_sentence(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        DualWavTokenizer(**SMALL | options)


# -- the decoder alone, streams ------------------------------------------------------------------


def test_the_decoder_alone_is_an_ordinary_one(tmp_path: Path) -> None:
    model, x = make(**causal(4)), sound(1, 333)
    save_decoder(model, tmp_path)
    decoder = WavDecoder.from_pretrained(tmp_path)
    tokens = model.encode(x)
    assert torch.allclose(decoder.decode(tokens), model.decode(tokens), atol=1e-6)
    assert decoder.code_hash() == model.code_hash()
    for codec in (model, decoder):
        session = StreamDecoder(codec)
        parts = [session.push(tokens.codes[..., i : i + 3]) for i in range(0, 21, 3)]
        wave = torch.cat([*parts, session.finish(333)], -1)
        assert torch.allclose(wave, model.decode(tokens), atol=1e-4)


@pytest.mark.parametrize("chunk", [1, 7, 100, 333])
def test_a_causal_codec_encodes_a_stream(chunk: int) -> None:
    """Both encoders see nothing of the future, so neither does the shared index."""
    model, x = make(**causal(4), lstm_layers=1), sound(2, 333)
    whole, session = model.encode(x), StreamEncoder(model)
    sizes = set()
    parts = []
    for part in x.split(chunk, 2):
        parts.append(session.push(part))
        sizes.add(session.state_size)
    last = session.finish()
    assert torch.equal(torch.cat([*parts, last.codes], 2), whole.codes)
    assert last.extent is not None and last.extent.tolist() == [[333], [333]]
    # Two encoders are remembered, and nothing grows with the stream.
    assert max(sizes) < 2 * 2000
    with pytest.raises(TokenError, match="legal for this model is 1 to 1"):
        StreamEncoder(model, num_tokens=2)


def test_what_cannot_encode_a_stream_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not causal"):
        StreamEncoder(make())
    model = make(**causal(4))
    save_decoder(model, tmp_path)
    with pytest.raises(ConfigError, match="cannot encode"):
        StreamEncoder(WavDecoder.from_pretrained(tmp_path))  # type: ignore[arg-type]


# -- training ------------------------------------------------------------------------------------


def test_every_recipe_is_pinned() -> None:
    assert {path.stem for path in RECIPES} == PARAMETERS.keys()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_builds_at_its_size(path: Path) -> None:
    config = load_config(AudioRun, path)
    assert config.name == path.stem and config.objective.semantic_weight > 0
    with torch.device("meta"):
        model = DualWavTokenizer(**config.model.config)
    count = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert round(count, 1) == PARAMETERS[path.stem]
    assert model.sample_rate == config.data.sample_rate
    assert model.spec.token_rate == 100.0


def test_the_smoke_recipe_trains_and_its_model_works(tmp_path: Path) -> None:
    options = {
        "train.steps": 8, "train.accumulation": 1, "train.device": "cpu", "log.tracker": "none",
        "log.every": 1, "log.validate_every": 8, "log.save_every": 8, "validation_sounds": 2,
        "data.segment": 4800, "data.source": "music",
    }  # fmt: skip
    words = [part for key, value in options.items() for part in ("--set", f"{key}={value}")]
    run = tmp_path / "run"
    recipe = str(FOLDER / "dual-codec-smoke.yaml")
    assert main(["--config", recipe, "--out", str(run), *words]) == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    wanted = {"loss/semantic", "semantic", "loss/multi_mel", "loss/quantizer/codebook",
              "loss/quantizer/commitment", "codebook/usage", "codebook/perplexity"}  # fmt: skip
    assert wanted <= set(lines[0])
    model: Any = load(run / "model")
    assert isinstance(model, DualWavTokenizer)
    x = sound(1, 5003)
    assert model.decode(model.encode(x)).shape == x.shape


def test_both_streams_learn_their_part() -> None:
    """On one batch of tones: the mel distance and the distance to the teacher fall."""
    config = load_config(
        AudioRun, FOLDER / "dual-codec-smoke.yaml", ["objective.commitment_weight=5"]
    )
    torch.manual_seed(0)
    model = DualWavTokenizer(**config.model.config).train()
    objective = AudioObjective(config.objective)
    t = torch.arange(4800) / 24000
    pitches = torch.tensor([180.0, 260.0, 700.0, 1500.0])[:, None]
    tones = torch.sin(2 * torch.pi * (pitches * t + 3 * torch.sin(40 * t)))
    x = (0.4 * tones * (0.6 + 0.4 * torch.sin(30 * t + pitches)))[:, None]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    history: list[dict[str, float]] = []
    for step in range(80):
        losses = objective.generator_losses(x, model(x), step)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        history.append({name: float(value.detach()) for name, value in losses.items()})
    first, last = history[0], history[-1]
    assert last["loss/semantic"] < 0.75 * first["loss/semantic"]
    assert last["loss/multi_mel"] < 0.75 * first["loss/multi_mel"]


def test_decoders_train_from_tokens_alone() -> None:
    model, x = make().train(), sound(2, 320)
    out = model(x, tokens=model.encode(x))
    (out.reconstruction.square().mean() + out.features["semantic"].square().mean()).backward()
    assert model.encoder.first.weight.grad is None
    assert model.semantic_decoder.out.weight.grad is not None
    assert torch.allclose(out.features["semantic_moments"] * 24000 / HOP, torch.arange(20) + 0.5)
