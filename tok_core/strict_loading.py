"""Strict loading: what diffusers only warns about is an error here."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tok_core.errors import WeightsError, nearest

CONFIG = "config.json"


def strict_from_pretrained(
    cls: type, load: Callable[..., Any], path: str | Path, options: dict[str, Any]
) -> Any:
    """Run diffusers' ``from_pretrained`` and refuse anything left over on either side."""
    config = read_config(path, options)
    check_class(cls, config, path)
    check_config(cls, config, path)
    wants_info = options.pop("output_loading_info", False)
    dtype = options.get("torch_dtype")
    with _quiet():
        try:
            model, info = load(str(path), output_loading_info=True, **options)
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            raise WeightsError(
                f"cannot load {cls.__name__} from {path}: {_first_line(error)}"
            ) from None
    _refuse_leftovers(cls, path, info)
    stuck = [name for name, t in model.state_dict().items() if t.is_meta]
    if stuck:
        raise WeightsError(f"{path} left {stuck[0]} and {len(stuck) - 1} more tensors empty.")
    if dtype is None:
        model.float()
    model.eval()
    return (model, info) if wants_info else model


def read_config(path: str | Path, options: dict[str, Any]) -> dict[str, Any]:
    """Return config.json of a folder or hub id as a dict, or raise WeightsError."""
    folder = Path(path) / (options.get("subfolder") or "")
    if folder.is_dir() or str(path).startswith((".", "/", "~")) or str(path).count("/") != 1:
        file = folder / CONFIG
        if not folder.is_dir():
            raise WeightsError(f"there is no model folder {folder}; give a folder or a hub id.")
        if not file.is_file():
            raise WeightsError(
                f"{folder} holds no {CONFIG}; published checkpoints need 'tessera import' first."
            )
    else:
        file = fetch(str(path), CONFIG, options)
    try:
        config = json.loads(file.read_text())
    except (ValueError, OSError) as error:
        raise WeightsError(f"{file} is not readable JSON ({_first_line(error)}).") from None
    if not isinstance(config, dict):
        raise WeightsError(f"{file} holds {type(config).__name__}; expected a JSON object.")
    return config


def fetch(repo: str, name: str, options: dict[str, Any] | None = None) -> Path:
    """Return one file of a hub repository, from the cache or the network."""
    from huggingface_hub import hf_hub_download

    known = ("revision", "token", "cache_dir", "local_files_only", "subfolder")
    chosen = {key: value for key, value in (options or {}).items() if key in known and value}
    try:
        return Path(hf_hub_download(repo, name, **chosen))
    except Exception as error:  # noqa: BLE001 - network, cache, permission: all mean the same here
        raise WeightsError(
            f"cannot get {name} of {repo} ({type(error).__name__}); connect to the hub, or put the "
            "project's files into a folder and give its path."
        ) from None


def check_class(cls: type, config: dict[str, Any], path: str | Path) -> None:
    """Refuse a folder that was saved by another class."""
    name = config.get("_class_name")
    parents = {c.__name__ for c in cls.__mro__}
    if name is not None and name != cls.__name__ and name not in parents:
        raise WeightsError(
            f"{path} holds a {name}, not a {cls.__name__}; load it with tok_core.load."
        )


def check_config(cls: type, config: dict[str, Any], path: str | Path) -> None:
    """Refuse keys that the constructor does not know, naming the nearest legal one."""
    legal = set(inspect.signature(cls.__init__).parameters) - {"self"}  # type: ignore[misc]
    for key in config:
        if not key.startswith("_") and key not in legal:
            raise WeightsError(f"{path}/{CONFIG} has the unknown key '{key}'{nearest(key, legal)}")


def _refuse_leftovers(cls: type, path: str | Path, info: dict[str, Any]) -> None:
    words = {
        "missing_keys": "lacks",
        "unexpected_keys": "has the unexpected",
        "mismatched_keys": "has another shape for",
    }
    for kind, verb in words.items():
        names = sorted(str(n[0] if isinstance(n, tuple) else n) for n in info.get(kind) or ())
        if names:
            rest = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise WeightsError(f"{path} {verb} {names[0]}{rest}; it does not fit {cls.__name__}.")
    if info.get("error_msgs"):
        raise WeightsError(f"{path} does not fit {cls.__name__}: {info['error_msgs'][0]}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back diffusers' warnings about what we raise as errors."""
    logger = logging.getLogger("diffusers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
