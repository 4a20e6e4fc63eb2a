"""The quantizers of the RobusTok and ImageFolder family against outputs of the official code.

Driven from the latents before quantization with the official weights; folders, branches, scales and
selected gradients are read from files and keys. What needs the encoder, the decoder or the teacher
is tested beside.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.parity.vectors import (
    Kinds,
    Tolerance,
    close,
    config_of,
    folders_with,
    parity_folder,
    tensors_of,
)
from tok_core.multi_scale_quantizer import MultiScaleQuantizer
from tok_core.next_scale_inputs import next_scale_inputs
from tok_core.phi_residual import shared_index
from tok_core.product_quantizer import ProductQuantizer
from tok_core.quantizer_dropout import QuantizerDropout
from tok_core.vector_quantizer import Quantized, VectorQuantizer

FOLDER = parity_folder("robusttok")

FEATURE = Tolerance(absolute=1e-4)
LOSS = Tolerance(relative=1e-5, absolute=1e-6)
GRADIENT = Tolerance(peak=1e-3)

CONV = re.compile(r"quant_resi\.(?:qresi_ls\.|qresi\.)?(?:(\d+)\.)?(weight|bias)")


@cache
def _branch_weights(folder: Path) -> list[dict[str, Tensor]]:
    """Return the official weights of every branch; one quantizer is one branch."""
    branches: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors_of(folder, "weights").items():
        if match := re.fullmatch(r"quantizes?\.(?:(\d+)\.)?(.+)", key):
            branches.setdefault(int(match[1] or 0), {})[match[2]] = value
    assert sorted(branches) == list(range(len(branches)))
    return [branches[i] for i in range(len(branches))]


FOLDERS = [
    folder for folder in folders_with("weights.safetensors", FOLDER)
    if (folder / "io.safetensors").is_file() and _branch_weights(folder)
]  # fmt: skip


def _one_scale(folder: Path) -> bool:
    return not any(CONV.fullmatch(key) for key in _branch_weights(folder)[0])


def _name(folder: Path) -> str:
    return "top" if folder == FOLDER else folder.name


# -- our quantizer with the official weights -------------------------------------------------------


def _branch(folder: Path, weights: dict[str, Tensor]) -> nn.Module:
    config = config_of(folder)
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
    config = config_of(folder)
    dropout = QuantizerDropout(
        rate=config.get("codebook_drop", 0.0), start_drop=config.get("start_drop", 3)
    )
    branches = [_branch(folder, weights) for weights in _branch_weights(folder)]
    return ProductQuantizer(branches, dropout=dropout).eval()


_kept_product = cache(_product)


@cache
def _latents(folder: Path) -> Tensor:
    stored = tensors_of(folder)
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
    product, stored = _product(folder).train(), tensors_of(folder)
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

# What the tokenizer as a whole makes, inputs and draws.
ELSEWHERE = re.compile(
    r"image|pre_quant(\..+)?|encoder\..+|post_quant|decoded_\w+|reconstruction_\w+(\..+)?"
    r"|random_indices\w*|semantic\..+|quant_grad\.(G|second_pre_quant)"
    r"|train\.(\w+\.)?(decoded|draw_\w+|rec_mse|sem_loss_weighted|total)"
    r"|train\.(\w+\.)?grad\.(?!quantizes?\.).+|train\.(\w+\.)?grad_norm\.\w+"
    r"|var_step\.(tokens\..+|image_clamped)"
)
KINDS = Kinds(FOLDERS, FEATURE, elsewhere=ELSEWHERE)
kind = KINDS.kind


@kind("codes of a scale", r"indices\.branch(\d+)\.scale(\d+)")
def indices(folder: Path, branch: str, scale: str) -> Tensor:
    codes, product = _codes(folder)[:, int(branch)], _kept_product(folder)
    if product.scales is None:
        return codes.flatten(1)
    return product.scales.split(codes)[int(scale)].flatten(1)


@kind("codes", r"indices_flat")
def indices_flat(folder: Path) -> Tensor:
    return _codes(folder).flatten()


@kind("sums", r"f_hat\.branch(\d+)\.cumulative_scale(\d+)")
def f_hat(folder: Path, branch: str, scale: str) -> Tensor:
    parts = _sums(folder)[int(scale)].chunk(len(_kept_product(folder)), 1)
    return parts[int(branch)]


@kind("code vectors", r"z_q(?:_concat)?|codebook_entry")
def z_q(folder: Path) -> Tensor:
    product = _kept_product(folder)
    latents = product(_latents(folder)).latents
    close(product.lookup(_codes(folder)), latents, FEATURE)
    return latents


@kind("codebook loss", r"train\.(?:\w+\.)?vq_loss", LOSS)
def vq_loss(folder: Path) -> Tensor:
    return _trained(folder)[0].losses["quantizer/codebook"]


@kind("commitment loss", r"train\.(?:\w+\.)?commit_loss", LOSS)
def commit_loss(folder: Path) -> Tensor:
    return _trained(folder)[0].losses["quantizer/commitment"]


@kind("decorrelation loss", r"train\.dependency_loss", LOSS)
def dependency_loss(folder: Path) -> Tensor:
    return _trained(folder)[0].losses.get("quantizer/decorrelation", torch.zeros(()))


@kind("usage", r"train\.usage_percent", LOSS)
def usage_percent(folder: Path) -> Tensor:
    statistics, product = _trained(folder)[0].statistics, _kept_product(folder)
    names = ["codebook/average_usage"]
    if product.scales is not None:
        names = [f"codebook/average_usage/scale{s}" for s in range(product.num_scales)]
    return 100 * torch.stack([statistics[name] for name in names])


@kind("gradients", r"train\.(?:\w+\.)?grad\.quantizes?\.(?:(\d+)\.)?(\D.+)", GRADIENT)
def train_gradient(folder: Path, branch: str | None, name: str) -> Tensor:
    return _trained(folder)[1][f"{branch or 0}.{name}"]


@kind("next-scale inputs", r"var_input\.teacher_forcing")
def var_input(folder: Path) -> Tensor:
    return next_scale_inputs(_kept_product(folder), _codes(folder))


@kind("next input", r"var_step\.next_input\.scale(\d+)")
def var_step(folder: Path, scale: str) -> Tensor:
    product, stored, last = _kept_product(folder), tensors_of(folder), int(scale)
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
    stored = tensors_of(folder)
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


@kind("gradients alone", r"quant_grad\.d_(pre_quant|codebook)", GRADIENT)
def alone_gradient(folder: Path, name: str) -> Tensor:
    return _alone(folder)[1][name]


@kind("losses alone", r"quant_grad\.(vq|commit)_loss", LOSS)
def alone_loss(folder: Path, name: str) -> Tensor:
    return _alone(folder)[0]["quantizer/" + {"vq": "codebook", "commit": "commitment"}[name]]


@kind("hits alone", r"quant_grad\.hits_after_(\d)", LOSS)
def alone_hits(folder: Path, updates: str) -> Tensor:
    # Some sets hold the first update's hits twice; usage after the second then speaks for it alone.
    stored = tensors_of(folder)
    first, own = (stored[f"quant_grad.hits_after_{n}"] for n in ("1", updates))
    return _alone(folder)[2][0 if torch.equal(first, own) else int(updates) - 1]


@kind("usage alone", r"quant_grad\.usage_percent(?:_(2))?", LOSS)
def alone_usage(folder: Path, updates: str | None) -> Tensor:
    return _alone(folder)[3][int(updates or 1) - 1]


# -- the tests -------------------------------------------------------------------------------------


def test_every_kind_is_there() -> None:
    assert FOLDERS and not KINDS.unused()


@pytest.mark.parametrize("folder", FOLDERS, ids=_name)
def test_every_key_has_a_place(folder: Path) -> None:
    assert not KINDS.unknown(folder)


@pytest.mark.parametrize("folder", FOLDERS, ids=_name)
def test_sizes_are_those_of_the_config(folder: Path) -> None:
    config, product = config_of(folder), _kept_product(folder)
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
    count = config_of(folder).get("quantizer_dropped_images", 0)
    assert chosen.tolist() == [i < count for i in range(len(chosen))]


@pytest.mark.parametrize(
    ("folder", "key"), KINDS.cases(lambda folder, _, key: f"{_name(folder)}-{key}")
)
def test_equals_the_official_tensor(folder: Path, key: str) -> None:
    KINDS.check(folder, key)
