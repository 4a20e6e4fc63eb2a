"""Importer of published VQGANs: LlamaGen, taming, VAR and diffusers' VQModel, every key mapped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tok_core.contract import Autoencoder
from tok_core.official_fit import fill
from tok_core.official_names import class_to_build, shapes_of
from tok_core.official_source import official_files
from tok_core.official_weights import read_state
from vision_tok.conv_autoencoder_keys import (
    conv_autoencoder_keys,
    modern_attention_names,
)
from vision_tok.infer_vqgan import HITS, TABLE, WINDOW, layout_of, vqgan_values
from vision_tok.vqgan import VQGAN

# Averaged weights before trained ones.
WRAPPERS = ("ema", "model", "state_dict")
# Parts of training checkpoints that belong to no tokenizer: taming's Lightning module keeps its
# discriminator and LPIPS under "loss.".
TRAINING_ONLY = ("loss.",)
# What distributed and compiled training put before every name.
PREFIXES = ("module.", "_orig_mod.")
_PHI = "quantize.quant_resi.qresi_ls."
# Ours alone: VAR counts updates of its averages in Python; a published file has made many.
UNPUBLISHED = {"quantizer.average.updates": 100}


def import_vqgan(
    source: str | Path, config: Mapping[str, Any] | str | Path | None = None, *,
    cls: type[Autoencoder] | None = None,
) -> Any:  # fmt: skip
    """Read a published checkpoint; every key must find its place on both sides.

    Args:
        source: LlamaGen's ``.pt``, taming's ``.ckpt``, VAR's ``.pth``, a safetensors file, a
            folder (diffusers VQModel, or weights with a flat config.json), or a hub id.
        config: the official config as an object or JSON file; without one, that of the folder,
            and without that, shapes and the published conventions decide.
        cls: a subclass of `VQGAN` to build.

    Returns:
        A `VQGAN` in eval mode, float32, on the CPU.

    Raises:
        WeightsError: unreadable file, an unknown layout, keys left over on either side, shapes or
            a config that do not fit.

    Example:
        >>> vqgan = import_vqgan("vq_ds16_c2i.pt")  # doctest: +SKIP
    """
    files = official_files(
        source, config, foreign=VQGAN.foreign_classes,
        such_as="a diffusers VQModel folder, or a folder with model.safetensors",
    )  # fmt: skip
    state = read_state(files.weights, WRAPPERS)
    return vqgan_from_state(state, files.given or files.beside, cls=cls, name=str(source))


def vqgan_from_state(
    state: Mapping[str, Tensor], config: Mapping[str, Any] | None = None, *,
    cls: type[Autoencoder] | None = None, name: str = "the checkpoint",
) -> Any:  # fmt: skip
    """Build the model that a state dict with official names belongs to (tensors may be on meta).

    Raises:
        WeightsError: as `import_vqgan`.
    """
    chosen = class_to_build(cls, VQGAN, name)
    state = modern_attention_names(tokenizer_part(state))
    layout = layout_of(state, name)
    values = vqgan_values(shapes_of(state), config, layout)
    with torch.device("meta"):
        model = chosen(**values)
    fill(model, official_names(model, layout), state, name, UNPUBLISHED)
    return model.eval()


def official_names(model: VQGAN, layout: str) -> dict[str, tuple[str, ...]]:
    """Return our name -> official names for everything in the model's state dict."""
    levels = {
        "encoder": len(model.settings.encoder.widths),
        "decoder": len(model.settings.decoder.widths),
    }
    names = conv_autoencoder_keys(model.state_dict(), layout, levels)
    others = {"quantizer.codebook": TABLE, "recent.codes": WINDOW, "quantizer.average.hits": HITS}
    for name in model.state_dict():
        if name not in names and name not in UNPUBLISHED:
            official = others.get(name, name.replace("quantizer.phi.", _PHI))
            names[name] = (official,)
    return names


def tokenizer_part(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state without wrappers' prefixes and without what belongs to training alone."""
    found = dict(state)
    for prefix in PREFIXES:
        if found and all(name.startswith(prefix) for name in found):
            found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    return {name: t for name, t in found.items() if not name.startswith(TRAINING_ONLY)}
