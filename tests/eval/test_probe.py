"""The probe: the classifier itself, pooling, streams and the verb."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from tiny_audio import tiny_codec
from torch import Tensor

from audio_tok.dual_wav_tokenizer import DualWavTokenizer
from eval.linear_probe import DECAYS, fit, probe, split
from eval.metric_states import merged_states, metric_states, set_states
from eval.probe import Probe
from eval.token_features import chosen_streams, pooled, stream_names, token_features
from tests.eval.judged_files import Files, Judge, scores
from tests.eval.tiny_tokenizers import pictures, tiny_titok
from tok_core.errors import ConfigError
from vision_tok.maskgit_vqgan import MaskGitVQGAN


def blobs(count: int, classes: int = 3, width: int = 5, noise: float = 1.0) -> tuple[Any, Any]:
    """Gaussian clouds around well separated centres."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    centres = 6 * torch.eye(classes, width)
    return centres[labels] + noise * torch.randn(count, width, generator=generator), labels


# -- the classifier ------------------------------------------------------------------------------


def test_it_is_the_minimum_of_the_regularised_cross_entropy() -> None:
    x, labels = blobs(60, noise=4.0)
    x = x.double()
    weight, bias = fit(x, labels, 0.01)
    error = (x @ weight + bias).softmax(1) - torch.nn.functional.one_hot(labels, 3)
    assert (x.T @ error / 60 + 0.01 * weight).abs().max() < 1e-5
    assert (error.mean(0)).abs().max() < 1e-5
    assert weight.abs().max() > 0.05


def test_clouds_are_told_apart_and_chance_is_chance() -> None:
    x, labels = blobs(300)
    test = split(labels, 0.25, 0)
    assert probe(x, labels, test).accuracy > 0.97
    shuffled = labels[torch.randperm(300, generator=torch.Generator().manual_seed(1))]
    result = probe(x, shuffled, split(shuffled, 0.25, 0))
    assert 0.15 < result.accuracy < 0.52 and len(result.right) == 75


def test_units_of_the_features_do_not_matter() -> None:
    x, labels = blobs(120, noise=4.0)
    test = split(labels, 0.25, 0)
    other = x * torch.tensor([1e-4, 3.0, 1.0, 500.0, 1.0]) + 7
    padded = torch.cat([other, torch.full((120, 2), 0.1)], 1)  # features that never change
    first, second = probe(x, labels, test), probe(padded, labels, test)
    assert torch.equal(first.right, second.right) and second.features == 7


def test_useless_features_are_answered_by_a_stronger_decay() -> None:
    x, labels = blobs(120, noise=2.0)
    noise = torch.randn(120, 300, generator=torch.Generator().manual_seed(3))
    test = split(labels, 0.5, 0)
    narrow, wide = probe(x, labels, test), probe(torch.cat([x, noise], 1), labels, test)
    assert wide.decay > DECAYS[0] and narrow.accuracy > wide.accuracy > 0.45


def test_the_split_is_even_fixed_and_whole() -> None:
    labels = torch.tensor([0] * 40 + [1] * 8 + [2] * 2)
    test = split(labels, 0.25, 3)
    assert [int(test[labels == k].sum()) for k in range(3)] == [10, 2, 1]
    assert torch.equal(test, split(labels, 0.25, 3))
    assert not torch.equal(test, split(labels, 0.25, 4))
    for wrong, words in ((torch.zeros(5, dtype=torch.int64), "one class"),
                         (torch.tensor([0, 0, 1]), "at least two")):  # fmt: skip
        with pytest.raises(ConfigError, match=words):
            split(wrong, 0.25, 0)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        split(labels, 1.0, 0)


# -- features ------------------------------------------------------------------------------------


def tiny_dual() -> DualWavTokenizer:
    torch.manual_seed(0)
    return DualWavTokenizer(
        sample_rate=8000, strides=[4, 4, 5], encoder_width=4, lstm_layers=0, acoustic_dim=6,
        semantic={"dim": 10, "encoder_width": 4, "width": 24, "hidden": 32, "layers": 1},
        codebook_size=32,
        decoder={"width": 32, "hidden": 48, "layers": 1, "attention": False, "condition_ids": 1},
    ).eval()  # fmt: skip


def test_features_are_means_of_what_embed_gives() -> None:
    x = pictures(3)
    titok = tiny_titok()
    z = titok.embed(titok.encode(x))  # (B, N, D)
    assert torch.allclose(token_features(titok, x, ["all"])["all"], z.mean(1), atol=1e-6)
    halves = token_features(titok, x, ["all"], cells=2)["all"].unflatten(1, (6, 2))
    assert torch.allclose(halves[..., 1], z[:, 4:].mean(1), atol=1e-6)
    short = token_features(titok, x, ["all"], num_tokens=2)["all"]
    assert torch.allclose(short, z[:, :2].mean(1), atol=1e-6)
    torch.manual_seed(0)
    grid = MaskGitVQGAN(hidden_channels=32, channel_mult=[1, 1, 1], num_res_blocks=1, z_channels=8,
                        codebook_size=24).eval()  # fmt: skip
    z = grid.embed(grid.encode(x))  # (B, D, 4, 4)
    corner = token_features(grid, x, ["all"], cells=2)["all"].unflatten(1, (8, 2, 2))[:, :, 0, 1]
    assert torch.allclose(corner, z[:, :, :2, 2:].mean((2, 3)), atol=1e-6)
    codec, sound = tiny_codec(), torch.rand(2, 1, 800) - 0.5
    z = codec.embed(codec.encode(sound))  # (B, D, F)
    assert torch.allclose(token_features(codec, sound, ["all"])["all"], z.mean(2), atol=1e-6)
    with pytest.raises(ConfigError, match="legal are 1 to 4"):
        pooled(torch.zeros(1, 2, 4, 5), 5)


def test_streams_of_a_dual_codebook_and_of_others() -> None:
    model, x = tiny_dual(), torch.rand(3, 1, 800) - 0.5
    assert stream_names(model) == ("semantic", "acoustic", "all")
    assert stream_names(tiny_titok()) == ("all",)
    assert chosen_streams(model, "m", ["both", "semantic"]) == ("all", "semantic")
    found = token_features(model, x, stream_names(model))
    both = torch.cat([found["semantic"], found["acoustic"]], 1)
    assert torch.allclose(found["all"], both, atol=1e-6) and both.shape == (3, 16)
    with pytest.raises(ConfigError, match=r"'m' has no stream 'semantics'.*mean 'semantic'"):
        chosen_streams(model, "m", ["semantics"])
    with pytest.raises(ConfigError, match=r"'semantics' of DualWav.* cannot be had.*unknown"):
        token_features(model, x, ["semantics"])


def seen(metric: Probe, x: Tensor, labels: Tensor, places: list[list[int]]) -> dict[str, float]:
    for part in places:
        metric.update(x[part], labels[part], part)
    return {name: float(value) for name, value in metric.compute().items()}


def test_batches_order_and_processes_do_not_matter() -> None:
    model = tiny_titok()
    x = pictures(24)
    x[::2, 0] = x[::2, 0].abs()  # half of them redder
    labels = torch.arange(24) % 2
    whole = seen(Probe(model, ["all"]), x, labels, [list(range(24))])
    assert set(whole) == {"probe/all", "probe/all/train", "samples"} and whole["samples"] == 6
    mixed = [[5, 3, 20], [*range(6, 20)], [0, 1, 2, 4, 21, 22, 23]]
    first = Probe(model, ["all"])
    assert seen(first, x, labels, mixed) == whole
    assert not any("latent_tokens" in name for name in first.state_dict())
    others = [Probe(model, ["all"]) for _ in range(2)]
    others[0].update(x[:9], labels[:9], range(9))
    others[1].update(x[9:], labels[9:], range(9, 24))
    joined = Probe(model, ["all"])
    set_states(joined, merged_states(joined, [metric_states(one) for one in others]))
    assert {name: float(value) for name, value in joined.compute().items()} == whole
    first.reset()
    assert seen(first, x, labels, mixed) == whole


# -- the verb ------------------------------------------------------------------------------------


def coloured(folder: Path, counts: dict[str, int]) -> Path:
    """Pictures whose sub-folder is their colour."""
    for row, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.random.default_rng(100 * row + i).integers(0, 90, (20, 24, 3))
            pixels[..., row % 3] += 150
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder


def test_a_labelled_folder(files: Files, judge: Judge, tmp_path: Path) -> None:
    data = coloured(tmp_path / "colours", {"red": 12, "green": 12, "blue": 8})
    done = judge("probe", "-t", f"ours={files.titok}", "--data", data, "-b", "2,8", "-o", "p.json")
    assert done.code == 0, done.err
    assert "accuracy, all" in done.out
    found = scores(tmp_path / "p.json")
    one = found["ours", 8.0, "probe/all"]
    assert one["value"] > 0.5 and one["n"] == 8 and one["direction"] == "higher"
    assert one["protocol"]["size"] == 16 and one["weights"]["contestant"] and one["spread"]
    assert one["options"] == {"cells": 1, "test_share": 0.25, "classes": 3}
    assert ("ours", 2.0, "probe/all") in found
    again = judge("compare", "p.json", "--format", "csv")
    assert again.code == 0 and "probe/all" in again.out
    finer = judge("probe", "-t", f"ours={files.titok}", "--data", data, "--cells", 2, "-b", "2,8",
                  "-o", "q.json")  # fmt: skip
    assert finer.code == 0
    refused = judge("compare", "p.json", "q.json")
    assert "options.cells" in refused.sentence


def test_sounds_and_streams(judge: Judge, tmp_path: Path) -> None:
    tiny_dual().save_pretrained(tmp_path / "dual")
    for name, pitch in (("low", 200), ("high", 1900)):
        (tmp_path / "tones" / name).mkdir(parents=True)
        for i in range(8):
            t = np.arange(4000 + 700 * (i % 3)) / 8000
            tone = 0.5 * np.sin(2 * np.pi * (pitch + 9 * i) * t + i)
            soundfile.write(tmp_path / "tones" / name / f"{i}.wav", tone, 8000)
    words = ("probe", "-t", "dual", "--data", "tones")
    done = judge(*words, "-o", "p.json")
    assert done.code == 0, done.err
    found = {key[2]: score for key, score in scores(tmp_path / "p.json").items()}
    assert set(found) == {"probe/semantic", "probe/acoustic", "probe/all"}
    assert found["probe/all"]["value"] >= 0.75
    assert found["probe/all"]["protocol"]["sample_rate"] == 8000
    chosen = judge(*words, "--stream", "semantic", "both", "-o", "q.json")
    assert chosen.code == 0, chosen.err
    assert {key[2] for key in scores(tmp_path / "q.json")} == {"probe/semantic", "probe/all"}
    assert "did you mean 'acoustic'" in judge(*words, "--stream", "acustic").sentence


def test_procedural_pictures(files: Files, judge: Judge, tmp_path: Path) -> None:
    words = ("probe", "-t", f"ours={files.titok}", "--data", "procedural", "--count", 96)
    for out in ("p.json", "q.json"):
        done = judge(*words, "-o", out)
        assert done.code == 0, done.err
    first, second = (scores(tmp_path / n)["ours", 8.0, "probe/all"] for n in ("p.json", "q.json"))
    assert first["value"] == second["value"] and first["options"]["classes"] == 12
    assert first["protocol"]["size"] == 16 and first["protocol"]["samples"] == 96


def test_bad_input_is_one_sentence(files: Files, judge: Judge, tmp_path: Path) -> None:
    def told(data: Path | str, *more: object) -> str:
        return judge("probe", "-t", f"ours={files.titok}", "--data", data, *more).sentence

    assert "holds one class ('red')" in told(coloured(tmp_path / "one", {"red": 3}))
    assert "class 'blue'" in told(coloured(tmp_path / "few", {"red": 3, "blue": 1}))
    assert "beside the sub-folders" in told(files.pictures)
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    assert "holds no" in told(tmp_path / "empty")
    assert "there is no folder" in told(tmp_path / "nowhere")
    data = coloured(tmp_path / "two", {"red": 3, "blue": 3})
    assert "legal are all" in told(data, "--stream", "semantic")
    assert "legal are 1 to 8" in told(data, "--cells", 9)
    assert "between 0 and 1" in told(data, "--test-share", "1.5")
    refused = judge("probe", "-t", "jpeg", "--data", data)
    assert "no tokenizer of the contract" in refused.sentence
