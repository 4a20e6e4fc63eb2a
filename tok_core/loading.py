"""Load any tokenizer or generator of any installed package by folder or hub id."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from tok_core.errors import WeightsError, nearest
from tok_core.model import Model
from tok_core.strict_loading import read_config

GROUP = "tessera.models"


def model_classes() -> dict[str, Any]:
    """Return the entry points of the group ``tessera.models`` by class name, unloaded."""
    return {point.name: point for point in entry_points(group=GROUP)}


def model_class(name: str) -> type[Model]:
    """Return the installed model class of that name.

    Raises:
        WeightsError: no installed package offers it.
    """
    known = model_classes()
    if name not in known:
        raise WeightsError(
            f"no installed package offers a model class '{name}'; known are "
            f"{', '.join(sorted(known)) or 'none'}{nearest(name, known)}"
        )
    return known[name].load()


def load(path_or_hub_id: str | Path, **options: Any) -> Any:
    """Load a model saved with `save_pretrained`, whatever its class.

    Args:
        path_or_hub_id: folder with config.json and safetensors, or a hub id.
        options: passed to the class's ``from_pretrained``.

    Returns:
        The model in eval mode, float32, on the CPU unless asked otherwise.

    Raises:
        WeightsError: folder missing, class unknown, weights that do not fit.

    Example:
        >>> tokenizer = load("runs/mine/model")  # doctest: +SKIP
    """
    name = read_config(path_or_hub_id, options).get("_class_name")
    if not isinstance(name, str):
        raise WeightsError(f"{path_or_hub_id}/config.json names no model class (_class_name).")
    return model_class(name).from_pretrained(path_or_hub_id, **options)
