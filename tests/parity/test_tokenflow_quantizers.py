"""The shared-index and the VAR quantizer against outputs of the official code.

Folders are told apart by the family in their ``config.json``; resolutions, scales, refined inputs
and training cases are read from key prefixes. What needs the encoders or decoders is tested beside.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.parity.vectors import (
    Kinds,
    Tolerance,
    close,
    config_of,
    folders_with,
    parity_folder,
    tensors_of,
)
from tok_core.dual_codebook import DualCodebook
from tok_core.multi_scale_quantizer import MultiScaleQuantizer
from tok_core.next_scale_inputs import next_scale_inputs
from tok_core.scale_residual import area
from tok_core.scale_usage import RecentCodes
from tok_core.vector_quantizer import Quantized

FOLDER = parity_folder("tokenflow")

FEATURE = Tolerance(absolute=1e-4)
LOSS = Tolerance(relative=1e-5, absolute=1e-6)
GRADIENT = Tolerance(peak=1e-3)

TABLES = {"semantic": "vqkd", "pixel": "vqgan"}

FOLDERS = folders_with("io.safetensors", FOLDER)
FLOWS = [folder for folder in FOLDERS if config_of(folder)["family"] == "tokenflow"]
VARS = [folder for folder in FOLDERS if config_of(folder)["family"].startswith("var")]


# -- what each key asks for ------------------------------------------------------------------------

# A resolution's prefix.
AT = "({})".format("|".join({
    re.escape(key.removesuffix("pixel_latents"))
    for folder in FLOWS for key in tensors_of(folder) if key.endswith("pixel_latents")
}))  # fmt: skip
# What the tokenizer as a whole makes, and inputs.
ELSEWHERE = re.compile(
    AT + r"(image|\w+_encoder_(input|tokens)|\w+_latents|decoded_\w+|prefix\d+_\w+|teacher_target"
    r"|lpips_\w+|lookup_indices|ar\.(decoded_image_from_indices|sampling\..+)"
    r"|train\w*\.(disc\.\w+|gen\.(total|rec_loss|p_loss|vqkd_loss|generator_adv_loss"
    r"|disc_(adaptive_)?weight)|grad\.(?!quantize\.).+|\w*reconstruction)"
    r"|train\w*\.grad_global_norm|latents|train_upstream_weight)"
)
FLOW_KINDS = Kinds(FLOWS, FEATURE, elsewhere=ELSEWHERE)
VAR_KINDS = Kinds(VARS, FEATURE, elsewhere=ELSEWHERE)
flow, var = FLOW_KINDS.kind, VAR_KINDS.kind


# -- TokenFlow -------------------------------------------------------------------------------------

TRAIN = r"(train\w*)"


@cache
def _dual(folder: Path) -> DualCodebook:
    config, weights = config_of(folder), tensors_of(folder, "weights")
    used = weights.get("quantize.codebook_used", torch.zeros(1))
    dual = DualCodebook(
        config["codebook_size"],
        {name: config[f"{name}_code_dim"] for name in TABLES},
        weights={name: config.get(f"distance_weight_{name}", 1.0) for name in TABLES},
        scales=config["scales"],
        other_scales=[value for key, value in config.items() if key.startswith("scales_")],
        beta=config["commit_loss_beta"],
        entropy=config.get("entropy_loss_ratio", 0.0),
        temperature=config.get("entropy_temperature", 0.01),
        recent_codes=len(used),
    )
    state = {
        f"tables.{name}": weights[f"quantize.embedding_{official}.weight"]
        for name, official in TABLES.items()
    }
    dual.load_state_dict(state | {"recent.codes": used.long()})
    return dual.eval()


def _streams(folder: Path, at: str) -> dict[str, Tensor]:
    return {name: tensors_of(folder)[f"{at}{name}_latents"] for name in TABLES}


def _size(folder: Path, at: str) -> tuple[int, int]:
    rows, columns = tensors_of(folder)[f"{at}pixel_latents"].shape[-2:]
    return rows, columns


@cache
@torch.no_grad()
def _quantized(folder: Path, at: str) -> Quantized:
    return _dual(folder)(_streams(folder, at))


def _sums(folder: Path, at: str) -> list[Tensor]:
    return list(_dual(folder).cumulative(_quantized(folder, at).codes, size=_size(folder, at)))


@flow("indices", AT + "indices")
def indices(folder: Path, at: str) -> Tensor:
    codes = _dual(folder).encode(_streams(folder, at))
    assert torch.equal(codes, _quantized(folder, at).codes)
    return codes


@flow("quantized", AT + "quantized")
def quantized(folder: Path, at: str) -> Tensor:
    out = _quantized(folder, at)
    close(_dual(folder).lookup(out.codes, size=_size(folder, at)), out.latents, FEATURE)
    return out.latents


@flow("final residual", AT + "final_residual")
def final_residual(folder: Path, at: str) -> Tensor:
    return torch.cat(list(_streams(folder, at).values()), 1) - _quantized(folder, at).latents


@flow("pooled residual", AT + r"scale(\d+)\.pooled_residual")
def pooled_residual(folder: Path, at: str, scale: str) -> Tensor:
    index, left = int(scale), torch.cat(list(_streams(folder, at).values()), 1)
    if index:
        left = left - _sums(folder, at)[index - 1]
    return area(left, _dual(folder).scales_for(_size(folder, at)).sizes[index])


@flow("scale quantized", AT + r"scale(\d+)\.quantized")
def scale_quantized(folder: Path, at: str, scale: str) -> Tensor:
    codes = _quantized(folder, at).codes
    return _dual(folder).maps(codes, size=_size(folder, at))[int(scale)]


@flow("cumulative", AT + r"scale(\d+)\.cumulative_quantized")
def cumulative(folder: Path, at: str, scale: str) -> Tensor:
    return _sums(folder, at)[int(scale)]


@flow("distance norm", AT + r"eval_distance_norm_(\w+)", LOSS)
def distance_norm(folder: Path, at: str, stream: str) -> Tensor:
    return _quantized(folder, at).statistics[f"codebook/distance/{stream}"]


@flow("distance margin", AT + r"distance_margin")
def distance_margin(folder: Path, at: str) -> Tensor:
    """Second nearest minus nearest, summed stream by stream."""
    dual, h = _dual(folder), torch.cat(list(_streams(folder, at).values()), 1)
    scales, left, margins = dual.scales_for(_size(folder, at)), h, []
    for size, total in zip(scales.sizes, _sums(folder, at), strict=True):
        summed = torch.zeros(())
        for name, part in dual.split(area(left, size)).items():
            rows = F.normalize(part, dim=1).flatten(2).transpose(1, 2)
            table = F.normalize(dual.tables[name], dim=1)
            distance = (rows[:, :, None] - table).square().sum(-1)
            summed = summed + dual.weights[name] * distance
        first, second = summed.topk(2, dim=-1, largest=False).values.unbind(-1)
        margins.append(second - first)
        left = h - total
    return torch.cat(margins, 1)


@flow("lookup", "lookup_vectors")
def lookup(folder: Path) -> Tensor:
    chosen = tensors_of(folder)["lookup_indices"]
    dual = _dual(folder)
    alone = DualCodebook(dual.codebook_size, dual.dims)  # one scale of any length
    alone.tables = dual.tables
    return alone.lookup(chosen)


@flow("inputs", AT + r"ar\.next_scale_inputs(?:_refine(\d+))?")
def inputs(folder: Path, at: str, refined: str | None) -> Tensor:
    return next_scale_inputs(
        _dual(folder), _quantized(folder, at).codes, size=_size(folder, at),
        refine=[int(refined)] if refined else [],
    )


@cache
def _trained(folder: Path, case: str) -> tuple[Quantized, dict[str, Tensor], Tensor, int | None]:
    """Losses, gradients and window of a training forward, and the scale that was left out."""
    dual, config, drop = _dual(folder), config_of(folder), None
    if "dropped" in case:
        missing = [s for s in config["scales"] if s not in config["dropped_scale_list"]]
        assert len(missing) == 1
        drop = config["scales"].index(missing[0])
    before = dual.recent.codes.clone()
    dual.train()
    out = dual(_streams(folder, ""), drop=drop)
    tables = list(dual.tables.items())
    # No other term of the official total reaches the tables.
    gradients = torch.autograd.grad(sum(out.losses.values()), [table for _, table in tables])
    after = dual.recent.codes.clone()
    dual.recent.codes.copy_(before)
    dual.eval()
    named = {name: g for (name, _), g in zip(tables, gradients, strict=True)}
    return out, named, after, drop


@flow("vq loss", TRAIN + r"\.gen\.vq_loss", LOSS)
def vq_loss(folder: Path, case: str) -> Tensor:
    return _trained(folder, case)[0].losses["quantizer/codebook"]


@flow("commit loss", TRAIN + r"\.gen\.commit_loss", LOSS)
def commit_loss(folder: Path, case: str) -> Tensor:
    return _trained(folder, case)[0].losses["quantizer/commitment"]


@flow("entropy", TRAIN + r"\.gen\.entropy_loss", LOSS)
def entropy(folder: Path, case: str) -> Tensor:
    return _trained(folder, case)[0].losses.get("quantizer/entropy", torch.zeros(()))


@flow("distance", TRAIN + r"\.gen\.d_(vqkd|vqgan)", LOSS)
def distance(folder: Path, case: str, official: str) -> Tensor:
    stream = next(name for name, table in TABLES.items() if table == official)
    return _trained(folder, case)[0].statistics[f"codebook/distance/{stream}"]


@flow("codebook usage", TRAIN + r"\.gen\.codebook_usage", LOSS)
def codebook_usage(folder: Path, case: str) -> Tensor:
    """The official figure is the mean of the window's usage after each scale."""
    dual = _dual(folder)
    out, _, _, drop = _trained(folder, case)
    window, seen = RecentCodes(len(dual.recent.codes)), []
    window.codes.copy_(dual.recent.codes)
    for scale, codes in enumerate(dual.scales.split(out.codes)):
        if scale != drop:
            window.push([codes])
            seen.append(window.usage(dual.codebook_size))
    return torch.stack(seen).mean()


@flow("window after", TRAIN + r"\.codebook_used_after")
def window_after(folder: Path, case: str) -> Tensor:
    # Some sets hold one window for all cases, the one left by the last, which drops a scale.
    stored = tensors_of(folder)
    dropped = re.compile(r"(train\w*dropped\w*)\.codebook_used_after")
    last = next((match[1] for key in stored if (match := dropped.fullmatch(key))), case)
    found = [stored[f"{name}.codebook_used_after"] for name in (last, case)]
    shared = torch.equal(*found)
    return _trained(folder, last if shared else case)[2].float()


@flow("table gradient", TRAIN + r"\.grad\.quantize\.embedding_(vqkd|vqgan)\.weight", GRADIENT)
def table_gradient(folder: Path, case: str, official: str) -> Tensor:
    stream = next(name for name, table in TABLES.items() if table == official)
    return _trained(folder, case)[1][stream]


# -- VAR -------------------------------------------------------------------------------------------

CONV = re.compile(r"quant_resi\.(?:qresi_ls\.|qresi\.)?(?:(\d+)\.)?(weight|bias)")


@cache
def _var(folder: Path) -> MultiScaleQuantizer:
    config, weights = config_of(folder), tensors_of(folder, "weights")
    convs = {key: match for key in weights if (match := CONV.fullmatch(key))}
    quantizer = MultiScaleQuantizer(
        config["codebook_size"], config["latent_channels"], config["scales"],
        phi_convs=len(convs) // 2, phi_ratio=config.get("residual_conv_ratio", 0.5),
        cosine=config.get("using_znorm", False), beta=config["commit_loss_beta"],
        average_usage="ema_vocab_hit_SV" in weights,
    )
    state = {f"phi.{m[1] or 0}.{m[2]}": weights[key] for key, m in convs.items()}
    state["codebook"] = weights["embedding.weight"]
    if quantizer.average is not None:
        state["average.hits"] = weights["ema_vocab_hit_SV"]
        state["average.updates"] = torch.zeros((), dtype=torch.int64)
    quantizer.load_state_dict(state)
    return quantizer.eval()


@cache
def _var_run(folder: Path) -> tuple[Quantized, dict[str, Tensor]]:
    """Return the training forward, and gradients by official name."""
    stored, quantizer = tensors_of(folder), _var(folder)
    z = stored["latents"].clone().requires_grad_()
    out = quantizer(z)  # in eval mode: averages stay, the rest is the same
    total = sum(out.losses.values()) + 0.01 * (out.latents * stored["train_upstream_weight"]).sum()
    total.backward()
    weights = tensors_of(folder, "weights")
    gradients = {"latents": z.grad, "embedding.weight": quantizer.codebook.grad}
    for key in weights:
        if match := CONV.fullmatch(key):
            gradients[key] = getattr(quantizer.phi[int(match[1] or 0)], match[2]).grad
    quantizer.zero_grad()
    return out, gradients


@var("indices", r"scale(\d+)\.indices")
def var_indices(folder: Path, scale: str) -> Tensor:
    quantizer = _var(folder)
    codes = quantizer.encode(tensors_of(folder)["latents"])
    assert torch.equal(codes, _var_run(folder)[0].codes)
    return quantizer.scales.split(codes)[int(scale)].flatten(1)


@var("f hat", r"scale(\d+)\.f_hat")
def var_f_hat(folder: Path, scale: str) -> Tensor:
    codes = _var_run(folder)[0].codes
    return _var(folder).lookup(codes, upto=int(scale) + 1)


@var("next input", r"scale(\d+)\.next_input")
def var_next_input(folder: Path, scale: str) -> Tensor:
    quantizer, codes = _var(folder), _var_run(folder)[0].codes
    known = quantizer.scales.offsets[int(scale) + 1]
    if known == quantizer.scales.num_tokens:
        return quantizer.lookup(codes)
    size = quantizer.scales.sizes[int(scale) + 1]
    block = next_scale_inputs(quantizer, codes[:, :known])[:, -size[0] * size[1] :]
    return block.transpose(1, 2).unflatten(2, size)


@var("lookup", "f_hat_from_indices")
def var_lookup(folder: Path) -> Tensor:
    return _var(folder).lookup(_var_run(folder)[0].codes)


@var("inputs", "teacher_forcing_inputs")
def var_inputs(folder: Path) -> Tensor:
    return next_scale_inputs(_var(folder), _var_run(folder)[0].codes)


@var("train", "train_f_hat")
def var_train(folder: Path) -> Tensor:
    return _var_run(folder)[0].latents


@var("loss", "train_vq_loss", LOSS)
def var_loss(folder: Path) -> Tensor:
    return sum(_var_run(folder)[0].losses.values(), torch.zeros(()))


@var("usages", "train_usages")
def var_usages(folder: Path) -> Tensor:
    statistics = _var_run(folder)[0].statistics
    names = [f"codebook/average_usage/scale{s}" for s in range(len(_var(folder).scales))]
    return 100 * torch.stack([statistics[name] for name in names])


@var("gradient", r"grad\.(.+)", GRADIENT)
def var_gradient(folder: Path, key: str) -> Tensor:
    return _var_run(folder)[1][key]


# -- the tests -------------------------------------------------------------------------------------


def _label(folder: Path, _: str, key: str) -> str:
    return f"{folder.name}-{key}"


def test_every_kind_is_there() -> None:
    assert FLOWS or VARS
    for kinds in (FLOW_KINDS, VAR_KINDS):
        assert not kinds.folders or not kinds.unused()


def _kinds(folder: Path) -> Kinds:
    return FLOW_KINDS if folder in FLOWS else VAR_KINDS


@pytest.mark.parametrize("folder", FLOWS + VARS, ids=lambda folder: folder.name)
def test_every_key_has_a_place(folder: Path) -> None:
    assert not _kinds(folder).unknown(folder)


@pytest.mark.parametrize(("folder", "key"), FLOW_KINDS.cases(_label) + VAR_KINDS.cases(_label))
def test_equals_the_official_tensor(folder: Path, key: str) -> None:
    _kinds(folder).check(folder, key)
