"""Import LlamaGen's published generators: sizes from the tensors, the grid from the file's name.

    tok_embeddings, output           tokens, output
    layers.i.attention.wqkv, wo      trunk.blocks.i.attention.qkv, out
    layers.i.feed_forward.w1 | w3    trunk.blocks.i.mlp.up, one after the other
    layers.i.feed_forward.w2         trunk.blocks.i.mlp.down
    cls_embedding                    condition

Sun et al. 2024, arXiv 2406.06525.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from generators.llamagen import LlamaGen
from tok_core.errors import WeightsError
from tok_core.model import Model
from tok_core.official_fit import check_agreement, fill
from tok_core.official_names import class_to_build, count_of, renamed
from tok_core.official_source import official_files
from tok_core.official_weights import read_state
from tok_core.token_spec import Axis, TokenSpec

WRAPPERS = ("model", "module", "state_dict")
# Old files hold the table of rotary positions; it follows from the sizes.
DEAD = ("freqs_cis",)
STRIDE = 16  # pixels per token of the tokenizer the published ones were trained on
HEAD_WIDTHS = {3200: 100}  # by width; every other published size has heads of 64
_IMAGE_SIZE = re.compile(r"_(\d{3})\b")
_NAMES = (
    (r"^condition\.table\.weight$", "cls_embedding.embedding_table.weight"),
    (r"^condition\.up\.", "cls_embedding.cap_proj.fc1."),
    (r"^condition\.down\.", "cls_embedding.cap_proj.fc2."),
    (r"^condition\.null_caption$", "cls_embedding.uncond_embedding"),
    (r"^tokens\.", "tok_embeddings."),
    (r"^trunk\.norm\.", "norm."),
    (r"^trunk\.blocks\.", "layers."),
    (r"\.attention\.qkv\.", ".attention.wqkv."),
    (r"\.attention\.out\.", ".attention.wo."),
    (r"\.mlp_norm\.", ".ffn_norm."),
    (r"\.mlp\.down\.", ".feed_forward.w2."),
)


def import_llamagen(
    source: str | Path,
    config: str | Path | Mapping[str, Any] | None = None,
    *,
    cls: type[Model] | None = None,
) -> Any:
    """Read a published generator.

    Args:
        source: weights file (``c2i_B_256.pt``), folder or hub id.
        config: what the tensors do not say, as a mapping or a JSON file: ``image_size`` in pixels
            or ``block_size`` in tokens where the file's name holds no size, ``n_head`` where the
            width is none of the published ones, ``rope_base``, ``norm_eps``. Other official names
            may stand in it and are compared.
        cls: a subclass of `LlamaGen` to build.

    Returns:
        A `LlamaGen` in eval mode, float32, on the CPU.

    Raises:
        WeightsError: unreadable file, another network, keys left over on either side, or nothing
            that tells the grid.

    Example:
        >>> generator = import_llamagen("c2i_B_256.pt")  # doctest: +SKIP
        >>> generator.spec.grid  # doctest: +SKIP
        (16, 16)
    """
    files = official_files(source, config)
    state = read_state(files.weights, WRAPPERS)
    return llamagen_from_state(state, files.merged, cls=cls, name=str(source))


def llamagen_from_state(
    state: Mapping[str, Tensor], config: Mapping[str, Any] | None = None, *,
    cls: type[Model] | None = None, name: str = "the checkpoint",
) -> Any:  # fmt: skip
    """Build the model that a state dict with official names belongs to (tensors may be on meta).

    Raises:
        WeightsError: as `import_llamagen`.
    """
    chosen = class_to_build(cls, LlamaGen, name)
    kept = {key: tensor for key, tensor in state.items() if key not in DEAD}
    values = llamagen_values(kept, config or {}, name)
    with torch.device("meta"):
        model = chosen(**values)
    fill(model, official_names(model), kept, name)
    return model.eval()


def llamagen_values(
    state: Mapping[str, Tensor], config: Mapping[str, Any], name: str
) -> dict[str, Any]:
    """Return the keyword values of `LlamaGen` that a state dict tells.

    Raises:
        WeightsError: no LlamaGen, or nothing that tells heads or grid.
    """
    table = state.get("tok_embeddings.weight")
    layers = count_of(state, "layers.")
    if table is None or not layers or "layers.0.feed_forward.w1.weight" not in state:
        raise WeightsError(
            f"{name} holds no LlamaGen (no tok_embeddings and layers); give one of its c2i or t2i "
            "files."
        )
    vocabulary, width = table.shape
    labels = state.get("cls_embedding.embedding_table.weight")
    null = state.get("cls_embedding.uncond_embedding")
    classes = 0 if labels is None else len(labels) - 1
    said = {
        "dim": width, "n_layer": layers, "vocab_size": vocabulary,
        "num_classes": classes if labels is not None else None,
        "caption_dim": None if null is None else null.shape[1],
        "cls_token_num": 1 if null is None else null.shape[0],
    }  # fmt: skip
    check_agreement(config, said)
    side = _grid(config, name)
    axes = (
        Axis(name="row", size=side, minimum=side), Axis(name="column", size=side, minimum=side)
    )  # fmt: skip
    spec = TokenSpec(modality="image", axes=axes, vocabulary=(vocabulary,), grid=(side, side))
    values: dict[str, Any] = {
        "spec": spec.to_json(), "width": width, "layers": layers,
        "heads": config.get("n_head") or width // HEAD_WIDTHS.get(width, 64),
        "hidden": state["layers.0.feed_forward.w1.weight"].shape[0], "classes": classes,
        "norm_eps": config.get("norm_eps", 1e-5), "rope_base": config.get("rope_base", 10_000.0),
    }  # fmt: skip
    if null is not None:
        values |= {"caption_width": null.shape[1], "caption_length": null.shape[0]}
    return values


def official_names(model: LlamaGen) -> dict[str, tuple[str, ...]]:
    """Return our name -> official names for everything in the model's state dict."""
    names: dict[str, tuple[str, ...]] = {}
    for ours in model.state_dict():
        official = renamed(ours, _NAMES)
        gated = re.sub(r"\.mlp\.up\.", ".feed_forward.w{}.", official)
        names[ours] = (official,) if gated == official else tuple(gated.format(i) for i in (1, 3))
    return names


def _grid(config: Mapping[str, Any], name: str) -> int:
    """Return the side of the grid: from the config, else from the file's name."""
    tokens = config.get("block_size")
    if tokens is not None:
        side = round(tokens**0.5)
        if side * side != tokens:
            raise WeightsError(f"block_size is {tokens}, which is no square; give the file's own.")
        return side
    size = config.get("image_size")
    if size is None:
        match = _IMAGE_SIZE.search(Path(name).stem)
        size = int(match[1]) if match else None
    if not size or size % STRIDE:
        raise WeightsError(
            f"nothing in the tensors says what picture size {name} was trained for; give a config "
            'with "image_size" (256, 384 or 512), or keep the published file name.'
        )
    return size // STRIDE
