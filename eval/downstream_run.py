"""The run of ``eval downstream``: any contestant, over budgets, before one vision network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from eval import registry
from eval.contestant import Contestant, Signal
from eval.contestants import contestants
from eval.downstream import Downstream, folder_labels
from eval.downstream_model import DownstreamModel, load_downstream
from eval.loop import Pass
from eval.picture_sets import OriginalSet, stacked
from eval.protocol import Protocol
from eval.session import fitting_budgets
from eval.set_session import SetSession, checked_items
from tok_core.byte_rules import byte_rule

# Which way is better, by the last word of a score's name.
LOWER = frozenset({"abs_rel", "rmse", "l1"})
COUNTS = frozenset({"samples", "classes", "without_depth"})


class DownstreamRun:
    """One run.

    Args:
        session: where scores go. protocol: of the run. device: of networks.
        model, task, classes, align: see `eval.downstream`. policy: see `eval.contestants`.
    """

    def __init__(
        self, session: SetSession, protocol: Protocol, device: str, *, model: str, task: str,
        classes: int | None, align: str, policy: str,
    ) -> None:  # fmt: skip
        self.session, self.protocol, self.device, self.policy = session, protocol, device, policy
        self.network: DownstreamModel = load_downstream(model, task, device=device)
        self.classes, self.align = classes, align

    def all(
        self, names: Sequence[str], data: str, *, budgets: Sequence[float] | None,
        labels: bool, skip_bad: bool, count: int | None,
    ) -> None:  # fmt: skip
        """Measure every contestant at every budget."""
        items, protocol = checked_items(
            self.session, data, self.protocol, skip_bad=skip_bad, count=count
        )
        known = None
        if labels:
            # A network that names its classes decides the numbers; else folders in order.
            known, _ = folder_labels(
                [item.path for item in items.items], self.network.classes or None
            )
        competing = contestants(
            registry.words(names), "image", device=self.device, policy=self.policy,
            batch_size=self.session.batch_size,
        )  # fmt: skip
        for one in competing:
            wanted = fitting_budgets(one, budgets)
            metric = Downstream(
                self.network, _reconstruct(one, protocol), [None if b is None else int(b)
                                                            for b in wanted],
                classes=self.classes, align=self.align, to_bytes=byte_rule(protocol.byte_rule),
            )  # fmt: skip
            facts = {
                "contestant": [one.name, one.weights_hash, one.identity], "budgets": wanted,
                "protocol": protocol.to_dict(), "items": items.sha256, "labels": labels,
                "network": [self.network.name, self.network.weights, self.network.task],
                "align": self.align,
            }  # fmt: skip
            found = self.session.loop(
                metric, [Pass(items=OriginalSet(items, protocol),
                              update=_shown(metric, known, self.device))],
                facts=facts, label=f"{one.name} downstream",
            )  # fmt: skip
            self._add(one, found or {}, protocol, items.sha256, len(items))

    def _add(
        self, one: Contestant, found: Mapping[str, Any], protocol: Protocol, items: str, n: int
    ) -> None:
        weights = {self.network.name: self.network.weights} if self.network.weights else {}
        for key, value in found.items():
            _, budget, measure = key.split("/", 2)
            if measure in COUNTS:
                continue
            self.session.add(
                one, f"downstream/{measure}", float(value), protocol=protocol, items=items,
                budget=None if budget == "all" else float(budget), title=measure, kind="paired",
                direction="lower" if measure in LOWER else "higher", n=n, weights=weights,
                options={"network": self.network.name, "task": self.network.task,
                         "align": self.align},
            )  # fmt: skip


def _reconstruct(one: Contestant, protocol: Protocol) -> Callable[[Tensor, int | None], Tensor]:
    """Return a contestant as a function of originals (B, 3, H, W) and a budget."""
    to_bytes = byte_rule("round")

    def reconstruct(originals: Tensor, budget: int | None) -> Tensor:
        signals = [Signal(to_bytes(x.cpu()), str(i), i) for i, x in enumerate(originals)]
        made = one.reconstruct(signals, budget)
        values = [x.values.float() / 127.5 - 1 if x.values.dtype == torch.uint8 else x.values
                  for x in made]  # fmt: skip
        return torch.stack(values).to(originals.device)

    return reconstruct


def _shown(
    metric: Downstream, labels: Tensor | None, device: str
) -> Callable[[list[int], list[Signal]], None]:
    def update(indices: list[int], signals: list[Signal]) -> None:
        known = None if labels is None else labels[indices].to(device)
        metric.update(stacked(signals).to(device), known)

    return update
