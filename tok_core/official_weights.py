"""Reading the weight files that authors publish, without running any code they may hold."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tok_core.errors import WeightsError
from tok_core.inert_pickle import InertCheckpoint, plain
from tok_core.torchscript_state import is_torchscript, read_torchscript_state

SAFETENSORS = ".safetensors"
# Training frameworks pickle settings beside the tensors. Objects from these packages are read as
# empty shells of the same name (nothing is imported); any other name is refused.
SHELLED = (
    "pytorch_lightning.", "lightning.", "lightning_fabric.", "lightning_utilities.",
    "torchmetrics.", "omegaconf.", "jsonargparse.", "argparse.", "pathlib.", "ruamel.yaml.",
)  # fmt: skip
# Of these some are lists, which `torch.load` fills only where they are exactly lists.
LISTS_AMONG = "ruamel.yaml."


def read_state(path: Path, wrappers: Sequence[str] = ("state_dict",)) -> dict[str, Tensor]:
    """Read a state dict: safetensors, a pickle (flat or wrapped), or a TorchScript archive.

    Args:
        path: of the file; its ending tells safetensors from pickles.
        wrappers: keys that may hold the state dict; the first one there wins. Lightning's is
            ``state_dict``; others keep averaged weights under ``ema``, trained ones under
            ``model``.

    Returns:
        Tensors by name, on the CPU.

    Raises:
        WeightsError: damaged, not a state dict, or a pickle with anything in it that could run.

    Example:
        >>> state = read_state(Path("WavTokenizer_small_320_24k_4096.ckpt"))  # doctest: +SKIP
    """
    if is_torchscript(path):
        return read_torchscript_state(path)
    try:
        if path.suffix == SAFETENSORS:
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            foreign = _foreign(path)
            if any(name.startswith(LISTS_AMONG) for name in foreign) and zipfile.is_zipfile(path):
                return _inert_state(path, wrappers)
            with torch.serialization.safe_globals(_shells(foreign)):
                state = torch.load(path, map_location="cpu", weights_only=True)
    except WeightsError:
        raise
    except Exception as error:  # noqa: BLE001 - a hostile pickle or header can raise anything
        raise WeightsError(
            f"cannot read {path} as a state dict ({type(error).__name__}); download it again."
        ) from None
    return _flat(_unwrapped(state, wrappers), path)


def read_settings(path: Path, key: str = "args") -> dict[str, Any]:
    """Return the training settings that a checkpoint carries beside its tensors, as plain JSON.

    Args:
        path: of a file that `read_state` reads.
        key: they are kept under.

    Returns:
        By name; nothing where the file has none, or where they cannot be read without running
        anything.

    Example:
        >>> read_settings(Path("main-train.pt"))["codebook_drop"]  # doctest: +SKIP
        0.1
    """
    if path.suffix == SAFETENSORS or not zipfile.is_zipfile(path) or is_torchscript(path):
        return {}
    try:
        content = InertCheckpoint(path, SHELLED).content
        settings = plain(content.get(key)) if isinstance(content, Mapping) else None
    except (WeightsError, RecursionError):
        return {}
    return settings if isinstance(settings, dict) else {}


def _inert_state(path: Path, wrappers: Sequence[str]) -> dict[str, Tensor]:
    checkpoint = InertCheckpoint(path, SHELLED)
    inner = _unwrapped(checkpoint.content, wrappers)
    return _flat(checkpoint.tensors(inner) if isinstance(inner, Mapping) else inner, path)


def _unwrapped(state: Any, wrappers: Sequence[str]) -> Any:
    if not isinstance(state, Mapping):
        return state
    inner = (state[key] for key in wrappers if isinstance(state.get(key), Mapping))
    return next(inner, state)


def _flat(state: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(state, Mapping) or not all(isinstance(t, Tensor) for t in state.values()):
        raise WeightsError(f"{path} is no flat state dict of tensors; give the official file.")
    return dict(state)


def _foreign(path: Path) -> list[str]:
    """Return the full names in the pickle that `torch.load` does not know."""
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except Exception:  # noqa: BLE001 - an old or broken file: loading says what is wrong
        return []


def _shells(names: Sequence[str]) -> list[Any]:
    """Return (empty class, full name) for every foreign name that a file needs and may have."""
    return [
        (type(name.rpartition(".")[2], (_Shell,), {}), name)
        for name in names
        if name.startswith(SHELLED)
    ]


class _Shell(dict):  # type: ignore[type-arg]
    """Takes whatever a pickle fills it with and does nothing."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None:
        """Drop the state."""
