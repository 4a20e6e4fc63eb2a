"""The states of a metric as plain tensors: saved, restored, and merged over processes.

torchmetrics would gather states by itself, but not those of metrics inside a metric, and not where
one process saw nothing; a run here also merges what a killed run left on disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat, dim_zero_sum

M = TypeVar("M", bound=Metric)
# A tensor, or a list of tensors, by path of the inner metric and name of the state.
States = dict[str, Tensor | list[Tensor]]


def metric_states(metric: Metric) -> States:
    """Return every state of a metric and of the metrics inside it, on the CPU.

    A list that is concatenated over processes becomes a list of at most one tensor.
    """
    found: States = {}
    for path, part in _parts(metric):
        for name in part._defaults:
            value = getattr(part, name)
            if isinstance(value, list):
                rows = [one.detach().cpu() for one in value]
                joined = rows and part._reductions[name] in (dim_zero_cat, torch.cat)
                found[path + name] = [dim_zero_cat(rows)] if joined else rows
            else:
                found[path + name] = value.detach().cpu().clone()
    return found


def set_states(metric: Metric, states: Mapping[str, Tensor | list[Tensor]]) -> None:
    """Put states into a metric of the same build; what is not among them stays."""
    for path, part in _parts(metric):
        for name in part._defaults:
            if path + name not in states:
                continue
            value = states[path + name]
            setattr(part, name, [one.to(part.device) for one in value]
                    if isinstance(value, list) else value.to(part.device).clone())  # fmt: skip
        part._update_count = max(part._update_count, 1)
        part._computed = None


def merged_states(metric: Metric, every: Sequence[States]) -> States:
    """Merge the states of all processes, in rank order, by each state's own rule."""
    if len(every) == 1:
        return every[0]
    merged: States = {}
    for path, part in _parts(metric):
        for name, rule in part._reductions.items():
            merged[path + name] = _merged([one[path + name] for one in every], rule)
    return merged


def real_states(states: States) -> States:
    """Return the states of the originals' side, which are called ``real...`` by habit.

    Keys are the paths of `metric_states`, with or without ``NAME|`` of a part before them.
    """

    def name(key: str) -> str:
        return key.rpartition("|")[2].rpartition(".")[2]

    return {key: value for key, value in states.items() if name(key).startswith("real")}


def keep_from_syncing(metric: M) -> M:
    """Let ``compute`` see this process's states alone; a run merges them itself."""
    for _, part in _parts(metric):
        part.distributed_available_fn = _alone
    return metric


def _alone() -> bool:
    return False


def _parts(metric: Metric) -> Iterator[tuple[str, Metric]]:
    for path, part in metric.named_modules():
        if isinstance(part, Metric):
            yield (path + "." if path else ""), part


def _merged(values: Sequence[Any], rule: Any) -> Tensor | list[Tensor]:
    if isinstance(values[0], list):
        rows = [row for value in values for row in value]
        return [dim_zero_cat(rows)] if rows and rule in (dim_zero_cat, torch.cat) else rows
    if rule in (dim_zero_cat, torch.cat):
        return torch.cat([torch.atleast_1d(value) for value in values])
    stacked = torch.stack(list(values))
    if rule is None:
        return stacked
    return stacked.sum(0) if rule is dim_zero_sum else rule(stacked)
