"""Tessera turns images and sound into tokens and back.

>>> import tessera                                        # doctest: +SKIP
>>> tokenizer = tessera.load("one-d-piece-tiny")          # a shipped model, a folder, or a hub id
>>> tokens = tokenizer.encode(images)                     # (B, 3, H, W) in [-1, 1]
>>> pictures = tokenizer.decode(tokens)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tok_core.contract import Autoencoder

__all__ = ["__version__", "load"]
__version__ = "0.1.0"


def load(model: str | None = None, *, device: str = "cpu") -> Autoencoder:
    """Load a model: a shipped one by name, a folder in diffusers layout, or a hub id.

    Args:
        model: for example ``"one-d-piece-tiny"`` (shipped), ``"runs/mine/final"`` or
            ``"turing-motors/One-D-Piece-L-256"``; None is the model that comes with the package.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"`` or ``"auto"``.

    Returns:
        the model in eval mode, float32.

    Raises:
        WeightsError: no such folder, or weights that do not fit the config key by key.

    Example:
        >>> tokenizer = tessera.load()                      # doctest: +SKIP
    """
    from tessera.models import load_model

    return load_model(model, device=device)
