"""The shared-index and the VAR quantizer against outputs of the official code.

Folders are told apart by the family in their ``config.json``; resolutions, scales, refined inputs
and training cases are read from key prefixes. What needs the encoders or decoders is tested beside.
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
from torch import Tensor
from torch.nn import functional as F

from tok_core.dual_codebook import DualCodebook
from tok_core.multi_scale_quantizer import MultiScaleQuantizer
from tok_core.next_scale_inputs import next_scale_inputs
from tok_core.scale_residual import area
from tok_core.scale_usage import RecentCodes
from tok_core.vector_quantizer import Quantized

ROOT = Path(__file__).parents[2]
PARITY = Path(os.environ.get("TESSERA_PARITY_DIR", ROOT.parent / "shared" / "parity"))
FOLDER = PARITY / "tokenflow"
if not FOLDER.is_dir():
    pytest.skip(f"no parity vectors at {FOLDER}", allow_module_level=True)

FEATURE = 1e-4  # absolute
LOSS = 1e-5  # relative, plus 1e-6
GRADIENT = 1e-3  # of the largest entry

TABLES = {"semantic": "vqkd", "pixel": "vqgan"}


@cache
def _config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


@cache
def _tensors(folder: Path, name: str = "io") -> dict[str, Tensor]:
    return load_file(folder / f"{name}.safetensors")


FOLDERS = sorted(path.parent for path in FOLDER.rglob("io.safetensors"))
FLOWS = [folder for folder in FOLDERS if _config(folder)["family"] == "tokenflow"]
VARS = [folder for folder in FOLDERS if _config(folder)["family"].startswith("var")]


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


# -- what each key asks for ------------------------------------------------------------------------

Compute = Callable[..., Tensor]
FLOW_KINDS: list[tuple[re.Pattern[str], str, Compute]] = []
VAR_KINDS: list[tuple[re.Pattern[str], str, Compute]] = []


def kind(pattern: str, measure: str = "feature") -> Callable[[Compute], Compute]:
    def register(compute: Compute) -> Compute:
        kinds = VAR_KINDS if compute.__name__.startswith("var") else FLOW_KINDS
        kinds.append((re.compile(pattern), measure, compute))
        return compute

    return register


def _cases(
    folders: list[Path], kinds: list[tuple[re.Pattern[str], str, Compute]]
) -> list[Any]:
    found = []
    for folder in folders:
        for key in sorted(_tensors(folder)):
            for pattern, measure, compute in kinds:
                match = pattern.fullmatch(key)
                if match:
                    test = (folder, key, measure, compute, match.groups(""))
                    found.append(pytest.param(*test, id=f"{folder.name}-{key}"))
    return found


# -- TokenFlow -------------------------------------------------------------------------------------

# A resolution's prefix.
AT = "({})".format("|".join({
    re.escape(key.removesuffix("pixel_latents"))
    for folder in FLOWS for key in _tensors(folder) if key.endswith("pixel_latents")
}))  # fmt: skip
TRAIN = r"(train\w*)"


@cache
def _dual(folder: Path) -> DualCodebook:
    config, weights = _config(folder), _tensors(folder, "weights")
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
    return {name: _tensors(folder)[f"{at}{name}_latents"] for name in TABLES}


def _size(folder: Path, at: str) -> tuple[int, int]:
    rows, columns = _tensors(folder)[f"{at}pixel_latents"].shape[-2:]
    return rows, columns


@cache
@torch.no_grad()
def _quantized(folder: Path, at: str) -> Quantized:
    return _dual(folder)(_streams(folder, at))


def _sums(folder: Path, at: str) -> list[Tensor]:
    return list(_dual(folder).cumulative(_quantized(folder, at).codes, size=_size(folder, at)))


@kind(AT + "indices")
def indices(folder: Path, at: str) -> Tensor:
    codes = _dual(folder).encode(_streams(folder, at))
    assert torch.equal(codes, _quantized(folder, at).codes)
    return codes


@kind(AT + "quantized")
def quantized(folder: Path, at: str) -> Tensor:
    out = _quantized(folder, at)
    _close(_dual(folder).lookup(out.codes, size=_size(folder, at)), out.latents, "feature")
    return out.latents


@kind(AT + "final_residual")
def final_residual(folder: Path, at: str) -> Tensor:
    return torch.cat(list(_streams(folder, at).values()), 1) - _quantized(folder, at).latents


@kind(AT + r"scale(\d+)\.pooled_residual")
def pooled_residual(folder: Path, at: str, scale: str) -> Tensor:
    index, left = int(scale), torch.cat(list(_streams(folder, at).values()), 1)
    if index:
        left = left - _sums(folder, at)[index - 1]
    return area(left, _dual(folder).scales_for(_size(folder, at)).sizes[index])


@kind(AT + r"scale(\d+)\.quantized")
def scale_quantized(folder: Path, at: str, scale: str) -> Tensor:
    codes = _quantized(folder, at).codes
    return _dual(folder).maps(codes, size=_size(folder, at))[int(scale)]


@kind(AT + r"scale(\d+)\.cumulative_quantized")
def cumulative(folder: Path, at: str, scale: str) -> Tensor:
    return _sums(folder, at)[int(scale)]


@kind(AT + r"eval_distance_norm_(\w+)", "loss")
def distance_norm(folder: Path, at: str, stream: str) -> Tensor:
    return _quantized(folder, at).statistics[f"codebook/distance/{stream}"]


@kind(AT + r"distance_margin")
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


@kind("lookup_vectors")
def lookup(folder: Path) -> Tensor:
    chosen = _tensors(folder)["lookup_indices"]
    dual = _dual(folder)
    alone = DualCodebook(dual.codebook_size, dual.dims)  # one scale of any length
    alone.tables = dual.tables
    return alone.lookup(chosen)


@kind(AT + r"ar\.next_scale_inputs(?:_refine(\d+))?")
def inputs(folder: Path, at: str, refined: str) -> Tensor:
    return next_scale_inputs(
        _dual(folder), _quantized(folder, at).codes, size=_size(folder, at),
        refine=[int(refined)] if refined else [],
    )


@cache
def _trained(folder: Path, case: str) -> tuple[Quantized, dict[str, Tensor], Tensor, int | None]:
    """Losses, gradients and window of a training forward, and the scale that was left out."""
    dual, config, drop = _dual(folder), _config(folder), None
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


@kind(TRAIN + r"\.gen\.vq_loss", "loss")
def vq_loss(folder: Path, case: str) -> Tensor:
    return _trained(folder, case)[0].losses["quantizer/codebook"]


@kind(TRAIN + r"\.gen\.commit_loss", "loss")
def commit_loss(folder: Path, case: str) -> Tensor:
    return _trained(folder, case)[0].losses["quantizer/commitment"]


@kind(TRAIN + r"\.gen\.entropy_loss", "loss")
def entropy(folder: Path, case: str) -> Tensor:
    return _trained(folder, case)[0].losses.get("quantizer/entropy", torch.zeros(()))


@kind(TRAIN + r"\.gen\.d_(vqkd|vqgan)", "loss")
def distance(folder: Path, case: str, official: str) -> Tensor:
    stream = next(name for name, table in TABLES.items() if table == official)
    return _trained(folder, case)[0].statistics[f"codebook/distance/{stream}"]


@kind(TRAIN + r"\.gen\.codebook_usage", "loss")
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


@kind(TRAIN + r"\.codebook_used_after")
def window_after(folder: Path, case: str) -> Tensor:
    # Some sets hold one window for all cases, the one left by the last, which drops a scale.
    stored = _tensors(folder)
    dropped = re.compile(r"(train\w*dropped\w*)\.codebook_used_after")
    last = next((match[1] for key in stored if (match := dropped.fullmatch(key))), case)
    found = [stored[f"{name}.codebook_used_after"] for name in (last, case)]
    shared = torch.equal(*found)
    return _trained(folder, last if shared else case)[2].float()


@kind(TRAIN + r"\.grad\.quantize\.embedding_(vqkd|vqgan)\.weight", "gradient")
def table_gradient(folder: Path, case: str, official: str) -> Tensor:
    stream = next(name for name, table in TABLES.items() if table == official)
    return _trained(folder, case)[1][stream]


# -- VAR -------------------------------------------------------------------------------------------

CONV = re.compile(r"quant_resi\.(?:qresi_ls\.|qresi\.)?(?:(\d+)\.)?(weight|bias)")


@cache
def _var(folder: Path) -> MultiScaleQuantizer:
    config, weights = _config(folder), _tensors(folder, "weights")
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
    stored, quantizer = _tensors(folder), _var(folder)
    z = stored["latents"].clone().requires_grad_()
    out = quantizer(z)  # in eval mode: averages stay, the rest is the same
    total = sum(out.losses.values()) + 0.01 * (out.latents * stored["train_upstream_weight"]).sum()
    total.backward()
    weights = _tensors(folder, "weights")
    gradients = {"latents": z.grad, "embedding.weight": quantizer.codebook.grad}
    for key in weights:
        if match := CONV.fullmatch(key):
            gradients[key] = getattr(quantizer.phi[int(match[1] or 0)], match[2]).grad
    quantizer.zero_grad()
    return out, gradients


@kind(r"scale(\d+)\.indices")
def var_indices(folder: Path, scale: str) -> Tensor:
    quantizer = _var(folder)
    codes = quantizer.encode(_tensors(folder)["latents"])
    assert torch.equal(codes, _var_run(folder)[0].codes)
    return quantizer.scales.split(codes)[int(scale)].flatten(1)


@kind(r"scale(\d+)\.f_hat")
def var_f_hat(folder: Path, scale: str) -> Tensor:
    codes = _var_run(folder)[0].codes
    return _var(folder).lookup(codes, upto=int(scale) + 1)


@kind(r"scale(\d+)\.next_input")
def var_next_input(folder: Path, scale: str) -> Tensor:
    quantizer, codes = _var(folder), _var_run(folder)[0].codes
    known = quantizer.scales.offsets[int(scale) + 1]
    if known == quantizer.scales.num_tokens:
        return quantizer.lookup(codes)
    size = quantizer.scales.sizes[int(scale) + 1]
    block = next_scale_inputs(quantizer, codes[:, :known])[:, -size[0] * size[1] :]
    return block.transpose(1, 2).unflatten(2, size)


@kind("f_hat_from_indices")
def var_lookup(folder: Path) -> Tensor:
    return _var(folder).lookup(_var_run(folder)[0].codes)


@kind("teacher_forcing_inputs")
def var_inputs(folder: Path) -> Tensor:
    return next_scale_inputs(_var(folder), _var_run(folder)[0].codes)


@kind("train_f_hat")
def var_train(folder: Path) -> Tensor:
    return _var_run(folder)[0].latents


@kind("train_vq_loss", "loss")
def var_loss(folder: Path) -> Tensor:
    return sum(_var_run(folder)[0].losses.values(), torch.zeros(()))


@kind("train_usages")
def var_usages(folder: Path) -> Tensor:
    statistics = _var_run(folder)[0].statistics
    names = [f"codebook/average_usage/scale{s}" for s in range(len(_var(folder).scales))]
    return 100 * torch.stack([statistics[name] for name in names])


@kind(r"grad\.(.+)", "gradient")
def var_gradient(folder: Path, key: str) -> Tensor:
    return _var_run(folder)[1][key]


# -- the tests -------------------------------------------------------------------------------------

FLOW_CASES, VAR_CASES = _cases(FLOWS, FLOW_KINDS), _cases(VARS, VAR_KINDS)
# What the tokenizer as a whole makes, and inputs.
ELSEWHERE = re.compile(
    AT + r"(image|\w+_encoder_(input|tokens)|\w+_latents|decoded_\w+|prefix\d+_\w+|teacher_target"
    r"|lpips_\w+|lookup_indices|ar\.(decoded_image_from_indices|sampling\..+)"
    r"|train\w*\.(disc\.\w+|gen\.(total|rec_loss|p_loss|vqkd_loss|generator_adv_loss"
    r"|disc_(adaptive_)?weight)|grad\.(?!quantize\.).+|\w*reconstruction)"
    r"|train\w*\.grad_global_norm|latents|train_upstream_weight)"
)


def test_every_kind_is_there() -> None:
    both = ((FLOWS, FLOW_CASES, FLOW_KINDS), (VARS, VAR_CASES, VAR_KINDS))
    assert FLOWS or VARS
    for folders, cases, kinds in both:
        computed = {case.values[3] for case in cases}
        assert not folders or computed == {compute for _, _, compute in kinds}


@pytest.mark.parametrize("folder", FLOWS + VARS, ids=lambda folder: folder.name)
def test_every_key_has_a_place(folder: Path) -> None:
    kinds = FLOW_KINDS if folder in FLOWS else VAR_KINDS
    left = [
        key for key in _tensors(folder)
        if not ELSEWHERE.fullmatch(key) and not any(p.fullmatch(key) for p, _, _ in kinds)
    ]
    assert left == []


@pytest.mark.parametrize(
    ("folder", "key", "measure", "compute", "found"), FLOW_CASES + VAR_CASES
)
def test_equals_the_official_tensor(
    folder: Path, key: str, measure: str, compute: Compute, found: tuple[str, ...]
) -> None:
    _close(compute(folder, *found), _tensors(folder)[key], measure)
