"""Names for models: the shipped ones, folders, hub ids; and the device they run on."""

from __future__ import annotations

from pathlib import Path

from tok_core.errors import ConfigError, WeightsError, nearest


def shipped_models() -> dict[str, Path]:
    """Return the folders of the models that come with the package, by name."""
    from assets import asset_path

    try:
        root = Path(asset_path("models"))
    except FileNotFoundError:
        return {}
    return {f.name: f for f in sorted(root.glob("*")) if (f / "config.json").is_file()}


def find_model(name: str) -> str:
    """Return the folder or hub id behind a name.

    Raises:
        WeightsError: it is neither a shipped name, nor a folder, nor shaped like a hub id.

    Example:
        >>> find_model("someone/their-model")
        'someone/their-model'
    """
    shipped = shipped_models()
    if name in shipped:
        return str(shipped[name])
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path)
    if path.exists() or not is_hub_id(name):
        raise WeightsError(
            f"'{name}' is neither a model folder nor a shipped model; shipped are "
            f"{', '.join(shipped) or 'none'}{nearest(name, shipped)}"
        )
    return name


def is_hub_id(name: str) -> bool:
    """Return whether a name has the shape ``owner/model``."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not name.endswith("/")


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
