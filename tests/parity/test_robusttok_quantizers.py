"""The quantizers of the RobusTok and ImageFolder family against outputs of the official code.

Driven from the latents before quantization with the official weights; folders, branches, scales and
selected gradients are read from files and keys. What needs the encoder, the decoder or the teacher
is tested beside.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tok_core.multi_scale_quantizer import MultiScaleQuantizer
from tok_core.next_scale_inputs import next_scale_inputs
from tok_core.phi_residual import shared_index
from tok_core.product_quantizer import ProductQuantizer
from tok_core.quantizer_dropout import QuantizerDropout
from tok_core.vector_quantizer import Quantized, VectorQuantizer

ROOT = Path(__file__).parents[2]
PARITY = Path(os.environ.get("TESSERA_PARITY_DIR", ROOT.parent / "shared" / "parity"))
FOLDER = PARITY / "robusttok"
if not FOLDER.is_dir():
    pytest.skip(f"no parity vectors at {FOLDER}", allow_module_level=True)

FEATURE = 1e-4  # absolute
LOSS = 1e-5  # relative, plus 1e-6
GRADIENT = 1e-3  # of the largest entry

CONV = re.compile(r"quant_resi\.(?:qresi_ls\.|qresi\.)?(?:(\d+)\.)?(weight|bias)")


@cache
def _config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


@cache
def _tensors(folder: Path, name: str = "io") -> dict[str, Tensor]:
    return load_file(folder / f"{name}.safetensors")


@cache
def _branch_weights(folder: Path) -> list[dict[str, Tensor]]:
    """Return the official weights of every branch; one quantizer is one branch."""
    branches: dict[int, dict[str, Tensor]] = {}
    for key, value in _tensors(folder, "weights").items():
        if match := re.fullmatch(r"quantizes?\.(?:(\d+)\.)?(.+)", key):
            branches.setdefault(int(match[1] or 0), {})[match[2]] = value
    assert sorted(branches) == list(range(len(branches)))
    return [branches[i] for i in range(len(branches))]


FOLDERS = [
    path.parent for path in sorted(FOLDER.rglob("weights.safetensors"))
    if (path.parent / "io.safetensors").is_file() and _branch_weights(path.parent)
]  # fmt: skip


def _one_scale(folder: Path) -> bool:
    return not any(CONV.fullmatch(key) for key in _branch_weights(folder)[0])


def _name(folder: Path) -> str:
    return "top" if folder == FOLDER else folder.name


def _close(ours: Tensor, theirs: Tensor, kind: str) -> None:
    ours = ours.detach()
    assert ours.shape == theirs.shape
    if not theirs.is_floating_point():
        assert torch.equal(ours, theirs)
    elif kind == "gradient":
        assert (ours - theirs).abs().max() <= GRADIENT * theirs.abs().max()
    elif kind == "loss":
        torch.testing.assert_close(ours, theirs, rtol=LOSS, atol=1e-6)
    else:
        torch.testing.assert_close(ours, theirs, rtol=0, atol=FEATURE)


# -- our quantizer with the official weights -------------------------------------------------------


def _branch(folder: Path, weights: dict[str, Tensor]) -> nn.Module:
    config = _config(folder)
    table, hits = weights["embedding.weight"], weights["ema_vocab_hit_SV"]
    state = {
        "codebook": table, "average.updates": torch.zeros((), dtype=torch.int64),
        "average.hits": hits.view(-1, len(table)),
    }  # fmt: skip
    beta, cosine = config["commit_loss_beta"], config["codebook_l2_norm"]
    branch: nn.Module
    if _one_scale(folder):
        branch = VectorQuantizer(
            *table.shape, l2_normalize=cosine, commitment_weight=beta, average_usage=True
        )
    else:
        convs = {key: match for key in weights if (match := CONV.fullmatch(key))}
        branch = MultiScaleQuantizer(
            *table.shape, config["v_patch_nums"], cosine=cosine, beta=beta, sum_commitment=True,
            phi_convs=len(convs) // 2, phi_ratio=config["quant_resi_ratio"],
            average_usage=True, official_usage=True,
        )
        state |= {f"phi.{m[1] or 0}.{m[2]}": weights[key] for key, m in convs.items()}
    branch.load_state_dict(state)
    return branch


def _product(folder: Path) -> ProductQuantizer:
    config = _config(folder)
    dropout = QuantizerDropout(
        rate=config.get("codebook_drop", 0.0), start_drop=config.get("start_drop", 3)
    )
    branches = [_branch(folder, weights) for weights in _branch_weights(folder)]
    return ProductQuantizer(branches, dropout=dropout).eval()


_kept_product = cache(_product)


@cache
def _latents(folder: Path) -> Tensor:
    stored = _tensors(folder)
    names = [f"pre_quant.branch{i}" for i in range(len(_branch_weights(folder)))]
    if names[0] not in stored:
        names = ["pre_quant"]
    return torch.stack([stored[name] for name in names], 1)


@cache
@torch.no_grad()
def _codes(folder: Path) -> Tensor:
    return _kept_product(folder).encode(_latents(folder))


@cache
@torch.no_grad()
def _sums(folder: Path) -> list[Tensor]:
    return list(_kept_product(folder).cumulative(_codes(folder)))


@cache
def _trained(folder: Path) -> tuple[Quantized, dict[str, Tensor]]:
    """Return a training forward with the official draw, and gradients by official name."""
    product, stored = _product(folder).train(), _tensors(folder)
    assert product.dropout is not None
    depths = stored.get("train.draw_dropout_depth")
    dropped = product.dropout.draw(len(_latents(folder)), product.num_scales, depths=depths)
    out = product(_latents(folder), dropped=dropped)
    # No other term of the official total reaches codebooks and phi.
    sum(out.losses.values()).backward()
    gradients = {}
    for i, branch in enumerate(product):
        gradients[f"{i}.embedding.weight"] = branch.codebook.grad
        for key in _branch_weights(folder)[i]:
            if match := CONV.fullmatch(key):
                gradients[f"{i}.{key}"] = getattr(branch.phi[int(match[1] or 0)], match[2]).grad
    return out, gradients


# -- what each key asks for ------------------------------------------------------------------------

Compute = Callable[..., Tensor]
KINDS: list[tuple[re.Pattern[str], str, Compute]] = []


def kind(pattern: str, measure: str = "feature") -> Callable[[Compute], Compute]:
    def register(compute: Compute) -> Compute:
        KINDS.append((re.compile(pattern), measure, compute))
        return compute

    return register


@kind(r"indices\.branch(\d+)\.scale(\d+)")
def indices(folder: Path, branch: str, scale: str) -> Tensor:
    codes, product = _codes(folder)[:, int(branch)], _kept_product(folder)
    if product.scales is None:
        return codes.flatten(1)
    return product.scales.split(codes)[int(scale)].flatten(1)


@kind(r"indices_flat")
def indices_flat(folder: Path) -> Tensor:
    return _codes(folder).flatten()


@kind(r"f_hat\.branch(\d+)\.cumulative_scale(\d+)")
def f_hat(folder: Path, branch: str, scale: str) -> Tensor:
    parts = _sums(folder)[int(scale)].chunk(len(_kept_product(folder)), 1)
    return parts[int(branch)]


@kind(r"z_q(?:_concat)?|codebook_entry")
def z_q(folder: Path) -> Tensor:
    product = _kept_product(folder)
    latents = product(_latents(folder)).latents
    _close(product.lookup(_codes(folder)), latents, "feature")
    return latents


@kind(r"train\.(?:\w+\.)?vq_loss", "loss")
def vq_loss(folder: Path) -> Tensor:
    return _trained(folder)[0].losses["quantizer/codebook"]


@kind(r"train\.(?:\w+\.)?commit_loss", "loss")
def commit_loss(folder: Path) -> Tensor:
    return _trained(folder)[0].losses["quantizer/commitment"]


@kind(r"train\.dependency_loss", "loss")
def dependency_loss(folder: Path) -> Tensor:
    return _trained(folder)[0].losses.get("quantizer/decorrelation", torch.zeros(()))


@kind(r"train\.usage_percent", "loss")
def usage_percent(folder: Path) -> Tensor:
    statistics, product = _trained(folder)[0].statistics, _kept_product(folder)
    names = ["codebook/average_usage"]
    if product.scales is not None:
        names = [f"codebook/average_usage/scale{s}" for s in range(product.num_scales)]
    return 100 * torch.stack([statistics[name] for name in names])


@kind(r"train\.(?:\w+\.)?grad\.quantizes?\.(?:(\d+)\.)?(\D.+)", "gradient")
def train_gradient(folder: Path, branch: str, name: str) -> Tensor:
    return _trained(folder)[1][f"{branch or 0}.{name}"]


@kind(r"var_input\.teacher_forcing")
def var_input(folder: Path) -> Tensor:
    return next_scale_inputs(_kept_product(folder), _codes(folder))


@kind(r"var_step\.next_input\.scale(\d+)")
def var_step(folder: Path, scale: str) -> Tensor:
    product, stored, last = _kept_product(folder), _tensors(folder), int(scale)
    codes = torch.stack([
        torch.cat([stored[f"var_step.tokens.branch{i}.scale{s}"] for s in range(last + 1)], 1)
        for i in range(len(product))
    ], 1)  # fmt: skip
    if last + 1 == product.num_scales:
        return product.lookup(codes)
    assert product.scales is not None
    size = product.scales.sizes[last + 1]
    block = next_scale_inputs(product, codes)[:, -size[0] * size[1] :]
    return block.transpose(1, 2).unflatten(2, size)


# -- the plain quantizer alone ---------------------------------------------------------------------


@cache
def _alone(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor, Tensor]:
    """Return losses, gradients, hits and usage in percent after one and two batches."""
    stored = _tensors(folder)
    product = ProductQuantizer([_branch(folder, _branch_weights(folder)[0])]).train()
    (branch,) = product
    hits, usages, grads, losses = [], [], {}, {}
    for name in ("pre_quant", "quant_grad.second_pre_quant"):
        z = stored[name][:, None].clone().requires_grad_()
        out = product(z)
        hits.append(branch.average.hits.clone().view(-1))
        usages.append(100 * out.statistics["codebook/average_usage"])
        if not grads:
            losses = out.losses
            total = (out.latents * stored["quant_grad.G"]).sum() + sum(out.losses.values())
            total.backward()
            grads = {"pre_quant": z.grad[:, 0], "codebook": branch.codebook.grad}
    return losses, grads, torch.stack(hits), torch.stack(usages)


@kind(r"quant_grad\.d_(pre_quant|codebook)", "gradient")
def alone_gradient(folder: Path, name: str) -> Tensor:
    return _alone(folder)[1][name]


@kind(r"quant_grad\.(vq|commit)_loss", "loss")
def alone_loss(folder: Path, name: str) -> Tensor:
    return _alone(folder)[0]["quantizer/" + {"vq": "codebook", "commit": "commitment"}[name]]


@kind(r"quant_grad\.hits_after_(\d)", "loss")
def alone_hits(folder: Path, updates: str) -> Tensor:
    # Some sets hold the first update's hits twice; usage after the second then speaks for it alone.
    stored = _tensors(folder)
    first, own = (stored[f"quant_grad.hits_after_{n}"] for n in ("1", updates))
    return _alone(folder)[2][0 if torch.equal(first, own) else int(updates) - 1]


@kind(r"quant_grad\.usage_percent(?:_(2))?", "loss")
def alone_usage(folder: Path, updates: str) -> Tensor:
    return _alone(folder)[3][int(updates or 1) - 1]


# -- the tests -------------------------------------------------------------------------------------


def _cases() -> list[Any]:
    found = []
    for folder in FOLDERS:
        for key in sorted(_tensors(folder)):
            for pattern, measure, compute in KINDS:
                if match := pattern.fullmatch(key):
                    test = (folder, key, measure, compute, match.groups(""))
                    found.append(pytest.param(*test, id=f"{_name(folder)}-{key}"))
    return found


CASES = _cases()
# What the tokenizer as a whole makes, inputs and draws.
ELSEWHERE = re.compile(
    r"image|pre_quant(\..+)?|encoder\..+|post_quant|decoded_\w+|reconstruction_\w+(\..+)?"
    r"|random_indices\w*|semantic\..+|quant_grad\.(G|second_pre_quant)"
    r"|train\.(\w+\.)?(decoded|draw_\w+|rec_mse|sem_loss_weighted|total)"
    r"|train\.(\w+\.)?grad\.(?!quantizes?\.).+|train\.(\w+\.)?grad_norm\.\w+"
    r"|var_step\.(tokens\..+|image_clamped)"
)


def test_every_kind_is_there() -> None:
    assert FOLDERS
    assert {case.values[3] for case in CASES} == {compute for _, _, compute in KINDS}


@pytest.mark.parametrize("folder", FOLDERS, ids=_name)
def test_every_key_has_a_place(folder: Path) -> None:
    left = [
        key for key in _tensors(folder)
        if not ELSEWHERE.fullmatch(key) and not any(p.fullmatch(key) for p, _, _ in KINDS)
    ]  # fmt: skip
    assert left == []


@pytest.mark.parametrize("folder", FOLDERS, ids=_name)
def test_sizes_are_those_of_the_config(folder: Path) -> None:
    config, product = _config(folder), _kept_product(folder)
    assert len(product) == config.get("product_quant", 1)
    assert product.vocabulary == (config["codebook_size"],) * len(product)
    assert product.code_dim == config["codebook_embed_dim"] * len(product)
    phi, scales = config.get("phi_index_per_scale", []), product.num_scales
    if not _one_scale(folder):
        shared = len(next(iter(product)).phi)
        assert phi == [shared_index(s, scales, shared) for s in range(len(phi))]


@pytest.mark.parametrize("folder", FOLDERS, ids=_name)
def test_official_number_of_items_is_chosen_for_dropout(folder: Path) -> None:
    chosen = _trained(folder)[0].dropped
    assert chosen is not None
    count = _config(folder).get("quantizer_dropped_images", 0)
    assert chosen.tolist() == [i < count for i in range(len(chosen))]


@pytest.mark.parametrize(("folder", "key", "measure", "compute", "found"), CASES)
def test_equals_the_official_tensor(
    folder: Path, key: str, measure: str, compute: Compute, found: tuple[str, ...]
) -> None:
    _close(compute(folder, *found), _tensors(folder)[key], measure)
