"""When two scores may stand in one column: everything that the metric looks at is equal.

What the contestant is, its budget, its own weights and where it ran may differ; that is what a
table compares.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from eval.protocol import Difference, Protocol, difference
from eval.score import Score
from tok_core.errors import ConfigError, nearest

# Fields of a score that decide beside its protocol; options and weights are compared key by key.
OWN_FIELDS = ("kind", "direction", "unit", "items", "seed", "device")
SPEED = "speed/"  # begins the metrics that depend on where a contestant ran
MAPPINGS = ("options", "weights")
CONTESTANT = "contestant"  # the key in `weights` that may differ


def unlike(first: Score, second: Score) -> tuple[Difference, ...]:
    """Return the fields that keep two scores of one metric out of one column.

    Fields of the metric's options and weights are named ``options.key`` and ``weights.key``. The
    seed does not matter to a rate, which draws nothing, and the device to speeds alone.

    Example:
        >>> titok, mar = protocol_named("titok"), protocol_named("mar")
        >>> [one.field for one in unlike(Score(contestant="a", metric="psnr", protocol=titok),
        ...                              Score(contestant="b", metric="psnr", protocol=mar))]
        ['split', 'crop', 'byte_rule']
    """
    found = list(difference(first.protocol, second.protocol, kind=first.kind))
    passed_over = set() if first.metric.startswith(SPEED) else {"device"}
    if first.kind == second.kind == "rate":
        passed_over.add("seed")
    for name in OWN_FIELDS:
        one, other = getattr(first, name), getattr(second, name)
        if one != other and name not in passed_over:
            found.append(Difference(name, *(None if v == "" else v for v in (one, other))))
    for name in MAPPINGS:
        found += _by_key(name, getattr(first, name), getattr(second, name))
    return tuple(found)


def first_unlike(scores: Sequence[Score]) -> tuple[Score, Score, tuple[Difference, ...]] | None:
    """Return the first score with a number that differs from the first of all, None if all agree.

    Scores without a number are passed over: they compare nothing.
    """
    told = [score for score in scores if score.value is not None]
    for other in told[1:]:
        found = unlike(told[0], other)
        if found:
            return told[0], other, found
    return None


def field_value(score: Score, field: str) -> Any:
    """Return what a score holds under a field's name as `unlike` gives it; None for nothing."""
    head, _, key = field.partition(".")
    if head in MAPPINGS:
        return getattr(score, head).get(key)
    return getattr(score if field in OWN_FIELDS else score.protocol, field)


def is_allowed(field: str, allowed: Sequence[str]) -> bool:
    """Return whether a difference in a field is; ``options`` stands for all of its keys."""
    return field in allowed or field.partition(".")[0] in allowed


def check_fields(fields: Iterable[str]) -> tuple[str, ...]:
    """Return the fields if `unlike` could give them all.

    Raises:
        ConfigError: an unknown one, with the nearest legal name.
    """
    protocol = {one.name for one in dataclasses.fields(Protocol)} - {"name", "source"}
    legal = (*sorted(protocol), *OWN_FIELDS, *MAPPINGS)
    checked = tuple(fields)
    for field in checked:
        head, _, key = field.partition(".")
        if field not in legal and not (head in MAPPINGS and key):
            raise ConfigError(
                f"a difference in '{field}' was to be allowed, which no score has"
                f"{nearest(field, legal)}; legal are {', '.join(legal)}, options.NAME, weights.NAME"
            )
    return checked


def _by_key(name: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Difference]:
    keys = sorted({*first, *second} - ({CONTESTANT} if name == "weights" else set()))
    return [
        Difference(f"{name}.{key}", first.get(key), second.get(key))
        for key in keys
        if _plain(first.get(key)) != _plain(second.get(key))
    ]


def _plain(value: Any) -> Any:
    """Return the value as it is after a round through JSON, where tuples are lists."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    # NaN equals NaN here; JSON writes the word.
    return "nan" if isinstance(value, float) and value != value else value
