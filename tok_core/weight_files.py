"""Find, read and strictly load weight files of other projects; nothing is downloaded."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from tok_core.errors import WeightsError


def find_weights(
    name: str,
    *,
    project: str,
    explicit: str | os.PathLike[str] | None = None,
    packaged: Iterable[tuple[str, str]] = (),
) -> Path:
    """Return the local path of a third party's weight file.

    Searched in this order: ``explicit``, the folder in the environment variable
    ``TESSERA_WEIGHTS``, torch's own cache (``~/.cache/torch/hub/checkpoints``, moved by
    ``TORCH_HOME``), then inside installed Python packages.

    Args:
        name: file name as its project publishes it, e.g. ``"vgg16-397923af.pth"``.
        project: where the file comes from, for the error message.
        explicit: the user's own path, which must exist when given.
        packaged: (package, path inside it) pairs; the packages are looked at, never imported.

    Returns:
        Path of an existing file.

    Raises:
        WeightsError: nowhere to be found; says which file, whose it is and where to put it.

    Example:
        >>> find_weights("vgg16-397923af.pth", project="torchvision", explicit="vgg.pth")
        PosixPath('vgg.pth')
    """
    if explicit is not None:
        path = Path(explicit).expanduser()
        if path.is_file():
            return path
        raise WeightsError(
            f"no weight file at {str(path)!r}; give the path of {name} from {project}, "
            f"or leave the path out to search {_places()}"
        )
    candidates = [folder / name for folder in _folders()]
    for package, inside in packaged:
        spec = importlib.util.find_spec(package)
        for root in (spec.submodule_search_locations or ()) if spec else ():
            candidates.append(Path(root) / inside)
    for path in candidates:
        if path.is_file():
            return path
    raise WeightsError(
        f"the weight file {name} of {project} is not on this machine and is never downloaded "
        f"by itself; put it into {_places()}, or name its path in the config"
    )


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read a flat state dict from a ``.safetensors`` file or a torch pickle, onto the CPU.

    Pickles are read with ``weights_only=True``: a file holding anything but tensors and plain
    containers is refused.

    Returns:
        Tensors by key.

    Raises:
        WeightsError: unreadable, unsafe, or not a flat dict of tensors.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: object = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(
            f"{str(path)!r} cannot be read as a weight file ({reason}); it must be a "
            "safetensors file or a torch pickle of plain tensors, so fetch it again"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(
            f"{str(path)!r} does not hold a flat dict of tensors; a state dict is needed, "
            "so save the model's weights alone"
        )
    return dict(state)


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Copy ``state`` into ``module``, refusing any key or shape that does not fit either way.

    Args:
        module: receives the tensors (cast to its dtypes).
        state: tensors by the module's own key names.
        source: what the tensors are, for the error message.

    Raises:
        WeightsError: keys missing, left over, or of another shape; nothing is loaded then.
    """
    own = module.state_dict()
    problems = [
        f"{word}: {', '.join(keys[:3])}{f' and {len(keys) - 3} more' if len(keys) > 3 else ''}"
        for word, keys in (
            ("missing", sorted(own.keys() - state.keys())),
            ("left over", sorted(state.keys() - own.keys())),
            ("of another shape", sorted(
                key for key in own.keys() & state.keys() if own[key].shape != state[key].shape
            )),
        )
        if keys
    ]
    if problems:
        raise WeightsError(
            f"{source} does not fit {type(module).__name__} ({'; '.join(problems)}); every key "
            "must match, so use the file this network was published with"
        )
    module.load_state_dict(dict(state))


def _folders() -> list[Path]:
    own = os.environ.get("TESSERA_WEIGHTS")
    folders = [Path(own).expanduser()] if own else []
    return [*folders, Path(torch.hub.get_dir()) / "checkpoints"]


def _places() -> str:
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    return f"the folder named by TESSERA_WEIGHTS or {str(cache)!r}"
