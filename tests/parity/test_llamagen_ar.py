"""LlamaGen against outputs of the official code, through the importer and the sampling engine.

Models are the ``<model>_io`` and ``<model>_weights`` files of the set, sizes and sampling runs
those of its ``config.json``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from generators.condition_embedding import caption_attention
from generators.contract import Condition
from generators.guidance import Guidance
from generators.import_llamagen import import_llamagen, llamagen_from_state, official_names
from generators.llamagen import LlamaGen
from generators.sampling import sample
from generators.token_filter import TokenFilter
from tests.parity.vectors import (
    Tolerance,
    close,
    config_of,
    keys_of,
    manifest_of,
    meta_state,
    parity_folder,
    tensors_of,
)

FOLDER = parity_folder("llamagen-ar")
MODELS = [
    path.name.removesuffix("_io.safetensors") for path in sorted(FOLDER.glob("*_io.safetensors"))
    if (FOLDER / path.name.replace("_io.", "_weights.")).is_file()
]  # fmt: skip
INPUT = re.compile(r"tf\.(tokens|labels|caption_features|caption_mask|valid)|filter\.logits"
                   r"|gen\..+\.min_top2_margin")
LOGITS, LOSS = Tolerance(absolute=1e-4), Tolerance(relative=1e-5)
GRADIENT, EXACT = Tolerance(peak=1e-4), Tolerance(absolute=1e-6)
Compute = Callable[..., Tensor]
KINDS: list[tuple[re.Pattern[str], Tolerance, Compute]] = []


def kind(pattern: str, tolerance: Tolerance) -> Callable[[Compute], Compute]:
    def register(compute: Compute) -> Compute:
        KINDS.append((re.compile(pattern), tolerance, compute))
        return compute

    return register


def io(model: str) -> dict[str, Tensor]:
    return tensors_of(FOLDER, f"{model}_io")


@cache
def generator(model: str) -> LlamaGen:
    return import_llamagen(FOLDER / f"{model}_weights.safetensors", config_of(FOLDER)[model])


def condition(model: str) -> Condition:
    given = io(model)
    if "tf.labels" in given:
        return Condition(labels=given["tf.labels"])
    return Condition(
        features=given["tf.caption_features"], mask=given["tf.caption_mask"].bool()
    )


def tokens(model: str) -> Tensor:
    side = generator(model).spec.grid[0]
    return io(model)["tf.tokens"].unflatten(1, (side, side))


@cache
def traced(model: str) -> dict[str, Tensor]:
    """Everything that one teacher-forced pass shows, condition rows included."""
    network, codes = generator(model), tokens(model)
    seen: dict[str, Tensor] = {}
    first = network.trunk.blocks[0]

    def keep(name: str) -> Callable[..., None]:
        return lambda module, given, out: seen.__setitem__(name, out.detach())

    hooks = [
        first.register_forward_hook(keep("layer0_output")),
        first.attention.register_forward_hook(keep("layer0_attention_output")),
        network.trunk.register_forward_hook(keep("hidden")),
    ]
    network.zero_grad()
    out = network(codes, condition=condition(model))
    out.losses["loss/tokens"].backward()
    for hook in hooks:
        hook.remove()
    seen["logits_all_positions"] = network.factor_logits(seen.pop("hidden"), 0)
    seen["loss"] = out.losses["loss/tokens"].detach()[None]
    names = official_names(network)
    for ours, parameter in network.named_parameters():
        official = names[ours]
        if parameter.grad is not None:
            for name, part in zip(official, parameter.grad.chunk(len(official)), strict=True):
                seen[f"grad.{name}"] = part.clone()
    return seen


@kind(r"tf\.(logits_all_positions|layer0_.*output)", LOGITS)
@kind(r"tf\.(loss)", LOSS)
@kind(r"tf\.(grad\..+)", GRADIENT)
def _teacher_forced(model: str, name: str) -> Tensor:
    return traced(model)[name]


@kind(r"tf\.logits_unconditional", LOGITS)
def _unconditional(model: str) -> Tensor:
    network = generator(model)
    codes = tokens(model)
    windowed = network.spec.to_sequence(codes)[:, network.tables["windows"]]
    x = torch.cat((network.condition.null(len(codes)), network._fused(windowed[:, :-1])), dim=1)
    mask = caption_attention(condition(model).mask, x.shape[1])
    hidden = network.trunk(x, network.tables["rotation"][: x.shape[1]], mask)
    return network.factor_logits(hidden[:, network.settings.prefix - 1 :], 0)


@kind(r"tf\.loss_with_valid", LOSS)
def _valid(model: str) -> Tensor:
    valid = io(model)["tf.valid"].bool()
    out = generator(model)(tokens(model), condition=condition(model), valid=valid)
    return out.losses["loss/tokens"][None]


@kind(r"tf\.attention_mask_row_sums", EXACT)
def _row_sums(model: str) -> Tensor:
    mask = condition(model).mask
    assert mask is not None
    seen = caption_attention(mask, io(model)["tf.attention_mask_row_sums"].shape[1])
    assert seen is not None
    return seen[:, 0].sum(-1).to(io(model)["tf.attention_mask_row_sums"].dtype)


@kind(r"rope_table", EXACT)
def _rope(model: str) -> Tensor:
    return generator(model).tables["rotation"]


@cache
def generated(model: str, run: str) -> tuple[Tensor, Tensor]:
    """Tokens (B, N) and guided logits (B, N, V) of a greedy run."""
    options = config_of(FOLDER)["sampling"][run]
    stop = options.get("cfg_interval", -1)
    logits: list[Tensor] = []
    codes = sample(
        generator(model), condition(model), seeds=range(len(tokens(model))),
        guidance=Guidance(scale=options["cfg_scale"], stop=None if stop < 0 else stop + 2),
        token_filter=TokenFilter(temperature=0), watch=lambda seen, *_: logits.append(seen),
    )  # fmt: skip
    return codes.flatten(1), torch.cat(logits, dim=1)


@kind(r"gen\.(.+)\.tokens", EXACT)
def _tokens(model: str, run: str) -> Tensor:
    return generated(model, run)[0]


@kind(r"gen\.(.+)\.logits_per_step", LOGITS)
def _logits(model: str, run: str) -> Tensor:
    return generated(model, run)[1]


@kind(r"filter\.t(.+)_k(.+)_p(.+)\.probs", EXACT)
def _filtered(model: str, temperature: str, k: str, p: str) -> Tensor:
    chosen = TokenFilter(temperature=float(temperature), top_k=int(k), top_p=float(p))
    return chosen.probabilities(io(model)["filter.logits"])


def _find(key: str) -> tuple[Tolerance, Compute, tuple[Any, ...]] | None:
    for pattern, tolerance, compute in KINDS:
        if match := pattern.fullmatch(key):
            return tolerance, compute, match.groups()
    return None


CASES = [
    (model, key) for model in MODELS for key in sorted(keys_of(FOLDER, f"{model}_io"))
    if not INPUT.fullmatch(key)
]  # fmt: skip


@pytest.mark.parametrize(("model", "key"), CASES)
def test_vector(model: str, key: str) -> None:
    found = _find(key)
    assert found is not None, f"no test computes {key}"
    tolerance, compute, groups = found
    close(compute(model, *groups), io(model)[key], tolerance)


def test_every_kind_is_there() -> None:
    used = {found[1] for _, key in CASES if (found := _find(key))}
    assert used == {compute for _, _, compute in KINDS}


@pytest.mark.parametrize("name", manifest_of(FOLDER))
def test_published_sizes(name: str) -> None:
    file = name.split(" and ")[0]
    model = llamagen_from_state(meta_state(manifest_of(FOLDER)[name]), name=file)
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    assert model.spec.grid == (int(re.search(r"_(\d{3})", file)[1]) // 16,) * 2
    assert json.loads(model.spec.to_json()) == json.loads(model.config["spec"])
