"""Teachers: cepstra by hand, hidden layers as the network gives them, moments, mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from audio_tok.audio_objective import AudioObjective, AudioObjectiveConfig
from audio_tok.dual_wav_tokenizer import DualWavTokenizer
from audio_tok.mel_cepstral_teacher import MelCepstralTeacher
from audio_tok.rate_matching import at_moments
from audio_tok.semantic_distillation import semantic_distillation
from audio_tok.semantic_teacher import SemanticTeacherConfig, build_teacher
from audio_tok.transformers_teacher import TransformersTeacher
from audio_tok.wav_tokenizer import WavTokenizer
from tok_core.contract import Tokens, TrainingOutput
from tok_core.errors import ConfigError, WeightsError
from tok_core.mel import MelSpectrogram
from tok_core.torchaudio_guard import guard_torchaudio

RATE = 16_000


def vowel(formants: tuple[float, float], pitch: float, seconds: float = 0.5) -> Tensor:
    """A pulse train whose harmonics swell around two formants, (1, 1, T)."""
    t = torch.arange(int(seconds * RATE)) / RATE
    total = torch.zeros_like(t)
    for n in range(1, int(7000 / pitch)):
        gain = sum(1 / (1 + ((n * pitch - f) / 120) ** 2) for f in formants) + 0.003
        total += gain * torch.sin(2 * torch.pi * n * pitch * t + n)
    return (0.3 * total / total.abs().max())[None, None]


# -- moments -------------------------------------------------------------------------------------


def test_a_ramp_is_read_at_its_moments() -> None:
    frames = torch.arange(20.0)[None, :, None]  # worth l at second 0.01 + l / 50
    moments = (torch.arange(30) + 0.5) / 80
    read = at_moments(frames, moments, rate=50.0, first=0.01)[0, :, 0]
    expected = ((moments - 0.01) * 50).clamp(0, 19)
    assert torch.allclose(read, expected, atol=1e-4)


def test_a_slow_codec_hears_the_mean_of_its_frame() -> None:
    frames = torch.tensor([1.0, -1.0] * 20)[None, :, None]
    moments = (torch.arange(10) + 0.5) * 0.04
    slow = at_moments(frames, moments, rate=100.0, first=0.005)[0, :, 0]
    assert torch.allclose(slow, torch.zeros(10), atol=1e-6)
    ramp = at_moments(torch.arange(40.0)[None, :, None], moments, rate=100.0, first=0.005)
    assert torch.allclose(ramp[0, :, 0], moments * 100 - 0.5, atol=1e-4)


def test_one_frame_and_one_moment() -> None:
    one = torch.tensor([[[3.0]]])
    assert at_moments(one, torch.tensor([9.0]), rate=50.0, first=0.0).item() == 3.0
    assert at_moments(one, torch.tensor([0.0, 5.0]), rate=50.0, first=0.0).tolist() == [[[3], [3]]]


# -- cepstra -------------------------------------------------------------------------------------


def test_cepstra_against_plain_arithmetic() -> None:
    teacher, x = MelCepstralTeacher(RATE, 5, 20, 1), vowel((500, 1500), 110) + vowel((700, 1), 99)
    bands = MelSpectrogram(RATE, 400, 160, 20)(x).clamp(min=1e-7).log()[0].double()  # (20, L)
    rows = torch.arange(20, dtype=torch.float64)
    static = torch.stack([
        (2 / 20) ** 0.5 * (bands * torch.cos(torch.pi / 20 * (rows[:, None] + 0.5) * k)).sum(0)
        / (2**0.5 if k == 0 else 1)
        for k in range(5)
    ])  # fmt: skip
    ends = torch.cat([static[:, :1], static[:, :1], static, static[:, -1:], static[:, -1:]], 1)
    count = static.shape[1]
    slope = sum(s * ends[:, 2 + s : 2 + s + count] for s in (-2, -1, 1, 2)) / 10
    both = torch.cat([static, slope]).T
    expected = (both - both.mean(0)) / both.std(0, unbiased=False).clamp(min=0.05)
    assert teacher.features == 10 and teacher.rate == 100.0
    assert torch.allclose(teacher.frames(x)[0].double(), expected, atol=2e-3)


def test_cepstra_tell_vowels_apart_and_let_level_and_microphone_go() -> None:
    teacher = MelCepstralTeacher(RATE)
    spoken = torch.cat([vowel((300, 2300), 120), vowel((750, 1100), 120)], -1)
    higher = torch.cat([vowel((300, 2300), 150), vowel((750, 1100), 150)], -1)
    moments = (torch.arange(100) + 0.5) / 100
    first, louder, other = (teacher(x, moments)[0] for x in (spoken, 0.2 * spoken, higher))
    assert first.shape == (100, 39) and first.dtype == torch.float32
    assert torch.allclose(first, louder, atol=1e-2)
    similar = torch.nn.functional.cosine_similarity

    def statics(features: Tensor, half: slice) -> Tensor:
        return features[half, :13].mean(0)

    a, b = slice(10, 40), slice(60, 90)
    assert similar(statics(first, a), statics(other, a), 0) > 0.8
    assert similar(statics(first, a), statics(first, b), 0) < 0


def test_silence_and_one_sample_have_finite_features() -> None:
    teacher = MelCepstralTeacher(RATE)
    for samples in (1, 50, 4000):
        found = teacher(torch.zeros(2, 1, samples), torch.tensor([0.001]))
        assert found.shape == (2, 1, 39) and torch.isfinite(found).all()


# -- networks of transformers --------------------------------------------------------------------

SIZES: dict[str, Any] = {
    "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32,
    "conv_dim": [12, 12, 12], "conv_kernel": [10, 8, 4], "conv_stride": [5, 8, 4],
    "num_feat_extract_layers": 3, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def hubert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A HuBERT with random weights: 100 frames a second of 16 kHz."""
    pytest.importorskip("transformers")
    guard_torchaudio()
    from transformers import HubertConfig, HubertModel

    folder = tmp_path_factory.mktemp("teachers") / "hubert"
    torch.manual_seed(0)
    HubertModel(HubertConfig(**SIZES)).eval().save_pretrained(folder)
    return folder


def sound(samples: int = 3200, seed: int = 3) -> Tensor:
    return torch.rand(2, 1, samples, generator=torch.Generator().manual_seed(seed)) - 0.5


@pytest.mark.parametrize("layer", [0, 2, -1, "mean"])
def test_a_hidden_layer_as_the_network_gives_it(hubert: Path, layer: Any) -> None:
    from transformers import HubertModel

    teacher, x = TransformersTeacher(str(hubert), RATE, layer=layer), sound()
    network = HubertModel.from_pretrained(hubert).eval()
    with torch.no_grad():
        states = network(x[:, 0], output_hidden_states=True).hidden_states
    expected = torch.stack(states).mean(0) if layer == "mean" else states[layer]
    # The first frame hears 10 + 7 * 5 + 3 * 40 samples; the next one starts 160 later.
    moments = (165 / 2 + 160 * torch.arange(expected.shape[1])) / RATE
    assert teacher.features == 24 and teacher.rate == 100.0
    assert torch.allclose(teacher(x, moments), expected, atol=1e-4)
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not teacher.train().network.training


def test_the_preprocessors_word_on_normalising_counts(hubert: Path, tmp_path: Path) -> None:
    from transformers import HubertModel, Wav2Vec2FeatureExtractor

    network = HubertModel.from_pretrained(hubert).eval()
    network.save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor(sampling_rate=RATE, do_normalize=True).save_pretrained(tmp_path)
    x = 0.1 * sound() + 0.2
    with torch.no_grad():
        level = (x - x.mean(-1, keepdim=True)) / x.std(-1, unbiased=False, keepdim=True)
        expected = network(level[:, 0]).last_hidden_state
        raw = network(x[:, 0]).last_hidden_state
    told = TransformersTeacher(str(tmp_path), RATE)
    assert torch.allclose(told.frames(x), expected, atol=1e-3)
    refused = TransformersTeacher(str(tmp_path), RATE, normalise=False)
    assert torch.allclose(refused.frames(x), raw, atol=1e-4)


def test_sound_of_another_rate_and_sound_too_short(hubert: Path) -> None:
    pytest.importorskip("torchaudio")
    teacher = TransformersTeacher(str(hubert), 24_000)
    assert teacher.frames(sound(4800)).shape == (2, (3200 - 165) // 160 + 1, 24)
    assert torch.isfinite(teacher(sound(7), torch.tensor([0.0]))).all()


def test_what_cannot_teach_is_one_sentence(hubert: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no teacher .*nowhere.*nothing is downloaded"):
        TransformersTeacher(str(tmp_path / "nowhere"), RATE)
    with pytest.raises(WeightsError, match="nothing is downloaded"):
        TransformersTeacher("nobody/no-such-hubert", RATE)
    with pytest.raises(ConfigError, match="legal are 0 to 3"):
        TransformersTeacher(str(hubert), RATE, layer=4)
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "config.json").write_text((hubert / "config.json").read_text())
    state = load_file(hubert / "model.safetensors")
    state.pop("encoder.layers.1.attention.k_proj.weight")
    save_file(state, damaged / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match="lacks 1 tensors"):
        TransformersTeacher(str(damaged), RATE)
    from transformers import BertConfig, BertModel

    words = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9)
    BertModel(words).save_pretrained(tmp_path / "bert")
    with pytest.raises(ConfigError, match="no raw samples"):
        TransformersTeacher(str(tmp_path / "bert"), RATE)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"kind": "mel_cepstrum"}, "did you mean 'mel_cepstral'"),
        ({"name": "x"}, "has no weights"),
        ({"kind": "transformers"}, "has no name"),
        ({"coefficients": 41}, "41 cepstral"),
    ],
)
def test_configs_that_cannot_be(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_teacher(SemanticTeacherConfig(**config), RATE)


# -- distillation --------------------------------------------------------------------------------

QUIET: dict[str, Any] = {"enabled": False}


def objective(**options: Any) -> AudioObjective:
    from tok_core.run_config import from_mapping

    values = {"sample_rate": RATE, "semantic_weight": 2.0, "period": QUIET, "resolution": QUIET,
              "dac": QUIET, **options}  # fmt: skip
    return AudioObjective(from_mapping(AudioObjectiveConfig, values))


def output(x: Tensor, predicted: Tensor) -> TrainingOutput:
    moments = (torch.arange(predicted.shape[1]) + 0.5) / 100
    codes = Tokens(torch.zeros(len(x), 1, predicted.shape[1], dtype=torch.int64))
    features = {"semantic": predicted, "semantic_moments": moments}
    return TrainingOutput(x.clone(), codes, {}, {}, features=features)


def test_the_distance_is_the_cosines() -> None:
    x, teacher = sound(), MelCepstralTeacher(RATE)
    wanted = teacher(x, (torch.arange(20) + 0.5) / 100)
    assert semantic_distillation(teacher, x, output(x, 3 * wanted)) == pytest.approx(0, abs=1e-5)
    assert semantic_distillation(teacher, x, output(x, -wanted)) == pytest.approx(2, abs=1e-5)
    predicted = torch.randn(2, 20, 39, requires_grad=True)
    out = output(x, predicted)
    losses = objective().generator_losses(x, out, 0)
    by_hand = 1 - (predicted * wanted).sum(-1) / (predicted.norm(dim=-1) * wanted.norm(dim=-1))
    assert float(losses["loss/semantic"].detach()) == pytest.approx(
        2 * float(by_hand.mean().detach()), rel=1e-5
    )
    losses["loss/semantic"].backward()
    assert predicted.grad is not None and predicted.grad.abs().max() > 0
    assert "loss/semantic" not in objective(semantic_weight=0.0).generator_losses(x, out, 0)


def test_what_does_not_fit_the_teacher_is_one_sentence() -> None:
    x = sound()
    with pytest.raises(ConfigError, match="predicts 7 semantic features and the teacher has 39"):
        objective().generator_losses(x, output(x, torch.randn(2, 20, 7)), 0)
    plain = WavTokenizer(
        sample_rate=RATE, strides=[4, 4, 10], encoder_width=4, latent_dim=8, codebook_size=16,
        width=32, hidden=32, layers=1, lstm_layers=0, attention=False,
    )
    with pytest.raises(ConfigError, match="no semantic stream"):
        objective().generator_losses(x, plain(x), 0)


def test_a_teacher_is_no_state_of_the_run(hubert: Path) -> None:
    semantic = {"kind": "transformers", "name": str(hubert), "layer": 1}
    made = objective(semantic=semantic)
    assert isinstance(made.teacher, TransformersTeacher)
    assert not any("teacher" in name for name in made.state_dict())
    made.load_state_dict(made.state_dict())
    codec = DualWavTokenizer(
        sample_rate=RATE, strides=[4, 4, 10], encoder_width=4, acoustic_dim=8, codebook_size=16,
        lstm_layers=0, decoder={"width": 32, "hidden": 32, "layers": 1, "attention": False},
        semantic={"dim": 6, "encoder_width": 4, "width": 16, "hidden": 16, "layers": 1,
                  "features": 24},
    )  # fmt: skip
    x = sound()
    loss = made.generator_losses(x, codec.train()(x), 0)["loss/semantic"]
    loss.backward()
    assert codec.semantic_encoder.first.weight.grad.abs().max() > 0
    assert not codec.encoder.first.weight.grad.any()  # meaning says nothing to the other half
