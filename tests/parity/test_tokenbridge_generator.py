"""TokenBridge's generator against outputs of the official code, through the importer.

Generation starts from the orders that the files give; runs and schedules are found by their keys,
and the runs' settings stand in the ``config.json``.  The files' ``unlabelled`` generation takes the
null condition, which guidance of scale 0 gives.  What the autoencoder and the tables make is
checked with the tokenizer.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from generators.contract import UNCONDITIONAL, Condition
from generators.guidance import Guidance
from generators.import_token_bridge import (
    BUFFERS,
    HEADS,
    import_token_bridge,
    official_names,
    token_bridge_from_state,
)
from generators.mask_schedule import cosine_masked_after
from generators.masked_autoencoder import visible_places
from generators.masked_sampling import sample_masked
from generators.token_bridge import TokenBridge
from generators.token_bridge_run import scale_at
from generators.token_filter import TokenFilter
from tests.parity.vectors import (
    Kinds,
    Tolerance,
    config_of,
    folders_with,
    keys_of,
    manifest_of,
    meta_state,
    parity_folder,
    place,
    tensors_of,
)
from tok_core.errors import WeightsError

FOLDER = parity_folder("tokenbridge")
FOLDERS = [
    folder for folder in folders_with("io.safetensors", FOLDER)
    if "condition_proj.weight" in keys_of(folder, "weights")
]  # fmt: skip
FEATURES, LOGITS = Tolerance(absolute=1e-4), Tolerance(absolute=2e-4)
KINDS = Kinds(FOLDERS, FEATURES)
kind = KINDS.kind


@cache
def model_of(folder: Path) -> TokenBridge:
    return import_token_bridge(folder)


def labels_of(folder: Path, name: str) -> Condition:
    return Condition(labels=tensors_of(folder)[f"{name}.labels"])


def order_of(folder: Path) -> list[int]:
    return list(model_of(folder).settings.channel_order)


class Forward(NamedTuple):
    """One forward pass: what the encoder and the decoder return, and codes with their masks."""

    encoded: Tensor
    features: Tensor
    codes: Tensor
    masked: Tensor


@cache
@torch.no_grad()
def forward(folder: Path, how: str = "") -> Forward:
    """Run the backbone with labels, with everything masked, or without labels (``uncond``)."""
    model, io = model_of(folder), tensors_of(folder)
    codes, masked = io["quant.indices"], io["fwd.mask"].bool()
    if how == "all_masked":
        masked = torch.ones_like(masked)
    batch, visible = len(codes), visible_places(masked)
    condition = labels_of(folder, "fwd")
    embedded = model.condition(UNCONDITIONAL if how == "uncond" else condition, batch)
    encoded = model.backbone.encoded(model.values(codes), visible, embedded)
    return Forward(encoded, model.backbone.decoded(encoded, visible), codes, masked)


@kind("values", r"quant\.dequantized", Tolerance(absolute=1e-6))
def _values(folder: Path) -> Tensor:
    return model_of(folder).values(tensors_of(folder)["quant.indices"])


@kind("encoder", r"fwd\.encoder_out")
def _encoder(folder: Path) -> Tensor:
    return forward(folder).encoded


@kind("decoder", r"fwd\.decoder_out(?:_(\w+))?")
def _decoder(folder: Path, how: str | None) -> Tensor:
    return forward(folder, how or "").features


@kind("targets", r"fwd\.targets_head_order")
def _targets(folder: Path) -> Tensor:
    return tensors_of(folder)["quant.indices"][..., order_of(folder)]


@cache
def trained(folder: Path) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return logits (n, C, V) in head order, the loss, and its gradients by official name."""
    model, pass_ = import_token_bridge(folder), forward(folder)
    codes = model.spec.from_sequence(pass_.codes)
    out = model(codes, condition=labels_of(folder, "fwd"), masked=pass_.masked)
    out.losses["loss/tokens"].backward()
    official = tensors_of(folder, "weights")
    gradients = {}
    for ours, parameter in model.named_parameters():
        names = official_names(model)[ours]
        assert parameter.grad is not None, ours
        flat, start = parameter.grad.flatten(), 0
        for name in names:
            size = official[name].numel()
            gradients[name] = flat[start : start + size].view_as(official[name])
            start += size
    return out.logits[pass_.masked][:, order_of(folder)], out.losses["loss/tokens"], gradients


@kind("logits", r"fwd\.head_logits", LOGITS)
def _logits(folder: Path) -> Tensor:
    return trained(folder)[0]


@kind("loss", r"fwd\.loss", Tolerance(absolute=1e-5))
def _loss(folder: Path) -> Tensor:
    return trained(folder)[1][None]


@kind("gradients", r"fwd\.grad\.(.+)", Tolerance(peak=1e-4))
def _gradient(folder: Path, name: str) -> Tensor:
    return trained(folder)[2][name]


@cache
@torch.no_grad()
def greedy(folder: Path) -> tuple[Tensor, Tensor]:
    """Return the likeliest codes (6, C) slot by slot, and their logits (6, C, V), head order."""
    head = model_of(folder).head
    session, before = head.begin(tensors_of(folder)["head.features"][:, None]), None
    codes, logits = [], []
    for slot in range(head.slots):
        logits.append(head.logits(session.step(before), slot))
        before = logits[-1].argmax(dim=-1)
        codes.append(before)
    return torch.stack(codes, dim=1), torch.stack(logits, dim=1)


@kind("greedy codes", r"head\.greedy_tokens_(head|channel)_order")
def _greedy_codes(folder: Path, order: str) -> Tensor:
    codes = greedy(folder)[0]
    return codes if order == "head" else codes[:, torch.tensor(order_of(folder)).argsort()]


@kind("logits of the sampling path", r"head\.greedy_logits_sampling_path", LOGITS)
def _sampling_path(folder: Path) -> Tensor:
    return greedy(folder)[1]


@kind("logits of the training path", r"head\.teacher_forced_logits_training_path", LOGITS)
@torch.no_grad()
def _training_path(folder: Path) -> Tensor:
    head, io = model_of(folder).head, tensors_of(folder)
    hidden = head(io["head.features"][:, None], io["head.greedy_tokens_head_order"])
    return torch.stack([head.logits(hidden[:, slot], slot) for slot in range(head.slots)], dim=1)


def guidance_of(options: dict[str, Any]) -> Guidance:
    """Return the guidance of a run; labels left out are guidance of scale 0."""
    if not options.get("use_labels", True):
        return Guidance(scale=0.0)
    schedule = "ramp" if options.get("cfg_schedule", "linear") == "linear" else "constant"
    return Guidance(scale=options["cfg"], schedule=schedule)


@cache
def drawn(folder: Path, run: str) -> tuple[Tensor, float]:
    """Return codes (B, L, C) of a run and the smallest gap between its two best logits."""
    model, options, gaps = model_of(folder), config_of(folder)["sampling"][run], [math.inf]

    def watch(logits: Tensor, places: Tensor, factor: int) -> None:
        best = logits.topk(2, dim=-1).values
        gaps.append(float((best[..., 0] - best[..., 1]).min()))

    io = tensors_of(folder)
    codes = sample_masked(
        model, labels_of(folder, "sample"), seeds=range(len(io["sample.orders"])),
        steps=options["num_iter"], guidance=guidance_of(options), orders=io["sample.orders"],
        token_filter=TokenFilter(temperature=0), watch=watch,
    )  # fmt: skip
    return model.spec.to_sequence(codes), min(gaps)


@kind("generated codes", r"sample\.(\w+)\.indices")
def _codes(folder: Path, run: str) -> Tensor:
    return drawn(folder, run)[0]


@kind("generated latents", r"sample\.(\w+)\.latents", Tolerance(absolute=1e-6))
def _latents(folder: Path, run: str) -> Tensor:
    model = model_of(folder)
    assert model.spec.grid is not None
    return model.values(drawn(folder, run)[0]).mT.unflatten(-1, model.spec.grid)


@kind("gaps", r"sample\.(\w+)\.min_top2_margin", LOGITS)
def _gap(folder: Path, run: str) -> Tensor:
    return torch.tensor([drawn(folder, run)[1]])


def masked_counts(length: int, steps: int) -> list[int]:
    """Return how many positions are masked before the first step and after each."""
    counts = [length]
    for step in range(steps):
        counts.append(cosine_masked_after(step, steps, counts[-1], length))
    return counts


@kind("schedule", r"schedule\.len(\d+)\.iters(\d+)\.tokens_per_step")
def _revealed(folder: Path, length: str, steps: str) -> Tensor:
    counts = torch.tensor(masked_counts(int(length), int(steps)))
    counts[-1] = 0
    return counts[:-1] - counts[1:]


@kind("scales", r"schedule\.len(\d+)\.iters(\d+)\.linear_cfg([\d.]+)", Tolerance(absolute=1e-5))
def _scales(folder: Path, length: str, steps: str, scale: str) -> Tensor:
    guidance, whole = Guidance(scale=float(scale), schedule="ramp"), int(length)
    left = masked_counts(whole, int(steps))[1:]
    return torch.tensor([scale_at(guidance, whole - count, whole) for count in left])


@pytest.mark.parametrize(("folder", "key"), KINDS.cases())
def test_official_outputs(folder: Path, key: str) -> None:
    KINDS.check(folder, key)


def test_every_kind_is_found() -> None:
    assert FOLDERS and not KINDS.unused()


INPUTS = {"fwd.labels", "fwd.orders", "fwd.mask", "head.features", "sample.orders", "sample.labels"}


@pytest.mark.parametrize("folder", FOLDERS, ids=place)
def test_every_tensor_of_the_generator_is_covered(folder: Path) -> None:
    ours = {
        key for key in keys_of(folder)
        if key.startswith(("fwd.", "head.", "sample.", "schedule."))
    }  # fmt: skip
    assert not {key for key in ours if not KINDS.find(key)} - INPUTS


@pytest.mark.parametrize("folder", FOLDERS, ids=place)
def test_both_first_inputs(folder: Path) -> None:
    """Without the released mismatch, drawing and teacher forcing agree, with either of them."""
    features = tensors_of(folder)["head.features"][:, None]
    codes = greedy(folder)[0]
    hidden = {}
    for word in ("bare", "stepped"):
        head = import_token_bridge(folder).head
        head.first_input = word
        with torch.no_grad():
            hidden[word] = head(features, codes)
            session, before = head.begin(features), None
            for slot in range(head.slots):
                torch.testing.assert_close(
                    session.step(before), hidden[word][:, slot], rtol=1e-4, atol=1e-4
                )
                before = codes[:, slot]
    assert not torch.allclose(hidden["bare"], hidden["stepped"], atol=1e-2)


@pytest.mark.parametrize("folder", FOLDERS, ids=place)
def test_import_is_strict_both_ways(folder: Path) -> None:
    state = load_file(folder / "weights.safetensors")
    options = config_of(folder)["generator"]
    for key in state.keys() - set(BUFFERS):
        with pytest.raises(WeightsError):
            token_bridge_from_state({k: v for k, v in state.items() if k != key}, options)
    with pytest.raises(WeightsError, match="more"):
        token_bridge_from_state(state | {f"{min(state)}_more": torch.zeros(1)}, options)


@pytest.mark.parametrize("folder", FOLDERS, ids=place)
def test_averages_have_no_buffers(folder: Path, tmp_path: Path) -> None:
    """``model_ema`` wins over ``model``; what it lacks is computed again, to the last digit."""
    state = load_file(folder / "weights.safetensors")
    averages = {key: tensor for key, tensor in state.items() if key not in BUFFERS}
    trained = {key: tensor + 1 for key, tensor in state.items()}
    options = config_of(folder)["generator"]
    file = tmp_path / "checkpoint-last.pth"
    torch.save({"model": trained, "model_ema": averages, "epoch": 3}, file)
    model = import_token_bridge(file, options)
    assert model.weights_hash() == model_of(folder).weights_hash()
    torch.testing.assert_close(model.tables["values"], model_of(folder).tables["values"])
    torch.save({"model": state, "epoch": 3}, file)
    alone = import_token_bridge(file, options)
    assert alone.weights_hash() == model.weights_hash()


# -- full-size checkpoints -----------------------------------------------------------------------


def manifests() -> list[Any]:
    return [
        pytest.param(rows, id=name.split(" ")[0].split("/")[0])
        for name, rows in manifest_of(FOLDER).items()
        if {"condition_proj.weight", "output_pos_embed"} <= {key for key, *_ in rows}
    ]


@pytest.mark.parametrize("rows", manifests())
def test_full_size_checkpoints_map_completely(rows: list[Any]) -> None:
    model = token_bridge_from_state(meta_state(rows))
    official = {part for parts in official_names(model).values() for part in parts}
    assert official | set(BUFFERS) == {key for key, *_ in rows}
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == sum(math.prod(shape) for key, shape, _ in rows if key not in BUFFERS)
    settings = model.settings
    assert settings.encoder == settings.decoder
    assert settings.encoder.heads == HEADS[settings.encoder.width]
    assert settings.values is not None


def test_every_full_size_kind_is_there() -> None:
    assert manifests()
