"""A loop over items for one metric that does its own work: pFID, contributions, generated sets.

The same habits as `eval.run`: a block of items for every process, states saved every 20 seconds,
merged at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torchmetrics import Metric

from eval.checkpoint import Checkpoint, run_key
from eval.launched import Processes
from eval.metric_states import keep_from_syncing, merged_states, metric_states, set_states
from tok_core.command_line import say
from tok_core.progress_bar import progress_bar


class Batches(Protocol):
    """A set of items that can be read from any place on."""

    def __len__(self) -> int: ...

    def batches(self, places: range, size: int) -> Iterator[tuple[list[int], Any]]:
        """Yield indices and items of these places, so many at a time."""
        ...


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One way over a set. update: takes indices and what the set yields for them."""

    items: Batches
    update: Callable[[list[int], Any], None]


def run_passes(
    metric: Metric, passes: Sequence[Pass], *, checkpoint: Checkpoint, processes: Processes,
    facts: Mapping[str, Any], batch_size: int, label: str,
) -> Mapping[str, Any] | None:  # fmt: skip
    """Show all items to a metric, one pass after the other, and compute.

    Args:
        metric: whose states are kept and merged. passes: what goes in.
        facts: plain values that decide the numbers, for the key of the checkpoint.
        label: for the bar and messages.

    Returns:
        what the metric computed, on the main process; None elsewhere.
    """
    keep_from_syncing(metric)
    key = run_key({**facts, "batch": batch_size, "sizes": [len(one.items) for one in passes]})
    blocks = [processes.block(len(one.items)) for one in passes]
    total = sum(len(block) for block in blocks)
    done = 0
    kept = checkpoint.load(key)
    if kept is not None:
        set_states(metric, kept[0])
        done = int(kept[1]["done"])
        say(f"{label}: going on after {done} of {total} items")

    def save() -> None:
        checkpoint.save(key, metric_states(metric), {"done": done})

    with progress_bar(total, label, unit="items", done=done) as advance:
        start = 0
        for one, block in zip(passes, blocks, strict=True):
            left = block[max(0, done - start) :]
            start += len(block)
            try:
                for indices, items in one.items.batches(left, batch_size):
                    one.update(indices, items)
                    done += len(indices)
                    advance(len(indices))
                    if checkpoint.due():
                        save()
            except KeyboardInterrupt:
                save()
                raise
    if processes.world > 1:
        save()
        every = processes.gathered(metric_states(metric))
        if not processes.main:
            return None
        set_states(metric, merged_states(metric, every))
    found = metric.compute()
    return found if isinstance(found, Mapping) else {"": found}
