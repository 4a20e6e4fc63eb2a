"""Run configs: frozen keyword-only dataclasses, read from YAML, overridden with ``--set a.b=c``.

    recipe.yaml --extends--> merged mapping --set--> mapping --checked by pydantic--> dataclass

A field whose key is a Python keyword carries a trailing underscore: ``class_`` is ``class`` in
YAML.  Every mistake is one `ConfigError` that says what came in, what is legal, what to do.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from tok_core.errors import ConfigError, nearest

Config = TypeVar("Config")


def load_config(
    cls: type[Config], path: str | Path | None, overrides: Sequence[str] = ()
) -> Config:
    """Read a recipe into a frozen dataclass.

    Args:
        cls: keyword-only dataclass; fields may be dataclasses, lists, free dicts or plain values.
        path: YAML file, or None for the defaults of ``cls``; ``extends: other.yaml`` inside it
            (relative to it) names a recipe that it changes.
        overrides: ``"train.steps=100"`` and so on; the values are YAML.

    Returns:
        An instance of ``cls``.

    Raises:
        ConfigError: missing file, bad YAML, unknown key (names the nearest legal one), bad value.

    Example:
        >>> load_config(ImageRun, "smoke.yaml", ["train.steps=3"])  # doctest: +SKIP
    """
    values = read_overridden(path, overrides)
    return from_mapping(cls, values, source=str(path) if path else "the config")


def read_overridden(path: str | Path | None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a recipe with what it extends and what overrides it, as a nested mapping, unchecked."""
    values: dict[str, Any] = {} if path is None else read_recipe(Path(path))
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not all(key.split(".")):
            raise ConfigError(
                f"--set got {override!r}; write a key, '=' and a value, as in train.steps=100"
            )
        _set(values, key, _parse(text, f"--set {override}"))
    return values


def from_mapping(
    cls: type[Config], values: Mapping[str, Any], source: str = "the config"
) -> Config:
    """Check a plain mapping against ``cls`` and build it; raises `ConfigError`."""
    from pydantic import TypeAdapter, ValidationError

    fields = _to_fields(cls, values, "", source)
    try:
        return TypeAdapter(cls).validate_python(fields)
    except ValidationError as error:
        raise ConfigError(_sentence(error.errors(include_url=False)[0], source)) from None


def to_mapping(config: Any) -> Any:
    """Turn a config into plain JSON/YAML values, key by key as they are written in YAML."""
    if dataclasses.is_dataclass(config):
        return {
            field.name.rstrip("_"): to_mapping(getattr(config, field.name))
            for field in dataclasses.fields(config)
        }
    if isinstance(config, Mapping):
        return {str(key): to_mapping(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [to_mapping(value) for value in config]
    return str(config) if isinstance(config, Path) else config


def to_yaml(config: Any) -> str:
    """Return the resolved config as YAML text that `load_config` reads back."""
    return yaml.safe_dump(to_mapping(config), sort_keys=False)


def flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings to dotted keys: ``{"train.steps": 100}``."""
    if not isinstance(values, Mapping) or not values:
        return {prefix: values} if prefix else {}
    return {
        name: leaf
        for key, value in values.items()
        for name, leaf in flatten(value, f"{prefix}.{key}" if prefix else str(key)).items()
    }


def read_recipe(path: Path, _seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read one YAML recipe with everything it extends, as a nested mapping."""
    path = path.resolve()
    if path in _seen:
        raise ConfigError(f"{path} extends itself by way of {_seen[-1]}; break the circle")
    if not path.is_file():
        siblings = [p.name for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        raise ConfigError(f"config {path} is no file{nearest(path.name, siblings)}")
    values = _parse(path.read_text(encoding="utf-8"), str(path))
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds {type(values).__name__}; a recipe is a mapping of keys")
    base = values.pop("extends", None)
    if base is None:
        return values
    return _merge(read_recipe(path.parent / str(base), (*_seen, path)), values)


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "syntax error"
        raise ConfigError(f"{where}{line} is not YAML ({problem}); correct it") from None


def _merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in change.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for depth, part in enumerate(path):
        child = values.get(part)
        if child is None:
            child = values[part] = {}
        if not isinstance(child, dict):
            raise ConfigError(
                f"--set {key}: '{'.'.join(path[: depth + 1])}' holds {child!r}, "
                "which has no keys inside; set it whole"
            )
        values = child
    values[last] = value


def _to_fields(cls: Any, values: Any, prefix: str, source: str) -> Any:
    """Rename YAML keys to field names, level by level; an unknown key stops here."""
    inner = _dataclass_of(cls)
    if inner is None or not isinstance(values, Mapping):
        return values
    hints = typing.get_type_hints(inner)
    legal = {f.name.rstrip("_"): f.name for f in dataclasses.fields(inner)}
    fields = {}
    for key, value in values.items():
        if key not in legal:
            guess = nearest(str(key), legal)
            rest = guess if guess else f"; legal keys are {', '.join(legal)}"
            raise ConfigError(f"unknown key '{prefix}{key}' in {source}{rest}")
        name = legal[key]
        fields[name] = _to_fields(hints[name], value, f"{prefix}{key}.", source)
    return fields


def _dataclass_of(hint: Any) -> Any:
    """Return the dataclass in ``X``, ``X | None`` or ``Annotated[X, ...]``, else None."""
    if dataclasses.is_dataclass(hint):
        return hint
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType, typing.Annotated):
        found = [_dataclass_of(arg) for arg in typing.get_args(hint)]
        return next((item for item in found if item is not None), None)
    return None


def _sentence(error: Mapping[str, Any], source: str) -> str:
    """Turn the first pydantic error into one sentence."""
    parts = [str(part).rstrip("_") for part in error["loc"]]
    key = ".".join(part for part in parts if not part.startswith("function-"))
    if error["type"] == "missing":
        return f"'{key}' is missing in {source}; add it there or with --set {key}=..."
    message = str(error["msg"]).removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if not key:
        return f"{source}: {message}"
    return f"'{key}' in {source} is {error['input']!r}: {message}; correct it or --set {key}=..."
