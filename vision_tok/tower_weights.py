"""Published CLIP, SigLIP and DINOv2 vision towers for our `VisionTower`: names, sizes, files.

Three layouts are known: OpenAI's (``conv1``, ``transformer.resblocks``), that of transformers
(``embeddings``, ``encoder.layers``) and that of timm and DINOv2 (``patch_embed.proj``, ``blocks``),
each with or without the level that names the tower (``visual.``, ``vision_model.``,
``semantic_model.``).

Letters: W width, G grid side.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tok_core.errors import WeightsError
from tok_core.official_weights import read_state
from tok_core.shipped_models import is_hub_id
from tok_core.strict_loading import fetch
from vision_tok.vision_tower import TowerSizes, VisionTower

# Ours -> official, several where ours holds them one after the other.
Names = dict[str, tuple[str, ...]]
OPENAI = {
    "patches": "conv1", "class_token": "class_embedding", "position_table": "positional_embedding",
    "norm_in": "ln_pre", "norm_out": "ln_post", "blocks": "transformer.resblocks",
    "attention_norm": "ln_1", "mlp_norm": "ln_2", "attention.out": "attn.out_proj",
    "up": "mlp.c_fc", "down": "mlp.c_proj",
}  # fmt: skip
TRANSFORMERS = {
    "patches": "embeddings.patch_embedding", "class_token": "embeddings.class_embedding",
    "position_table": "embeddings.position_embedding.weight", "norm_in": "pre_layrnorm",
    "norm_out": "post_layernorm", "blocks": "encoder.layers", "attention_norm": "layer_norm1",
    "mlp_norm": "layer_norm2", "attention.out": "self_attn.out_proj", "up": "mlp.fc1",
    "down": "mlp.fc2",
}  # fmt: skip
TIMM = {
    "patches": "patch_embed.proj", "class_token": "cls_token", "position_table": "pos_embed",
    "norm_in": "norm_pre", "norm_out": "norm", "blocks": "blocks", "attention_norm": "norm1",
    "mlp_norm": "norm2", "attention.qkv": "attn.qkv", "attention.out": "attn.proj",
    "attention_scale": "ls1", "mlp_scale": "ls2", "up": "mlp.fc1", "down": "mlp.fc2",
}  # fmt: skip
_PATCHES = {
    "conv1.weight": OPENAI, "embeddings.patch_embedding.weight": TRANSFORMERS,
    "patch_embed.proj.weight": TIMM,
}  # fmt: skip
# RobusTok's checkpoints hold their teacher under the third.
PREFIXES = ("visual.", "vision_model.", "semantic_model.", "")
# Averaged weights before trained ones.
WRAPPERS = ("ema", "model", "state_dict")
_PARTS = ("attention_norm", "attention.qkv", "attention.out", "mlp_norm", "up", "down")
_SCALES = ("attention_scale", "mlp_scale")
# Beside a tower: its projection, SigLIP's pooling head, a table of row numbers, and what DINOv2
# puts in place of hidden patches.
_BESIDE = {"proj", "head.probe", "embeddings.position_ids", "mask_token"} | {
    f"head.{part}{kind}"
    for part in ("attention.in_proj_", "attention.out_proj.", "layernorm.", "mlp.fc1.", "mlp.fc2.")
    for kind in ("weight", "bias")
}
PROJECTIONS = ("visual.proj", "proj", "visual_projection.weight")
FILES = (
    "model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)  # fmt: skip


class FoundTower(NamedTuple):
    """One tower inside a state dict.

    Attributes:
        state: its tensors, without the level that names it.
        words: official words of its layout.
        projection: (W, T) from tokens to the joint space with text, where the file has one.
    """

    state: dict[str, Tensor]
    words: Mapping[str, str]
    projection: Tensor | None


def find_tower(state: Mapping[str, Tensor], source: str) -> FoundTower:
    """Find the vision tower in a state dict; text towers beside it are left alone.

    Raises:
        WeightsError: none of the two layouts is there.
    """
    for prefix in PREFIXES:
        for patches, words in _PATCHES.items():
            if prefix + patches not in state:
                continue
            inner = {
                name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)
            }
            return FoundTower(inner, words, _projection(state))
    some = ", ".join(sorted(state)[:3]) or "nothing"
    raise WeightsError(
        f"{source} holds no CLIP, SigLIP or DINOv2 vision tower: none of {', '.join(_PATCHES)} is "
        f"there, but {some}; give such a tower, or use kind 'transformers' or 'timm'."
    )


def _projection(state: Mapping[str, Tensor]) -> Tensor | None:
    for name in PROJECTIONS:
        if name in state:
            # OpenAI multiplies from the right; transformers keeps a linear layer.
            return state[name].t() if name.endswith(".weight") else state[name]
    return None


def tower_sizes(found: FoundTower, options: Mapping[str, Any] | None = None) -> TowerSizes:
    """Read a tower's sizes off its shapes.

    Shapes do not tell the heads (W / 64, but 16 of 72 for SigLIP so400m), the activation and the
    norms' eps (quick GELU and 1e-5 with a class token, tanh GELU and 1e-6 without; in timm's
    layout GELU and 1e-6): ``options`` overrules these conventions by the names of `TowerSizes`.

    Raises:
        WeightsError: a tensor that tells a size is missing.
    """
    state, words = found.state, found.words
    try:
        patch = state[f"{words['patches']}.weight"]
        table = state[words["position_table"]]
        width, class_token = table.shape[-1], words["class_token"] in state
        clip = class_token and words is not TIMM
        values: dict[str, Any] = {
            "patch_size": patch.shape[-1],
            "grid": math.isqrt(table.shape[-2] - class_token),
            "width": width,
            "layers": _layers(state, words),
            "heads": 16 if width == 1152 else max(1, width // 64),
            "mlp_width": state[f"{words['blocks']}.0.{words['up']}.weight"].shape[0],
            "activation": _activation(words, class_token),
            "eps": 1e-5 if clip else 1e-6,
            "class_token": class_token,
            "patch_bias": f"{words['patches']}.bias" in state,
            "pre_norm": f"{words['norm_in']}.weight" in state,
        }
        if words is TIMM and f"{words['blocks']}.0.ls1.gamma" in state:
            values["layer_scale"] = 1e-5  # any number: what counts is that there is one
    except KeyError as error:
        raise WeightsError(
            f"the vision tower lacks {error.args[0]}; give the whole published file."
        ) from None
    return TowerSizes(**values | dict(options or {}))


def _activation(words: Mapping[str, str], class_token: bool) -> str:
    if words is TIMM:
        return "gelu"
    return "quick_gelu" if class_token else "gelu_tanh"


def tower_names(tower: VisionTower, words: Mapping[str, str]) -> Names:
    """Return the official names behind every tensor of a tower.

    Example:
        >>> tower_names(tower, find_tower(state, "it").words)["blocks.0.attention.qkv.weight"]
        ... # doctest: +SKIP
        ('encoder.layers.0.self_attn.q_proj.weight', ...)
    """
    names: Names = {}
    for ours in tower.state_dict():
        block = re.fullmatch(r"blocks\.(\d+)\.(.+)\.(weight|bias|gamma)", ours)
        if block is not None:
            names[ours] = _block_part(words, int(block[1]), block[2], block[3])
            continue
        part, _, kind = ours.rpartition(".")
        names[ours] = (f"{words[part]}.{kind}" if part else words[ours],)
    return names


def _block_part(words: Mapping[str, str], index: int, part: str, kind: str) -> tuple[str, ...]:
    """Return the official names of one part's weight or bias in one block."""
    start = f"{words['blocks']}.{index}."
    if part in words:
        return (f"{start}{words[part]}.{kind}",)
    if words is OPENAI:
        return (f"{start}attn.in_proj_{kind}",)
    return tuple(f"{start}self_attn.{p}_proj.{kind}" for p in "qkv")


def unused_names(found: FoundTower, tower: VisionTower) -> set[str]:
    """Return what a tower's file holds and our tower leaves out on purpose.

    That is blocks behind the one asked for, a final norm that is not applied, pooling heads.
    """
    words, kinds = found.words, ("weight", "bias")
    behind = range(len(tower.blocks), tower.sizes.layers)
    unused = {
        name
        for index in behind
        for part in _PARTS
        for kind in kinds
        for name in _block_part(words, index, part, kind)
    }
    if words is TIMM:
        scales = (_block_part(words, i, part, "gamma") for i in behind for part in _SCALES)
        unused |= {name for names in scales for name in names}
    if tower.norm_out is None:
        unused |= {f"{words['norm_out']}.{kind}" for kind in kinds}
    if tower.patches is None:
        unused |= {f"{words['patches']}.{kind}" for kind in kinds}
    return (unused | _BESIDE) & set(found.state)


def fill_tower(tower: VisionTower, found: FoundTower, source: str) -> None:
    """Copy a published tower into ours; every key has to find its place.

    Raises:
        WeightsError: keys are left over on either side, or a shape does not fit.
    """
    names = tower_names(tower, found.words)
    theirs = {name for group in names.values() for name in group}
    lacking = sorted(theirs - set(found.state))
    unknown = sorted(set(found.state) - theirs - unused_names(found, tower))
    if lacking or unknown:
        raise WeightsError(
            f"{source} does not fit this vision tower: it lacks {lacking[0] if lacking else 'none'}"
            f" ({len(lacking)}) and has the unknown {unknown[0] if unknown else 'none'} "
            f"({len(unknown)}); check the sizes in the config."
        )
    joined = {ours: torch.cat([found.state[n] for n in group]) for ours, group in names.items()}
    for table in ("class_token", "position_table"):
        if table in joined and found.words is TIMM:  # has axes of size 1 in front
            joined[table] = joined[table].flatten(0, -2).squeeze(0)
    for name, tensor in tower.state_dict().items():
        if joined[name].shape != tensor.shape:
            raise WeightsError(
                f"{source} has {names[name][0]} of shape {tuple(joined[name].shape)} and this tower"
                f" needs {tuple(tensor.shape)}; check the sizes in the config."
            )
    tower.load_state_dict(joined)


def read_tower(path: str) -> FoundTower:
    """Read the tower of a file, a folder or a hub id.

    Args:
        path: a weights file, also OpenAI's TorchScript archive (``ViT-B-16.pt``), also a training
            checkpoint that holds its teacher; a folder with model.safetensors, pytorch_model.bin or
            open_clip's; or ``owner/name`` on the hub.

    Raises:
        WeightsError: nothing there, or no tower in it.
    """
    return find_tower(read_state(weights_file(path), WRAPPERS), path)


def weights_file(path: str) -> Path:
    """Return the weights file behind a file name, folder or hub id; WeightsError if none."""
    place = Path(path).expanduser()
    if place.is_file():
        return place
    if place.is_dir():
        for name in FILES:
            if (place / name).is_file():
                return place / name
        raise WeightsError(f"{place} holds none of {', '.join(FILES)}; put one of them there.")
    if is_hub_id(path):
        return _from_hub(path)
    raise WeightsError(
        f"there is no vision model at '{path}'; give the folder or file of its weights, or a hub "
        "id such as openai/clip-vit-base-patch16."
    )


def _from_hub(repo: str) -> Path:
    problem: WeightsError | None = None
    for name in FILES:
        try:
            return fetch(repo, name)
        except WeightsError as error:
            problem = problem or error
    assert problem is not None
    raise problem


def _layers(state: Mapping[str, Tensor], words: Mapping[str, str]) -> int:
    block = re.compile(rf"{re.escape(words['blocks'])}\.(\d+)\.")
    found = (block.match(name) for name in state)
    return max((int(match[1]) + 1 for match in found if match), default=0)
