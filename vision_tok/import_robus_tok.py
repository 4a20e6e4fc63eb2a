"""Importer of published RobusTok, XQ-GAN and ImageFolder checkpoints, every key mapped."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tok_core.contract import Autoencoder
from tok_core.errors import ConfigError, WeightsError
from tok_core.official_fit import fill
from tok_core.official_names import class_to_build, renamed, shapes_of
from tok_core.official_source import official_files
from tok_core.official_weights import read_settings, read_state
from vision_tok.import_vqgan import tokenizer_part
from vision_tok.infer_robus_tok import check_layout, quantizer_prefixes, robus_tok_values
from vision_tok.robus_tok import RobusTok
from vision_tok.tower_weights import TIMM, tower_names

# Both are whole state dicts with the same keys; generators were trained on the averaged one.
WEIGHTS = ("ema", "model")
TEACHER = "semantic_model."
# Left out by name: the frozen teacher and the parts of losses that all releases weigh with 0, and
# the stored level numbers, which follow from the grid.
NOT_THE_TOKENIZER = (TEACHER, "detail_model.", "sem_linear.")
DEAD = ("encoder.lvl1LC", "decoder.lvl1LC")
_NAMES = (
    (r"^(encoder|decoder)\.level_table$", r"\1.lvl_embed.weight"),
    (r"^decoder\.to_pixel\.", "decoder.to_pixel.model."),
    (r"\.codebook$", ".embedding.weight"),
    (r"\.average\.hits$", ".ema_vocab_hit_SV"),
    (r"\.phi\.", ".quant_resi.qresi_ls."),
)
# Stored with axes of size 1 in front.
_FLAT = re.compile(
    r"encoder\.latent_tokens|decoder\.mask_token|(en|de)coder\.model\.(cls_token|pos_embed)"
)
# Ours alone: updates of the averages are counted in Python there; a published file made many.
_UPDATES = 100


def import_robus_tok(
    source: str | Path, config: Mapping[str, Any] | str | Path | None = None, *,
    cls: type[Autoencoder] | None = None, weights: str = "ema",
) -> Any:  # fmt: skip
    """Read a published checkpoint; every key must find its place on both sides.

    The teacher and the optimizers beside the tokenizer are left out; `export_teacher` keeps the
    former.

    Args:
        source: ``main-train.pt``, ``post-train.pt``, ``best_ckpt.pt`` and the like, a file with the
            state dict alone, a folder with weights and a flat config.json, or a hub id.
        config: official options as an object or JSON file, for what no shape tells: ``num_heads``,
            ``v_patch_nums``; ``{"image_size": 384}`` runs a model at another size.
        cls: a subclass of `RobusTok` to build.
        weights: ``ema`` (the averaged weights, which the published results are made with) or
            ``model`` (the trained ones); a file that holds one state dict has no choice.

    Returns:
        A `RobusTok` in eval mode, float32, on the CPU.

    Raises:
        WeightsError: unreadable file, another network, keys left over on either side.
        ConfigError: unknown ``weights``.

    Example:
        >>> tokenizer = import_robus_tok("main-train.pt")  # doctest: +SKIP
    """
    if weights not in WEIGHTS:
        raise ConfigError(f"weights '{weights}' were asked for; legal are {' and '.join(WEIGHTS)}.")
    files = official_files(source, config)
    state = read_state(files.weights, (weights, *WEIGHTS, "state_dict"))
    return robus_tok_from_state(
        state, files.merged, cls=cls, name=str(source), settings=read_settings(files.weights),
    )  # fmt: skip


def robus_tok_from_state(
    state: Mapping[str, Tensor], config: Mapping[str, Any] | None = None, *,
    cls: type[Autoencoder] | None = None, name: str = "the checkpoint",
    settings: Mapping[str, Any] | None = None,
) -> Any:  # fmt: skip
    """Build the model that a state dict with official names belongs to (tensors may be on meta).

    Raises:
        WeightsError: as `import_robus_tok`.
    """
    chosen = class_to_build(cls, RobusTok, name)
    state = tokenizer_part(state)
    check_layout(state, name)
    kept = {
        key: tensor.flatten(0, -2) if _FLAT.fullmatch(key) and tensor.ndim > 1 else tensor
        for key, tensor in state.items()
        if not key.startswith(NOT_THE_TOKENIZER) and key not in DEAD
    }
    values = robus_tok_values(shapes_of(state), config, settings)
    with torch.device("meta"):
        model = chosen(**values)
    for token in ("encoder.model.cls_token", "decoder.model.cls_token", "decoder.mask_token"):
        if token in kept:
            kept[token] = kept[token].flatten()
    for key, tensor in kept.items():
        if key.endswith(".ema_vocab_hit_SV") and tensor.ndim == 1:  # of a single scale
            kept[key] = tensor[None]
    names = official_names(model, quantizer_prefixes(shapes_of(state)))
    ours = {n: _UPDATES for n in model.state_dict() if n.endswith(".average.updates")}
    fill(model, names, kept, name, ours)
    return model.eval()


def official_names(
    model: RobusTok, prefixes: list[str] | None = None
) -> dict[str, tuple[str, ...]]:
    """Return our name -> official names for everything in the model's state dict.

    Args:
        model: ours.
        prefixes: of the quantizers' tensors; None takes the published ones.
    """
    count = model.settings.branches
    if prefixes is None:
        prefixes = ["quantize."] if count == 1 else [f"quantizes.{i}." for i in range(count)]
    names: dict[str, tuple[str, ...]] = {}
    for side, network in (("encoder", model.encoder), ("decoder", model.decoder)):
        for ours, parts in tower_names(network.tower, TIMM).items():
            names[f"{side}.tower.{ours}"] = tuple(f"{side}.model.{part}" for part in parts)
    for ours in model.state_dict():
        if ours in names or ours.endswith(".average.updates"):
            continue
        official = re.sub(
            r"^quantizer\.branches\.(\d+)\.", lambda match: prefixes[int(match[1])], ours
        )
        names[ours] = (renamed(official, _NAMES),)
    return names


def export_teacher(source: str | Path, output: str | Path) -> int:
    """Write the frozen teacher that a published checkpoint holds to a safetensors file.

    ``semantic_teacher: {kind: tower, weights: FILE, normalization: imagenet}`` of a run config
    takes that file, or the checkpoint itself.

    Args:
        source: as `import_robus_tok`. output: a file that is not there yet.

    Returns:
        Number of its parameters.

    Raises:
        WeightsError: the checkpoint holds no teacher, or the file exists.

    Example:
        >>> export_teacher("main-train.pt", "dinov2-vitb16.safetensors")  # doctest: +SKIP
        85863168
    """
    from safetensors.torch import save_file

    output = Path(output)
    if output.exists():
        raise WeightsError(f"'{output}' exists; nothing is overwritten, so give another name.")
    state = tokenizer_part(read_state(official_files(source).weights, (*WEIGHTS, "state_dict")))
    teacher = {
        name.removeprefix(TEACHER): tensor.contiguous()
        for name, tensor in state.items() if name.startswith(TEACHER)
    }  # fmt: skip
    if not teacher:
        raise WeightsError(f"{source} holds no teacher (no {TEACHER}*); there is none to export.")
    save_file(teacher, output, metadata={"format": "pt"})
    return sum(tensor.numel() for tensor in teacher.values())
