"""The model that a command means: the one of a name, or the default of a sense."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tok_core.errors import WeightsError
from tok_core.shipped_models import find_device, shipped_models
from tok_core.shipped_models import find_model as find_named_model

if TYPE_CHECKING:
    from tok_core.contract import Autoencoder, Tokenizer

DEFAULT_MODELS = {"image": "one-d-piece-tiny", "audio": "wavtokenizer-tiny"}
DEFAULT_MODEL = DEFAULT_MODELS["image"]


def default_model(sense: str) -> str:
    """Return the name of the shipped model for "image" or "audio" files.

    Raises:
        WeightsError: this installation ships none.
    """
    name = DEFAULT_MODELS[sense]
    shipped = shipped_models()
    if name not in shipped:
        raise WeightsError(
            f"this installation ships no model for {sense} files ('{name}' is not in its assets); "
            "name one with --model: a model folder or a hub id."
        )
    return name


def find_model(name: str | None) -> str:
    """Return the folder or hub id behind a name; None is the default model.

    Raises:
        WeightsError: it is neither a shipped name, nor a folder, nor shaped like a hub id.
    """
    if name is None:
        name = DEFAULT_MODEL
    shipped = shipped_models()
    return str(shipped[name]) if name in shipped else find_named_model(name)


def load_model(name: str | None, *, device: str = "cpu") -> Autoencoder:
    """Load a shipped model by name, a folder or a hub id; see `tessera.load`."""
    from tok_core.loading import load

    where = find_device(device)
    model = load(find_model(name))
    return model.to(where)  # type: ignore[arg-type]


def load_tokenizer(name: str | None, *, device: str = "cpu") -> Tokenizer:
    """Load a model that has tokens (not a purely continuous one).

    Raises:
        WeightsError: a generator, or a model that has latents but no tokens.
    """
    from tok_core.contract import Autoencoder, Tokenizer

    model = load_model(name, device=device)
    if not isinstance(model, Autoencoder):
        raise WeightsError(
            f"'{name}' is a {type(model).__name__} that draws tokens and codes nothing; give the "
            "tokenizer it was trained on."
        )
    if not isinstance(model, Tokenizer):
        raise WeightsError(
            f"{type(model).__name__} is a continuous autoencoder and has no tokens; choose a "
            "model with a quantizer."
        )
    return model
