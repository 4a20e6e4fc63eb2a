"""The quantizer against the parity vectors, its definitions, and a life of training steps."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from tok_core.codebook_usage import CodebookUsage, perplexity
from tok_core.dead_codes import restart_dead_codes
from tok_core.errors import ConfigError, TokenError
from tok_core.kmeans import kmeans
from tok_core.online_clustering import online_clustering
from tok_core.vector_quantizer import VectorQuantizer

ROOT = Path(__file__).resolve().parents[2]
PARITY = Path(os.environ.get("TESSERA_PARITY_DIR") or ROOT.parent / "shared/parity") / "one-d-piece"
needs_parity = pytest.mark.skipif(not PARITY.is_dir(), reason=f"no parity vectors at {PARITY}")


def close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = 1e-5) -> None:
    limit = tolerance * max(theirs.abs().max().item(), 1.0)
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max().item() <= limit


def channels_last(z: torch.Tensor) -> torch.Tensor:
    return z.squeeze(2).transpose(1, 2)  # (B, C, 1, N) -> (B, N, C)


def from_parity(folder: str) -> tuple[VectorQuantizer, dict[str, torch.Tensor]]:
    config = json.loads((PARITY / folder / "config.json").read_text())
    weights = load_file(PARITY / folder / "weights.safetensors")
    quantizer = VectorQuantizer(
        config["codebook_size"], config["token_size"],
        l2_normalize=bool(config["use_l2_norm"]), commitment_weight=config["commitment_cost"],
        update="clustering" if config.get("clustering_vq") else "gradient",
        ema_decay=config.get("clustering_decay", 0.99),
    )
    state = {"codebook": weights["quantize.embedding.weight"]}
    if "quantize.embed_prob" in weights:
        state["usage_ema"] = weights["quantize.embed_prob"]
    quantizer.load_state_dict(state, strict=True)
    return quantizer.eval(), load_file(PARITY / folder / "io.safetensors")


@needs_parity
@pytest.mark.parametrize("folder", ["", "titok-direct-vq", "tatitok-vq"])
def test_parity_of_quantization(folder: str) -> None:
    quantizer, io = from_parity(folder)
    z = channels_last(io["encoder/z"])
    result = quantizer(z)
    assert torch.equal(result.codes, io["quantizer/indices"].squeeze(1))
    assert torch.equal(quantizer.encode(z), result.codes)
    close(result.latents, channels_last(io["quantizer/z_q"]))
    if "quantizer/codebook_loss" in io:
        close(result.losses["quantizer/codebook"], io["quantizer/codebook_loss"])
        close(result.losses["quantizer/commitment"], io["quantizer/commitment_loss"])
        close(sum(result.losses.values()), io["quantizer/quantizer_loss"])


@needs_parity
def test_parity_of_lookup() -> None:
    quantizer, io = from_parity("")
    close(quantizer.lookup(torch.arange(5)), io["codebook/entries_of_first_5"])
    close(quantizer.lookup_soft(io["codebook/soft_query"]), io["codebook/soft_entries"])


@needs_parity
def test_parity_of_online_clustering() -> None:
    quantizer, io = from_parity("tatitok-vq")
    quantizer.train()
    z = channels_last(io["encoder/z"])
    steps = sum(key.endswith("_z_q") for key in io if key.startswith("clustering/"))
    assert steps >= 1
    for step in range(steps):
        name = f"clustering/step{step}_"
        result = quantizer(z)
        assert torch.equal(result.codes, io[name + "indices"].squeeze(1))
        close(result.latents, channels_last(io[name + "z_q"]))
        close(sum(result.losses.values()), io[name + "quantizer_loss"])
        close(quantizer.codebook, io[name + "embedding_after"])
        close(quantizer.usage_ema, io[name + "embed_prob_after"])


@pytest.mark.parametrize("normalised", [False, True])
def test_losses_and_gradients_are_the_definitions(normalised: bool) -> None:
    quantizer = VectorQuantizer(9, 4, l2_normalize=normalised)
    z = torch.randn(2, 5, 4, requires_grad=True)
    result = quantizer(z)
    target = torch.randn(2, 5, 4)
    ((result.latents * target).sum() + sum(result.losses.values())).backward()
    ours = z.grad.clone(), quantizer.codebook.grad.clone()
    z.grad = quantizer.codebook.grad = None

    unit = F.normalize(z, dim=-1) if normalised else z
    table = F.normalize(quantizer.codebook, dim=-1) if normalised else quantizer.codebook
    code = table[result.codes]
    latents = unit + (code - unit).detach()
    loss = (code - unit.detach()).square().mean() + 0.25 * (code.detach() - unit).square().mean()
    ((latents * target).sum() + loss).backward()
    assert torch.equal(result.latents, latents)
    close(ours[0], z.grad)
    close(ours[1], quantizer.codebook.grad)


def test_without_straight_through_the_decoder_reaches_the_codebook() -> None:
    quantizer = VectorQuantizer(9, 4, straight_through=False)
    z = torch.randn(7, 4, requires_grad=True)
    quantizer(z).latents.sum().backward()
    assert z.grad is None
    assert quantizer.codebook.grad.abs().sum() > 0


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("update", ["gradient", "clustering"])
def test_codebook_may_change_between_forward_and_backward(update: str, normalised: bool) -> None:
    options = {"update": update, "kmeans_start": True, "dead_code_every": 1}
    quantizer = VectorQuantizer(16, 4, l2_normalize=normalised, **options)
    z = torch.randn(20, 4, requires_grad=True)
    first = quantizer(z)
    second = quantizer(z)
    (sum(first.losses.values()) + sum(second.losses.values())).backward()
    assert torch.isfinite(quantizer.codebook.grad).all()


def test_autocast_changes_nothing() -> None:
    quantizer = VectorQuantizer(64, 8)
    z = torch.randn(3, 11, 8)
    plain = quantizer(z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = quantizer(z)
        soft = quantizer.lookup_soft(torch.eye(64))
    assert torch.equal(plain.codes, mixed.codes)
    assert torch.equal(plain.latents, mixed.latents)
    assert mixed.losses["quantizer/codebook"].dtype == torch.float32
    assert torch.equal(soft, quantizer.codebook)
    assert quantizer(z.bfloat16()).latents.dtype == torch.bfloat16


def test_ema_follows_the_running_means() -> None:
    quantizer = VectorQuantizer(3, 2, update="ema", ema_decay=0.9).train()
    with torch.no_grad():
        start = torch.tensor([[0.0, 0.0], [10.0, 0.0], [99.0, 99.0]])
        quantizer.codebook.copy_(start)
        quantizer.sum_ema.copy_(start)
    z = torch.tensor([[1.0, 0.0], [0.0, 1.0], [11.0, 0.0]])
    result = quantizer(z)
    assert result.codes.tolist() == [0, 0, 1]
    assert set(result.losses) == {"quantizer/commitment"}
    # counts 0.9 + 0.1 n, sums 0.9 s + 0.1 sum(z): [0.1, 0.1] / 1.1, [9 + 1.1, 0] / 1, unmoved
    close(quantizer.codebook[0], torch.tensor([0.1 / 1.1, 0.1 / 1.1]))
    close(quantizer.codebook[1], torch.tensor([10.1, 0.0]))
    close(quantizer.codebook[2], torch.tensor([99.0, 99.0]))
    for _ in range(300):
        quantizer(z)
    close(quantizer.codebook[0], torch.tensor([0.5, 0.5]))
    close(quantizer.codebook[2], torch.tensor([99.0, 99.0]))


def test_kmeans_finds_separated_clusters() -> None:
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0]])
    z = centres.repeat(50, 1) + 0.1 * torch.randn(100, 2)
    assert torch.cdist(centres, kmeans(z, 2)).min(1).values.max() < 0.2
    z = torch.randn(500, 3)
    inertia = [
        torch.cdist(z, kmeans(z, 20, iterations=n)).min(1).values.square().mean() for n in (0, 2, 9)
    ]
    assert inertia[0] > inertia[1] > inertia[2]
    unit = kmeans(torch.randn(300, 5), 7, spherical=True)
    close(unit.norm(dim=1), torch.ones(7))
    few = kmeans(torch.randn(5, 3), 20)
    assert few.shape == (20, 3)
    assert len(few.unique(dim=0)) == 20
    same = kmeans(torch.ones(40, 3), 6)
    assert torch.isfinite(same).all()


def test_dead_codes_move_onto_latents_and_the_living_stay() -> None:
    vectors, z = torch.randn(6, 3), torch.randn(10, 3)
    before = vectors.clone()
    counts = torch.tensor([0, 4, 0, 1, 0, 9])
    moved = restart_dead_codes(vectors, counts, z, seed=1)
    assert moved.tolist() == [0, 2, 4]
    assert torch.equal(vectors[counts > 0], before[counts > 0])
    origin = torch.cdist(vectors[moved], z)
    assert origin.min(1).values.max() == 0
    assert len(origin.argmin(1).unique()) == 3
    assert len(restart_dead_codes(vectors, torch.zeros(6), z[:2], seed=1)) == 2


def test_the_shipped_recipe_bypass_then_kmeans_then_restarts(tmp_path: Path) -> None:
    options = {"kmeans_start": True, "quantize_after_steps": 3, "dead_code_every": 2}
    quantizer = VectorQuantizer(32, 4, **options).train()
    start = quantizer.codebook.detach().clone()
    batches = [torch.randn(64, 4) * 3 for _ in range(8)]
    for step in range(3):
        z = batches[step].requires_grad_()
        result = quantizer(z)
        assert torch.equal(result.latents, z)
        assert result.codes.shape == (64,)
        losses = sum(result.losses.values())
        assert losses == 0
        assert torch.equal(quantizer.codebook, start)
        losses.backward()
        assert quantizer.codebook.grad is not None
    assert not quantizer.initialised
    quantizer(batches[3])
    assert quantizer.initialised == 1
    assert not torch.equal(quantizer.codebook, start)
    with torch.no_grad():
        quantizer.codebook[5:] = 1e6
    quantizer(batches[4])
    assert (quantizer.codebook[5:] == 1e6).any()
    # A resumed run must go on to the very same numbers.
    save_file(quantizer.state_dict(), tmp_path / "q.safetensors")
    resumed = VectorQuantizer(32, 4, **options).train()
    resumed.load_state_dict(load_file(tmp_path / "q.safetensors"), strict=True)
    for step in (5, 6, 7):
        assert torch.equal(quantizer(batches[step]).latents, resumed(batches[step]).latents)
        assert torch.equal(quantizer.codebook, resumed.codebook)
    assert quantizer.codebook.max() < 1e5


def test_bypass_switch_and_a_long_bypass_leaves_the_codebook_alone() -> None:
    quantizer = VectorQuantizer(16, 4, kmeans_start=True, dead_code_every=2).train()
    quantizer.bypass = True
    for _ in range(4):
        z = torch.randn(40, 4)
        assert torch.equal(quantizer(z).latents, z)
    quantizer.bypass = False
    z = torch.randn(40, 4)
    quantizer(z)
    close(quantizer.codebook.detach(), kmeans(z, 16))


@pytest.mark.parametrize("update", ["gradient", "ema", "clustering"])
def test_eval_and_frozen_change_nothing(update: str) -> None:
    options = {"update": update, "kmeans_start": True, "dead_code_every": 1}
    quantizer = VectorQuantizer(16, 4, **options)
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    quantizer.eval()(torch.randn(30, 4))
    quantizer.train().frozen = True
    quantizer(torch.randn(30, 4))
    if update != "ema":
        quantizer.frozen = False
        quantizer.codebook.requires_grad_(False)
        quantizer(torch.randn(30, 4))
    for name, value in quantizer.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_clustering_moves_dead_codes_only() -> None:
    z = torch.randn(100, 3)
    vectors = torch.cat((z[:2], torch.full((2, 3), 50.0)))
    usage, counts = torch.tensor([0.5, 0.5, 0.0, 0.0]), torch.tensor([60, 40, 0, 0])
    online_clustering(vectors, usage, counts, z)
    assert torch.equal(vectors[:2], z[:2])
    assert torch.cdist(vectors[2:], z).min(1).values.max() < 0.2


def test_built_on_meta_and_published_state_is_the_codebook_alone() -> None:
    with torch.device("meta"):
        quantizer = VectorQuantizer(4096, 12, l2_normalize=True)
        assert quantizer(torch.empty(2, 8, 12)).latents.shape == (2, 8, 12)
    assert list(quantizer.state_dict()) == ["codebook"]


def test_usage_meter_whole_and_by_position() -> None:
    meter = CodebookUsage(4, num_tokens=3)
    meter.update(torch.tensor([[0, 1, 2], [0, 2, 2]]))
    meter.update(torch.tensor([[0, 3]]))
    result = meter.compute()
    assert result["codebook/counts"].tolist() == [3, 1, 3, 1]
    assert result["codebook/usage"] == 1
    close(result["codebook/position_usage"], torch.tensor([0.25, 0.75, 0.25]))
    close(result["codebook/position_perplexity"], torch.tensor([1.0, 3.0, 1.0]))
    meter.reset()
    assert meter.compute()["codebook/perplexity"] == 0
    close(perplexity(torch.ones(8)), torch.tensor(8.0))


def test_errors_say_what_is_legal() -> None:
    with pytest.raises(ConfigError, match="did you mean 'gradient'"):
        VectorQuantizer(8, 2, update="gradients")
    for options in ({"ema_decay": 1.0}, {"dead_code_every": -1}, {"quantize_after_steps": -1}):
        with pytest.raises(ConfigError):
            VectorQuantizer(8, 2, **options)
    with pytest.raises(ConfigError, match="at least 1"):
        VectorQuantizer(0, 2)
    quantizer = VectorQuantizer(8, 2)
    with pytest.raises(ConfigError, match="last axis"):
        quantizer(torch.randn(2, 3))
    for bad in (-1, 8):
        with pytest.raises(TokenError, match="legal are 0 to 7"):
            quantizer.lookup(torch.tensor([0, bad]))
