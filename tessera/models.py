"""Names for models: the shipped ones, folders, hub ids; and the device they run on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tok_core.errors import ConfigError, WeightsError, nearest

if TYPE_CHECKING:
    from tok_core.contract import Autoencoder, Tokenizer

DEFAULT_MODELS = {"image": "one-d-piece-tiny", "audio": "wavtokenizer-tiny"}
DEFAULT_MODEL = DEFAULT_MODELS["image"]


def shipped_models() -> dict[str, Path]:
    """Return the folders of the models that come with the package, by name."""
    from assets import asset_path

    try:
        root = Path(asset_path("models"))
    except FileNotFoundError:
        return {}
    return {f.name: f for f in sorted(root.glob("*")) if (f / "config.json").is_file()}


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
    shipped = shipped_models()
    name = DEFAULT_MODEL if name is None else name
    if name in shipped:
        return str(shipped[name])
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path)
    is_hub_id = name.count("/") == 1 and not name.startswith((".", "/", "~"))
    if path.exists() or not is_hub_id:
        raise WeightsError(
            f"'{name}' is neither a model folder nor a shipped model; shipped are "
            f"{', '.join(shipped) or 'none'}{nearest(name, shipped)}"
        )
    return name


def find_device(device: str) -> str:
    """Return the torch device string for ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises:
        ConfigError: no such device here.
    """
    import torch

    mps = torch.backends.mps.is_available()
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    kind, _, index = device.partition(":")
    have = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(mps)}
    if kind not in have or (index and not index.isdigit()):
        raise ConfigError(f"'{device}' is no device; legal are auto, cpu, cuda, cuda:N and mps.")
    if have[kind] <= int(index or 0):
        here = ", ".join(name for name, count in have.items() if count)
        raise ConfigError(f"this machine has no device '{device}'; it has {here}.")
    return device


def load_model(name: str | None, *, device: str = "cpu") -> Autoencoder:
    """Load a shipped model by name, a folder or a hub id; see `tessera.load`."""
    from tok_core.loading import load

    where = find_device(device)
    model = load(find_model(name))
    return model.to(where)  # type: ignore[arg-type]


def load_tokenizer(name: str | None, *, device: str = "cpu") -> Tokenizer:
    """Load a model that has tokens (not a purely continuous one).

    Raises:
        WeightsError: the model has latents but no tokens.
    """
    from tok_core.contract import Tokenizer

    model = load_model(name, device=device)
    if not isinstance(model, Tokenizer):
        raise WeightsError(
            f"{type(model).__name__} is a continuous autoencoder and has no tokens; choose a "
            "model with a quantizer."
        )
    return model
