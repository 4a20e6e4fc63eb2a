"""From a nested JSON object to a frozen dataclass of options."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TypeVar

from tok_core.errors import ConfigError, nearest

Part = TypeVar("Part")


def parse_part(kind: type[Part], name: str, value: object) -> Part:
    """Build one nested dataclass from a JSON object; lists become tuples.

    Args:
        kind: the dataclass.
        name: of the option that holds the object, for errors.
        value: the object, or a ready instance, which is returned as it is.

    Raises:
        ConfigError: not an object, an option missing, or an unknown one (its neighbour is named).

    Example:
        >>> parse_part(VitSize, "encoder_size", {"width": 64, "layers": 1})  # doctest: +SKIP
    """
    if isinstance(value, kind):
        return value
    if not isinstance(value, Mapping):
        raise ConfigError(f"{name} is {value!r}; expected an object with named options.")
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in value:
        if key not in fields:
            raise ConfigError(
                f"{name} has the unknown option '{key}'; legal are "
                f"{', '.join(sorted(fields))}{nearest(key, fields)}"
            )
    lists = {key: tuple(v) if isinstance(v, list) else v for key, v in value.items()}
    missing = [
        f.name
        for f in fields.values()
        if f.name not in lists and f.default is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{name} lacks {missing[0]}; give {', '.join(sorted(fields))}.")
    return kind(**lists)
