"""From the metrics of one leg to its scores, with failures, spread, warnings and hashes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torchmetrics import Metric

from eval.contestant import Contestant
from eval.item_list import NAMED
from eval.item_metric import ItemMetric
from eval.judging import Judge, Measure
from eval.metric_entry import MetricEntry
from eval.protocol import Protocol
from eval.rates import nominal_kbps
from eval.score import Failure, Score, bootstrap, package_versions
from tok_core.errors import TesseraError

# Figures of rates and speed that tables show: title, unit, direction, by key.
FIGURES: Mapping[str, tuple[str, str, str]] = {
    "bytes": ("bytes on disk", "", "lower"),
    "tokens": ("tokens", "", "lower"),
    "bpp": ("bits/pixel", "", "lower"),
    "kbps": ("kbit/s", "", "lower"),
    "kbps/nominal": ("kbit/s nominal", "", "lower"),
    "token_rate": ("tokens/s", "", "lower"),
    "speed/encode": ("encode", "items/s", "higher"),
    "speed/decode": ("decode", "items/s", "higher"),
    "speed/rtf": ("real-time factor", "", "lower"),
    "speed/memory": ("peak memory", "MiB", "lower"),
    "speed/parameters": ("parameters", "M", "lower"),
    "codes/usage": ("codes used", "", "higher"),
    "codes/perplexity": ("perplexity", "", "higher"),
    "codes/entropy": ("entropy", "bits", "higher"),
}
_ALWAYS = {
    "image": ("bpp", "bytes", "tokens"),
    "audio": ("kbps", "kbps/nominal", "token_rate", "bytes"),
}
_ONE = {True: "higher", False: "lower", None: "none"}


class LegScores:
    """Makes the scores of one leg.

    Args:
        judge: after the last batch, with the states of all processes.
        contestant, budget: of the leg. names: of all items, by index.
        seed: of all draws. items: hash of the list.
        protocol: of the run. extra_warnings: sentences on the whole run.

    Example:
        >>> scores, curves = LegScores(judge, contestant, 64, names=names, items="...").all()
    """

    def __init__(
        self, judge: Judge, contestant: Contestant, budget: float | None, *,
        names: Sequence[str], items: str, seed: int = 0, extra_warnings: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.judge, self.contestant, self.names = judge, contestant, names
        self.warnings = tuple(extra_warnings)
        own = {"contestant": contestant.weights_hash} if contestant.weights_hash else {}
        self.own_weights = own
        self.common: dict[str, Any] = {
            "contestant": contestant.name, "budget": budget, "seed": seed, "items": items,
            "budget_name": contestant.budget_name if budget is not None else "",
            "device": contestant.device, "dtype": contestant.dtype,
        }  # fmt: skip
        self.not_made = failures_of(judge.failed.items, names)

    def all(self) -> tuple[list[Score], dict[str, Any]]:
        """Return the scores in table order, and curves (JSON lists) by name."""
        scores: list[Score] = []
        curves: dict[str, Any] = {}
        scores += self._rates()
        for measure in {**self.judge.metrics, **self.judge.usage}.values():
            if self.judge.judged:
                found, drawn = self._measured(measure)
                scores += found
                curves |= drawn
                continue
            scores += [self._none(entry, "nothing could be measured") for entry in measure.entries]
        for entry, reason in self.judge.unavailable.values():
            scores.append(self._none(entry, reason))
        return scores + self._speeds(), curves

    # -- metrics -------------------------------------------------------------------------------

    def _none(self, entry: MetricEntry, reason: str) -> Score:
        return self._score(entry, entry.name, None, unavailable=reason)

    def _measured(self, measure: Measure) -> tuple[list[Score], dict[str, Any]]:
        (entry, *more), metric = measure
        try:
            computed = metric.compute()
        except TesseraError as error:
            return [self._none(entry, str(error)) for entry in measure.entries], {}
        if more:
            scores = []
            for one in measure.entries:
                scores += self._shared_out(one, metric, computed)[0]
            return scores, {}
        return self._shared_out(entry, metric, computed)

    def _shared_out(
        self, entry: MetricEntry, metric: Metric, computed: Any
    ) -> tuple[list[Score], dict[str, Any]]:
        """Return the scores of one row from what its metric computed."""
        warnings = self.warnings + _own_warnings(metric)
        protocol = seen_protocol(self.judge.protocol, entry, metric)
        weights = weight_hashes(entry, metric)
        shared = {"protocol": protocol, "weights": weights, "warnings": warnings}
        if isinstance(computed, Mapping):
            return self._dict_scores(entry, computed, shared)
        if isinstance(metric, ItemMetric):
            return [self._item_score(entry, metric, float(computed), shared)], {}
        return [self._score(entry, entry.name, float(computed), n=self.judge.judged, **shared)], {}

    def _dict_scores(
        self, entry: MetricEntry, computed: Mapping[str, Any], shared: Mapping[str, Any]
    ) -> tuple[list[Score], dict[str, Any]]:
        scores, curves = [], {}
        wanted = entry.values or tuple(computed)
        for key, value in computed.items():
            value = torch.as_tensor(value)
            if value.ndim:
                curves[key] = value.double().tolist()
            elif key in wanted and bool(torch.isnan(value)):
                scores.append(self._none(entry, "; ".join(shared["warnings"]) or "no value"))
            elif key in wanted and (entry.sense != "tokens" or key in FIGURES):
                single = len(wanted) == 1
                name = key if key in FIGURES else entry.name if single else f"{entry.name}:{key}"
                title = FIGURES[key][0] if key in FIGURES else entry.title + (
                    "" if single else f" {key}"
                )  # fmt: skip
                changes = {"direction": FIGURES[key][2], "unit": FIGURES[key][1],
                           "kind": "rate"} if key in FIGURES else {}  # fmt: skip
                scores.append(
                    self._score(
                        entry, name, float(value), n=self.judge.judged,
                        **{**shared, "title": title, **changes},
                    )
                )  # fmt: skip
        return scores, curves

    def _item_score(
        self, entry: MetricEntry, metric: ItemMetric, value: float, shared: Mapping[str, Any]
    ) -> Score:
        values, codes, indices = metric.collected()
        finite = torch.isfinite(values)
        infinite = int(torch.isinf(values).sum())
        warnings = shared["warnings"]
        if infinite and infinite == int((~torch.isnan(values)).sum()):
            # Every item is perfect (or hopeless); the mean of no finite values would say nothing.
            same = values[torch.isinf(values)]
            value = float(same[0]) if bool((same == same[0]).all()) else value
        elif infinite:
            warnings = (*warnings, f"{infinite} items are infinite and not in the mean")
        bad = [
            (int(index), metric.reason(int(code)))
            for index, code, number in zip(indices, codes, values, strict=True)
            if torch.isnan(number)
        ]
        rest = {**shared, "warnings": warnings}
        return self._score(
            entry, entry.name, None if math.isnan(value) else value,
            unavailable="no item has a number" if math.isnan(value) else None,
            n=int(finite.sum()) or infinite, spread=bootstrap(values[finite].tolist()),
            failures=(*self.not_made, *failures_of(bad, self.names)), **rest,
        )  # fmt: skip

    def _score(
        self, entry: MetricEntry, name: str, value: float | None, **fields: Any
    ) -> Score:
        weights = {**fields.pop("weights", {}), **self.own_weights}
        plain: dict[str, Any] = {
            "protocol": self.judge.protocol, "title": entry.title, "unit": entry.unit,
            "kind": "rate" if entry.sense == "tokens" else entry.kind,
            "direction": _ONE[entry.higher_is_better], "failures": self.not_made,
            "options": dict(entry.options), "versions": package_versions(entry.packages),
        }  # fmt: skip
        return Score(metric=name, value=value, weights=weights,
                     **{**self.common, **plain, **fields})  # fmt: skip

    # -- rates and speed -----------------------------------------------------------------------

    def _rates(self) -> list[Score]:
        items: Any = self.judge.rates.sums
        if not float(items[0]):
            return []
        computed = self.judge.rates.compute()
        computed |= self._nominal()
        keys = [key for key in _ALWAYS[self.judge.protocol.sense] if key in computed]
        return [self._figure(key, float(computed[key])) for key in keys]

    def _nominal(self) -> dict[str, Any]:
        """Return the rate by the formula of tables of codecs, where frames have a fixed rate."""
        spec, budget = self.contestant.spec, self.common["budget"]
        if spec is None or spec.token_rate is None:
            return {}
        return {"kbps/nominal": nominal_kbps(spec, None if budget is None else int(budget))}

    def _speeds(self) -> list[Score]:
        if not self.judge.speed:
            return []
        found = {key: float(value) for key, value in self.judge.speeds.compute().items()}
        if self.contestant.parameters is not None:
            found["speed/parameters"] = self.contestant.parameters / 1e6
        return [self._figure(key, value) for key, value in found.items()]

    def _figure(self, key: str, value: float) -> Score:
        title, unit, direction = FIGURES[key]
        return Score(
            metric=key, title=title, unit=unit, direction=direction, kind="rate", value=value,
            n=self.judge.judged, protocol=self.judge.protocol, failures=self.not_made,
            weights=dict(self.own_weights), versions=package_versions(), **self.common,
        )  # fmt: skip


def failures_of(bad: Sequence[tuple[int, str]], names: Sequence[str]) -> tuple[Failure, ...]:
    """Return failures by reason, each with how many items and the first few by name."""
    count = Counter(reason for _, reason in bad)
    return tuple(
        Failure(
            reason=reason, count=number,
            items=tuple(
                names[index] if 0 <= index < len(names) else str(index)
                for index, why in bad if why == reason
            )[:NAMED],
        )
        for reason, number in count.items()
    )  # fmt: skip


def seen_protocol(protocol: Protocol, entry: MetricEntry, metric: Metric) -> Protocol:
    """Return the protocol with the feature network that a distance used, once it is known."""
    extractor = getattr(metric, "extractor", None)
    if entry.kind == "paired" or extractor is None:
        return protocol
    fields = {"extractor": getattr(extractor, "name", None),
              "extractor_sha256": getattr(extractor, "sha256", None) or None}  # fmt: skip
    return protocol.changed(**fields)


def weight_hashes(entry: MetricEntry, metric: Metric) -> dict[str, str]:
    """Return the hash of every weight file that a metric was built from, by file name."""
    from tok_core.errors import WeightsError
    from tok_core.weight_files import find_weights

    files: dict[str, Path] = {
        name: Path(path) for name, path in (getattr(metric, "weight_files", None) or {}).items()
    }
    for name in entry.weights:
        if name not in files:
            try:
                files[name] = find_weights(name, project="")
            except WeightsError:
                continue
    return {name: _file_hash(path, path.stat().st_mtime_ns) for name, path in files.items()}


@cache
def _file_hash(path: Path, changed: int) -> str:
    import hashlib

    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _own_warnings(metric: Metric) -> tuple[str, ...]:
    """Return what a metric itself has to say about its number."""
    told = getattr(metric, "warnings", None)
    told = told() if callable(told) else told
    return tuple(told or ())


