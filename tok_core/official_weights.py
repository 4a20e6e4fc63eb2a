"""Reading the weight files that authors publish, without running any code they may hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tok_core.errors import WeightsError

SAFETENSORS = ".safetensors"
# Training frameworks pickle settings beside the tensors. Objects from these packages are read as
# empty shells of the same name (nothing is imported); any other name is refused.
SHELLED = (
    "pytorch_lightning.", "lightning.", "lightning_fabric.", "lightning_utilities.",
    "torchmetrics.", "omegaconf.", "jsonargparse.", "argparse.", "pathlib.",
)  # fmt: skip


def read_state(path: Path, wrappers: Sequence[str] = ("state_dict",)) -> dict[str, Tensor]:
    """Read a state dict: safetensors, a flat pickle, or one wrapped in a training checkpoint.

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
    try:
        if path.suffix == SAFETENSORS:
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            with torch.serialization.safe_globals(_shells(path)):
                state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - a hostile pickle or header can raise anything
        raise WeightsError(
            f"cannot read {path} as a state dict ({type(error).__name__}); download it again."
        ) from None
    if isinstance(state, Mapping):
        inner = (state[key] for key in wrappers if isinstance(state.get(key), Mapping))
        state = next(inner, state)
    if not isinstance(state, Mapping) or not all(isinstance(t, Tensor) for t in state.values()):
        raise WeightsError(f"{path} is no flat state dict of tensors; give the official file.")
    return dict(state)


def _shells(path: Path) -> list[Any]:
    """Return (empty class, full name) for every foreign name that the file needs and may have."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except Exception:  # noqa: BLE001 - an old or broken file: loading says what is wrong
        return []
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
