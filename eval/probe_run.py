"""The run of ``eval probe``: every tokenizer, its streams, over budgets, on one labelled set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from eval.contestant import Signal, grouped
from eval.labelled_set import (
    PROCEDURAL,
    PROCEDURAL_SIDE,
    LabelledSet,
    folder_set,
    procedural_set,
)
from eval.loop import Pass
from eval.probe import Probe
from eval.protocol import Protocol
from eval.score import bootstrap
from eval.session import fitting_budgets
from eval.set_session import SetSession, checked_items, native_size
from eval.token_features import chosen_streams
from tok_core.contract import Tokenizer
from tok_core.resample import resample


class ProbeRun:
    """One run.

    Args:
        session: where scores go. protocol: of the run, of the tokenizers' sense.
        device: of networks. cells, test_share: see `eval.probe.Probe`. size: of pictures, for
            networks that take any.
    """

    def __init__(
        self, session: SetSession, protocol: Protocol, device: str, *, cells: int,
        test_share: float, size: int | None = None,
    ) -> None:  # fmt: skip
        self.session, self.protocol, self.device = session, protocol, device
        self.cells, self.test_share, self.size = cells, test_share, size

    def all(
        self, names: Sequence[str], data: str, *, streams: Sequence[str] = (),
        budgets: Sequence[float] | None = None, skip_bad: bool = False, count: int | None = None,
    ) -> None:  # fmt: skip
        """Measure every tokenizer at every budget."""
        found = self.session.tokenizers(names, self.protocol.sense, self.device)
        # Before any work: a misspelt stream of the last one costs nobody an hour.
        wanted = [chosen_streams(model, one.name, streams) for one, model in found]
        sets: dict[Any, LabelledSet] = {}
        for (one, model), chosen in zip(found, wanted, strict=True):
            labelled = self._labelled(sets, model, data, skip_bad=skip_bad, count=count)
            for budget in fitting_budgets(one, budgets):
                self._measure(one, model, labelled, chosen, budget)

    def _labelled(
        self, sets: dict[Any, LabelledSet], model: Tokenizer, data: str, *, skip_bad: bool,
        count: int | None,
    ) -> LabelledSet:  # fmt: skip
        """Return the set at what this tokenizer takes; those of one size share it."""
        if data == PROCEDURAL:
            side = native_size(model, self.protocol.changed(size=PROCEDURAL_SIDE), self.size).size
            assert side is not None
            if side not in sets:
                sets[side] = procedural_set(side, count, self.session.seed)
            return sets[side]
        if self.protocol.sense == "audio":
            protocol = self.protocol.changed(sample_rate=model.spec.input_rate)
        else:
            protocol = native_size(model, self.protocol, self.size)
        if protocol not in sets:
            items, seen = checked_items(
                self.session, data, protocol, skip_bad=skip_bad, count=count
            )
            sets[protocol] = folder_set(items, seen)
        return sets[protocol]

    def _measure(
        self, one: Any, model: Tokenizer, labelled: LabelledSet, streams: Sequence[str],
        budget: float | None,
    ) -> None:  # fmt: skip
        metric = Probe(
            model, streams, cells=self.cells, num_tokens=None if budget is None else int(budget),
            test_share=self.test_share, seed=self.session.seed,
        )  # fmt: skip
        facts = {
            "contestant": [one.name, one.weights_hash, one.identity], "budget": budget,
            "protocol": labelled.protocol.to_dict(), "items": labelled.sha256,
            "streams": list(streams), "cells": self.cells, "test_share": self.test_share,
        }  # fmt: skip
        found = self.session.loop(
            metric, [Pass(items=labelled, update=_shown(metric, model, labelled.labels))],
            facts=facts, label=f"{one.name} probe",
        )  # fmt: skip
        if found is not None:
            self._add(one, metric, labelled, budget, found)

    def _add(
        self, one: Any, metric: Probe, labelled: LabelledSet, budget: float | None,
        found: Mapping[str, Tensor],
    ) -> None:  # fmt: skip
        for stream, result in metric.results.items():
            self.session.add(
                one, f"probe/{stream}", result.accuracy, protocol=labelled.protocol,
                items=labelled.sha256, budget=budget, title=f"accuracy, {stream}", kind="single",
                direction="higher", n=len(result.right),
                spread=bootstrap(result.right.double().tolist(), seed=self.session.seed),
                options={"cells": self.cells, "test_share": self.test_share,
                         "classes": len(labelled.classes)},
            )  # fmt: skip
        facts = {
            stream: {"features": result.features, "decay": result.decay,
                     "train accuracy": float(found[f"probe/{stream}/train"])}
            for stream, result in metric.results.items()
        }  # fmt: skip
        name = one.name if budget is None else f"{one.name} {budget:g}"
        self.session.extras.setdefault("probe", {})[name] = facts
        self.session.extras["classes"] = list(labelled.classes)


def _shown(
    metric: Probe, model: Tokenizer, labels: Tensor
) -> Callable[[list[int], list[Signal]], None]:
    rate = model.spec.input_rate

    def update(indices: list[int], signals: list[Signal]) -> None:
        inputs = [
            one.unit if rate is None else resample(one.unit, one.rate or rate, rate)
            for one in signals
        ]
        # Items of one size at a time: padding would be heard, and sounds differ in length.
        for places, part in grouped(inputs, lambda x: x.shape, len(inputs)):
            chosen = [indices[place] for place in places]
            metric.update(torch.stack(part).to(model.device), labels[chosen], chosen)

    return update
