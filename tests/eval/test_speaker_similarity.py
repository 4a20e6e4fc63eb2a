"""Voices compared, and speech written down, by networks that the user names."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from eval.speaker_similarity import (
    ENTRIES,
    SpeakerSimilarity,
    load_speaker_model,
    speaker_similarity_entry,
)
from eval.transcription import load_recogniser
from tests.eval.tiny_sound_networks import noise, tone
from tok_core.audio_measures import NOT_FINITE, TOO_SHORT, UNDEFINED
from tok_core.errors import ConfigError, MediaError, WeightsError
from tok_core.torchaudio_guard import guard_torchaudio

MODULE = """
import torch
def bands(sounds):
    if sounds.shape[1] < 64:
        raise RuntimeError("too short for a window")
    return torch.fft.rfft(sounds, 512).abs()
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))
    def forward(self, sounds):
        return bands(sounds) * self.scale
flat = lambda sounds: sounds.mean(1)
def lengths(sounds):
    return [f"{len(one)} samples" for one in sounds]
one_text = lambda sounds: "only one"
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "my_voices.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("my_voices", None)


def test_cosines_of_an_entry_point() -> None:
    entry = speaker_similarity_entry("my_voices:bands")
    assert entry.name == "speaker_similarity/my_voices:bands"
    metric = entry.build(**entry.options)
    assert metric.sample_rate == 16_000
    x = torch.stack([tone(200, 0.1), tone(300, 0.1)])
    metric.update(0.5 * x[:, None], x[:, None])
    metric.update(tone(440, 0.1), tone(200, 0.1), indices=[7])
    values, codes, indices = metric.collected()
    assert values[:2].tolist() == pytest.approx([1.0, 1.0])
    assert float(values[2]) < 0.9
    assert codes.tolist() == [0, 0, 0] and indices.tolist() == [-1, -1, 7]
    assert load_speaker_model("my_voices:bands").weights is None
    assert load_speaker_model("my_voices:Net").weights is not None


def test_sounds_without_a_voice_are_counted() -> None:
    metric = SpeakerSimilarity("my_voices:bands")
    x = tone(200, 0.1)
    metric.update(torch.zeros_like(x), x)
    metric.update(torch.full_like(x, math.nan), x)
    metric.update(x[:0], x[:0])
    metric.update(x[:1], x[:1])
    assert metric.collected()[1].tolist() == [UNDEFINED, NOT_FINITE, TOO_SHORT, TOO_SHORT]
    with pytest.raises(MediaError, match="equally long"):
        metric.update(x, x[:-1])


def test_names_that_lead_nowhere(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="without a network"):
        ENTRIES[0].build(**ENTRIES[0].options)
    with pytest.raises(ConfigError, match="no entry point"):
        load_speaker_model("my_voices:missing")
    with pytest.raises(ConfigError, match="one row for each"):
        SpeakerSimilarity("my_voices:flat").update(tone(200), tone(200))
    for name in (str(tmp_path), "transformers:nobody/no-such-network"):
        for load in (load_speaker_model, load_recogniser):
            with pytest.raises(
                (ConfigError, WeightsError), match=r"transformers|nothing is downloaded"
            ):
                load(name)
    assert speaker_similarity_entry("transformers:a/wavlm-sv").name == "speaker_similarity/wavlm-sv"


def test_texts_of_an_entry_point() -> None:
    recogniser = load_recogniser("my_voices:lengths")
    assert recogniser.sample_rate == 16_000
    assert recogniser.texts(noise(3200).view(2, 1, 1600)) == ["1600 samples"] * 2
    with pytest.raises(ConfigError, match="one text for each"):
        load_recogniser("my_voices:one_text").texts(noise(400))
    for bad in (torch.zeros(1, 0), torch.full((1, 9), math.nan)):
        with pytest.raises(MediaError, match="finite"):
            recogniser.texts(bad)


def test_an_x_vector_network_in_a_folder(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    guard_torchaudio()
    from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMForXVector

    torch.manual_seed(0)
    config = WavLMConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        conv_dim=(8,) * 7, tdnn_dim=(8, 8, 8, 8, 16), xvector_output_dim=6,
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    model = WavLMForXVector(config).eval()
    folder = tmp_path / "voices"
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(folder)
    found = load_speaker_model(str(folder))
    x = torch.stack([tone(200, 1.0), tone(150, 1.0)])
    with torch.no_grad():
        expected = model(x).embeddings
    assert torch.allclose(found.embed(x), expected, atol=1e-5)
    metric = SpeakerSimilarity(f"transformers:{folder}")
    metric.update(x, x)
    metric.update(x[:, :800], x[:, :800])
    values, codes, _ = metric.collected()
    assert values[:2].tolist() == pytest.approx([1.0, 1.0], abs=1e-5)
    assert codes.tolist()[2:] == [TOO_SHORT, TOO_SHORT]


def test_a_recogniser_in_a_folder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    guard_torchaudio()
    torch.manual_seed(0)
    folder = tmp_path / "writer"
    folder.mkdir()
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "A": 5, "B": 6, "C": 7}
    import json

    (folder / "vocab.json").write_text(json.dumps(words))
    config = transformers.Wav2Vec2Config(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, conv_dim=(8,) * 7, num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    transformers.Wav2Vec2ForCTC(config).eval().save_pretrained(folder)
    transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(folder)
    recogniser = load_recogniser(str(folder))
    texts = recogniser.texts(torch.stack([tone(200), noise(8000)]))
    assert len(texts) == 2 and all(isinstance(text, str) for text in texts)
    assert recogniser.weights is not None
