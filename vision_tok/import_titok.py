"""Importer of published TiTok, One-D-Piece, TA-TiTok and MaskGIT-VQGAN checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tok_core.contract import Autoencoder
from tok_core.errors import WeightsError
from tok_core.official_fit import fill
from tok_core.official_names import class_to_build, shapes_of
from tok_core.official_source import official_files
from tok_core.official_weights import read_state
from vision_tok.infer_titok import maskgit_values, plain_options, titok_values
from vision_tok.maskgit_vqgan import MaskGitVQGAN
from vision_tok.official_keys import official_names
from vision_tok.one_d_piece import OneDPiece
from vision_tok.titok import TiTok
from vision_tok.titok_kl import TiTokKL


def import_titok(
    source: str | Path, config: Mapping[str, Any] | str | Path | None = None, *,
    cls: type[Autoencoder] | None = None,
) -> Any:  # fmt: skip
    """Read a published checkpoint; every key must find its place on both sides.

    Args:
        source: a flat pickle (``.bin``), a safetensors file, a folder with one of them, or a hub
            id.
        config: the official config (nested or flat) as an object or JSON file; without one, that
            of the folder, and without that, shapes and the published conventions decide.
        cls: class to build; None picks `TiTokKL` without a codebook, `MaskGitVQGAN` for the
            teacher, `OneDPiece` for legacy weights with a token per grid cell, else `TiTok`.

    Returns:
        The model in eval mode, float32, on the CPU.

    Raises:
        WeightsError: unreadable file, keys left over on either side, shapes that do not fit.

    Example:
        >>> teacher = import_titok("maskgit-vqgan-imagenet-f16-256.bin")  # doctest: +SKIP
    """
    files = official_files(
        source, config, such_as="or a folder with pytorch_model.bin or model.safetensors"
    )
    state = read_state(files.weights)
    return import_state(state, files.given or files.beside, cls=cls, name=str(source))


def import_state(
    state: Mapping[str, Tensor], config: Mapping[str, Any] | None = None, *,
    cls: type[Autoencoder] | None = None, name: str = "the checkpoint",
) -> Any:  # fmt: skip
    """Build the model that a state dict with official names belongs to (tensors may be on meta)."""
    shapes = shapes_of(state)
    if "latent_tokens" in shapes:
        values = titok_values(shapes, config)
        chosen = _family(values, config, cls, name)
    elif "quantize.embedding.weight" in shapes and "decoder.conv_in.weight" in shapes:
        values, chosen = maskgit_values(shapes), class_to_build(cls, MaskGitVQGAN, name)
    else:
        raise WeightsError(
            f"{name} holds neither latent_tokens (TiTok, One-D-Piece) nor a MaskGIT-VQGAN; it is "
            "no checkpoint of this family."
        )
    with torch.device("meta"):
        model = chosen(**values)
    fill(model, {ours: (name,) for ours, name in official_names(model).items()}, state, name)
    return model.eval()


def _family(
    values: dict[str, Any], config: Mapping[str, Any] | None, cls: type[Autoencoder] | None,
    name: str,
) -> type[Autoencoder]:  # fmt: skip
    if "codebook_size" not in values:
        return class_to_build(cls, TiTokKL, name)
    if cls is not None:
        return class_to_build(cls, TiTok, name)
    # Only One-D-Piece publishes legacy weights with as many tokens as cells; a parity config says
    # it in words.
    cells = (values["image_size"] // values["patch_size"]) ** 2
    piece = values["legacy_reshape"] and values["num_tokens"] == cells
    said = str(plain_options(config).get("kind", "")).startswith("one-d-piece")
    return OneDPiece if piece or said else TiTok
