"""Ground floor of Tessera: the token contract and the parts every tokenizer shares.

The public names below load on first use, so that ``import tok_core`` alone costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "Autoencoder": "contract",
    "Axis": "token_spec",
    "Codebook": "codebook",
    "TokenSpec": "token_spec",
    "Tokenizer": "contract",
    "Tokens": "contract",
    "TrainingOutput": "contract",
    "TesseraError": "errors",
    "load": "loading",
}
__all__ = [
    "Autoencoder",
    "Axis",
    "Codebook",
    "TesseraError",
    "TokenSpec",
    "Tokenizer",
    "Tokens",
    "TrainingOutput",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'tok_core' has no attribute '{name}'")
    return getattr(importlib.import_module(f"tok_core.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
