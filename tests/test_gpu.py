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


# -- generators ----------------------------------------------------------------------------------

SEEDS = [5, 6, 7]


def generator(kind: str) -> Any:
    from generators.llamagen import LlamaGen
    from generators.rar import RAR
    from tok_core.token_spec import Axis, TokenSpec

    axes = tuple(Axis(name=name, size=16, minimum=16) for name in ("row", "column"))
    spec = TokenSpec(modality="image", axes=axes, vocabulary=(64,)).to_json()
    sizes: dict[str, Any] = {"width": 64, "layers": 3, "heads": 2, "classes": 5}
    torch.manual_seed(0)
    made: Any = {
        "plain": lambda: LlamaGen(spec, **sizes),
        "windows": lambda: LlamaGen(spec, window=2, **sizes),
        "windows, causal": lambda: LlamaGen(spec, window=2, slot_head="causal", **sizes),
        "RAR": lambda: RAR(spec, **sizes),
    }[kind]()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made.eval().cuda()


def drawn(network: Any, labels: list[int], seeds: list[int], **options: Any) -> torch.Tensor:
    from generators.contract import Condition
    from generators.guidance import Guidance
    from generators.sampling import sample
    from generators.token_filter import TokenFilter

    codes = sample(
        network, Condition(labels=torch.tensor(labels)), seeds=seeds,
        guidance=Guidance(scale=2.0, schedule="half_linear"), token_filter=TokenFilter(top_k=40),
        **options,
    )  # fmt: skip
    network.spec.check(codes)
    return codes


def graphs_of(network: Any) -> dict[Any, Any]:
    steps = network.__dict__["_kept_steps"].steps
    assert steps.capture
    return steps._graphs


KINDS = ["plain", "windows", "windows, causal", "RAR"]


@pytest.mark.parametrize("kind", KINDS)
def test_graphs_draw_the_same_codes(kind: str) -> None:
    network = generator(kind)
    for labels, seeds in (([0, 4, 2], SEEDS), ([1, 1, 3], [1, 2, 3]), ([0, 4, 2], SEEDS)):
        codes = drawn(network, labels, seeds)
        assert torch.equal(codes, drawn(network, labels, seeds, static=False))
    assert len(graphs_of(network)) >= 2
    # Graphs read the weights where they are, and are made anew where those have moved.
    before = graphs_of(network)
    with torch.no_grad():
        network.output.weight.mul_(-1)
    other = drawn(network, [0, 4, 2], SEEDS)
    assert graphs_of(network) is before and not torch.equal(other, codes)
    assert torch.equal(other, drawn(network, [0, 4, 2], SEEDS, static=False))
    network.output.weight = torch.nn.Parameter(-network.output.weight.detach())
    assert torch.equal(drawn(network, [0, 4, 2], SEEDS), codes)
    assert graphs_of(network) is not before


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_on_the_gpu_does_not_depend_on_its_batch(kind: str) -> None:
    # Products of other sizes round otherwise, and one other code changes all behind it: in float64
    # no code of so few lies that near to another.
    network = generator(kind).double()
    together = drawn(network, [0, 4, 2], SEEDS)
    for i, (label, seed) in enumerate(zip([0, 4, 2], SEEDS, strict=True)):
        assert torch.equal(drawn(network, [label], [seed])[0], together[i])


@pytest.mark.parametrize("kind", KINDS)
def test_generators_in_bfloat16(kind: str) -> None:
    network = generator(kind).to(torch.bfloat16)
    keep = torch.rand(3, 256, generator=torch.Generator().manual_seed(0)) < 0.5
    given = drawn(network, [1, 2, 3], [1, 2, 3])
    for _ in range(3):
        codes = drawn(network, [0, 4, 2], SEEDS, given=given, keep=keep)
        kept = keep.view(3, 16, 16).cuda()
        assert torch.equal(codes[kept], given[kept]) and not torch.equal(codes, given)
    assert graphs_of(network)


def test_no_graphs_under_autocast() -> None:
    network = generator("plain")
    with torch.autocast("cuda", dtype=torch.bfloat16):
        drawn(network, [0, 4, 2], SEEDS)
    assert "_kept_steps" not in network.__dict__


@pytest.mark.parametrize("kind", ["plain", "RAR"])
def test_compiled_graphs(kind: str) -> None:
    network = generator(kind)
    codes = drawn(network, [0, 4, 2], SEEDS)
    torch._dynamo.reset()
    network.compile_repeated_blocks(dynamic=True)
    for _ in range(3):
        again = drawn(network, [0, 4, 2], SEEDS)
        assert (again == codes).flatten(1)[:, :16].all() and (again == codes).float().mean() > 0.5
    assert graphs_of(network)
