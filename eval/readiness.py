"""What every metric lacks on this machine: a package, a weight file, a network to be named."""

from __future__ import annotations

import importlib.util
from typing import NamedTuple

from eval import registry
from eval.metric_building import build
from eval.metric_entry import MetricEntry
from eval.protocol import protocol_named
from tok_core.errors import ConfigError, WeightsError

_BETTER = {True: "higher", False: "lower", None: "-"}


class Readiness(NamedTuple):
    """One metric: what it is, and ``ready`` or what kind of thing is missing, with a sentence."""

    name: str
    sense: str
    kind: str
    better: str
    state: str
    reason: str


def readiness() -> list[Readiness]:
    """Return every metric of the registry with its state.

    Metrics with packages or weights are built to find out; the others are ready by their nature.

    Example:
        >>> [one.state for one in readiness() if one.name == "psnr"]
        ['ready']
    """
    return [_one(entry) for entry in registry.entries().values()]


def _one(entry: MetricEntry) -> Readiness:
    state, reason = "ready", ""
    missing = [name for name in entry.packages if importlib.util.find_spec(name) is None]
    if missing:
        state = "missing package"
        reason = f"{' and '.join(missing)} not installed; run pip install {' '.join(missing)}"
    elif entry.sense != "tokens":
        protocol = protocol_named("photographs" if entry.sense == "image" else "dates-speech")
        try:
            build([entry], protocol, {})
        except WeightsError as error:
            state, reason = "missing weights", str(error)
        except ConfigError as error:
            state, reason = "to be named", str(error)
    return Readiness(entry.name, entry.sense, entry.kind, _BETTER[entry.higher_is_better], state,
                     reason)  # fmt: skip
