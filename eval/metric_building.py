"""Metrics built for a run: their own options, and what the protocol says of rates and networks."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torchmetrics import Metric

from eval.metric_entry import MetricEntry
from eval.protocol import Protocol


def families(entries: Sequence[MetricEntry]) -> list[tuple[MetricEntry, ...]]:
    """Return the entries, those of the FID Inception together in one place."""
    from eval.fid import FAMILY

    found: list[tuple[MetricEntry, ...]] = []
    family = tuple(entry for entry in entries if entry.name in FAMILY)
    for entry in entries:
        if entry.name not in FAMILY:
            found.append((entry,))
        elif entry is family[0]:
            found.append(family)
    return found


def build(
    entries: Sequence[MetricEntry], protocol: Protocol, overrides: Mapping[str, Any]
) -> Metric:
    """Build the metric of some entries with their own options, and those that it takes of the
    protocol.

    Args:
        entries: one, or several of the FID Inception.
        overrides: further keyword arguments for metrics that know them, such as ``reference``.
    """
    from eval.fid import distribution_metric

    entry, make = entries[0], entries[0].build
    if len(entries) > 1:
        make = functools.partial(distribution_metric, [one.name for one in entries])
    offered = {
        "sample_rate": protocol.sample_rate, "resize": protocol.extractor_resize,
        "precision": protocol.precision, "splits": protocol.inception_splits, **overrides,
    }  # fmt: skip
    return make(**{**entry.options, **taken(make, offered, entry.options)})


def taken(
    make: Any, offered: Mapping[str, Any], fixed: Mapping[str, Any]
) -> dict[str, Any]:
    """Return those of the offered arguments that a metric's build takes and that are not fixed.

    A metric with a sample rate of its own keeps it; the caller resamples.
    """
    known = parameters(make)
    return {
        name: value
        for name, value in offered.items()
        if value is not None and name in known and name not in fixed
        and (name != "sample_rate" or known[name].default in (None, inspect.Parameter.empty))
    }  # fmt: skip


def parameters(function: Any) -> Mapping[str, inspect.Parameter]:
    """Return what a metric's build takes by name; {} where Python cannot tell."""
    if isinstance(function, functools.partial):
        inner = parameters(function.func)
        fixed = set(function.keywords)
        skipped = list(inner)[: len(function.args)]
        return {k: v for k, v in inner.items() if k not in fixed and k not in skipped}
    try:
        return dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return {}
