"""MetricEntry: what a table, a plot and a comparison need to know of a metric beside its number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torchmetrics import Metric

Sense = Literal["image", "audio", "tokens"]
# paired: original and reconstruction; distribution: a set against a set; single: a set alone.
Kind = Literal["paired", "distribution", "single"]


@dataclass(frozen=True, kw_only=True)
class MetricEntry:
    """One row of `eval.registry`.

    Args:
        name: with its variant, as in tables and JSON: ``psnr``, ``ssim/llamagen``, ``pesq/wb``.
        title: head of a column, such as ``PSNR``.
        sense: what it judges. kind: what its ``update`` takes.
        higher_is_better: None where neither direction is (a rate, a count).
        unit: such as ``dB``; empty for plain numbers.
        build: makes the `torchmetrics.Metric`, given its options. It imports what it needs itself
            and raises ConfigError for a missing package, WeightsError for a missing file.
        options: keyword arguments of ``build`` that belong to the protocol (JSON values).
        values: keys of the dict that ``compute`` returns; empty where it returns one number.
        weights: names in `tok_core.weight_files` that it needs.
        packages: optional packages that it needs.
        source: paper and what of it.
    """

    name: str
    title: str
    sense: Sense
    kind: Kind
    higher_is_better: bool | None
    build: Callable[..., Metric]
    options: Mapping[str, Any]
    unit: str = ""
    values: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    source: str = ""
