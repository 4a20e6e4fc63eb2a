"""CUDA and bfloat16 give what the CPU gives; every test here skips where there is no GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from assets import asset_path
from tok_core.loading import load
from tok_core.nearest_code import nearest_code

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def decibels(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the ratio of signal to difference in dB."""
    a, b = a.double().cpu(), b.double().cpu()
    return float(10 * torch.log10(a.square().mean() / (a - b).square().mean().clamp_min(1e-30)))


@pytest.mark.parametrize("n, k, d", [(5, 7, 3), (40_000, 4096, 8), (3000, 16_384, 64)])
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_nearest_code(n: int, k: int, d: int, metric: str) -> None:
    generator = torch.Generator().manual_seed(n)
    z, vectors = torch.randn(n, d, generator=generator), torch.randn(k, d, generator=generator)
    on_gpu = nearest_code(z.cuda(), vectors.cuda(), metric=metric).cpu()
    same = on_gpu == nearest_code(z, vectors, metric=metric)
    assert same.float().mean() > 0.9999  # rounding may decide between two equally near codes


def test_a_picture_to_codes_and_back() -> None:
    from vision_tok.image_data import ImageDataConfig, open_images

    source = open_images(ImageDataConfig(source="natural", size=64), validation=True)
    x = torch.stack([torch.as_tensor(source.item(i)) for i in range(8)])
    model = load(asset_path("models/one-d-piece-tiny")).eval()
    with torch.no_grad():
        codes = model.encode(x).codes
        decoded = model.decode(model.encode(x))
        model.cuda()
        tokens = model.encode(x.cuda())
        again = model.decode(tokens)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            halved = model.decode(tokens)
    assert (tokens.codes.cpu() == codes).float().mean() > 0.99
    assert decibels(decoded, again) > 35
    assert decibels(again.float(), halved.float()) > 30


def test_a_sound_to_codes_and_back() -> None:
    from tests.tiny_audio import make_sound, tiny_codec

    model = tiny_codec(attention=True, lstm_layers=1)
    x = torch.from_numpy(make_sound(3.0, model.sample_rate))[None]
    with torch.no_grad():
        tokens = model.encode(x)
        codes, decoded = tokens.codes, model.decode(tokens)
        model.cuda()
        tokens = model.encode(x.cuda())
        again = model.decode(tokens)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            halved = model.decode(tokens)
    assert (tokens.codes.cpu() == codes).float().mean() > 0.98
    assert decibels(decoded, again) > 30
    assert decibels(again, halved.float()) > 15


@pytest.mark.parametrize("precision", ["none", "bf16"])
@pytest.mark.parametrize("sense", ["vision_tok", "audio_tok"])
def test_training(tmp_path: Path, sense: str, precision: str) -> None:
    """A recipe trains, stops and resumes on the GPU, and every loss stays finite."""
    import importlib

    train = importlib.import_module(f"{sense}.train")
    recipe = {"vision_tok": "smoke.yaml", "audio_tok": "wavtokenizer-smoke.yaml"}[sense]
    arguments = ["--config", str(asset_path(f"configs/{recipe}")), "--out", str(tmp_path / "run"),
                 "--set", "log.tracker=none", "--set", "log.save_every=5",
                 "--set", f"train.mixed_precision={precision}"]  # fmt: skip
    if sense == "vision_tok":
        arguments += ["--data", "procedural"]
    assert train.main([*arguments, "--set", "train.steps=10"]) == 0
    assert train.main([*arguments, "--set", "train.steps=15", "--resume"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert max(line["step"] for line in lines) == 15
    numbers = [v for line in lines for v in line.values() if isinstance(v, float)]
    assert numbers and torch.tensor(numbers).isfinite().all()


def test_distribution_distance() -> None:
    from eval.procedural_distance import ProceduralDistance
    from tok_core.procedural_images import ProceduralImages

    source = ProceduralImages("natural", 64)
    x = torch.stack([torch.tensor(source.pixels(i)).permute(2, 0, 1) for i in range(64)])

    def distance(device: str) -> Any:
        metric = ProceduralDistance().to(device)
        metric.update(x[:32].to(device), real=True)
        metric.update(x[32:].to(device), real=False)
        return float(metric.compute()["frechet/procedural-v1"])

    assert distance("cuda") == pytest.approx(distance("cpu"), rel=2e-3)
