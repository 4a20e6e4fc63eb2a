"""MODULE:FUNCTION: a network of the user's own, named on the command line."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tok_core.errors import ConfigError
from tok_core.hashes import tensor_hash


def is_entry_point(name: str) -> bool:
    """Tell MODULE:FUNCTION from the path of a file or folder, and from a plain name."""
    return bool(name.partition(":")[2]) and not Path(name).exists()


def load_entry_point(
    name: str, *, takes: str, others: str, device: str = "cpu"
) -> Callable[..., Any]:
    """Return a function itself, or what it returns where it takes no arguments.

    Args:
        name: MODULE:FUNCTION that Python can import. takes: what it is called with, for errors.
        others: what else the caller takes for a name, for errors. device: of a network.

    Returns:
        A callable; networks are in eval mode on the device.

    Raises:
        ConfigError: no such function, or what it gives cannot be called.

    Example:
        >>> load_entry_point("math:sqrt", takes="a number", others="nothing")(4.0)
        2.0
    """
    module, _, function = name.partition(":")
    try:
        target: Any = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"no entry point '{name}' ({error}); legal is MODULE:FUNCTION that Python can import "
            f"here, or {others}."
        ) from None
    made = target
    if callable(target) and not isinstance(target, torch.nn.Module) and not _needed(target):
        made = target()
    if not callable(made):
        raise ConfigError(
            f"entry point '{name}' gave {type(made).__name__}; it must take {takes}, or take "
            "nothing and return something that does."
        )
    if isinstance(made, torch.nn.Module):
        made = made.to(device).eval()
    return made


def network_hash(model: Any) -> str | None:
    """Return the hash over a network's tensors, None for anything else."""
    if not isinstance(model, torch.nn.Module):
        return None
    return tensor_hash(list(model.state_dict().items()), "downstream")


def _needed(function: Callable[..., Any]) -> int:
    """Return how many arguments a function cannot be called without."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return sum(one.kind in kinds and one.default is one.empty for one in parameters)
