"""A run of the judge: every contestant at every budget over all items, safe against a kill.

    for each leg (contestant, budget):
        this process's block of items, a batch at a time:  read ─▶ reconstruct ─▶ metrics
        every 20 seconds: the states to disk
        all processes' states ─▶ the main process ─▶ scores
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from eval.checkpoint import Checkpoint, run_key
from eval.contestant import Contestant, Signal
from eval.item_list import Item, ItemList
from eval.judging import Failed, Judge
from eval.launched import Processes
from eval.leg_scores import LegScores
from eval.metric_entry import MetricEntry
from eval.metric_states import States, merged_states, real_states
from eval.originals import read_original
from eval.protocol import Protocol
from eval.samples import SampleFolder
from eval.score import Score, ScoreFile
from eval.speed import peak_memory, reset_peak_memory
from tok_core.command_line import say
from tok_core.progress_bar import progress_bar

VERSION = 1  # of what a checkpoint holds; part of its key
READERS = 4  # threads


@dataclass(frozen=True)
class Leg:
    """One contestant at one budget."""

    contestant: Contestant
    budget: float | None = None

    @property
    def name(self) -> str:
        """For the bar: ``jpeg, quality 10``."""
        if self.budget is None:
            return self.contestant.name
        return f"{self.contestant.name}, {self.contestant.budget_name} {self.budget:g}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that decides the numbers of a run.

    Args:
        command: the verb. protocol: with its sample rate, for sound. items: good ones, in order.
        legs: in table order. entries: of the metrics. seed: of all draws.
        batch_size: items read and shown at a time. speed: whether to time.
        warnings: sentences that go with every score, such as which files were left out.
        device: of the metrics' networks. overrides: further options of metrics.
    """

    command: str
    protocol: Protocol
    items: ItemList
    legs: Sequence[Leg]
    entries: Sequence[MetricEntry]
    seed: int = 0
    batch_size: int = 16
    speed: bool = False
    warnings: tuple[str, ...] = ()
    device: str = "cpu"
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """Return plain values for the key of the run, without its legs."""
        return {
            "version": VERSION, "protocol": self.protocol.to_dict(), "items": self.items.sha256,
            "metrics": [[one.name, dict(one.options)] for one in self.entries],
            "seed": self.seed, "batch": self.batch_size, "speed": self.speed,
            "overrides": dict(self.overrides), "warnings": list(self.warnings),
        }  # fmt: skip


class Run:
    """Carries out a plan.

    Args:
        plan: what to do. checkpoint: where to keep it. processes: of this run.
        samples: where the first items are kept to look at, or None.

    Example:
        >>> Run(plan, Checkpoint(Path("parts"), Processes()), Processes()).all()  # doctest: +SKIP
    """

    def __init__(
        self, plan: Plan, checkpoint: Checkpoint, processes: Processes,
        samples: SampleFolder | None = None,
    ) -> None:  # fmt: skip
        self.plan, self.checkpoint, self.processes = plan, checkpoint, processes
        self.samples = samples
        self.judge = Judge(
            plan.entries, plan.protocol, device=plan.device, speed=plan.speed,
            overrides=plan.overrides,
        )  # fmt: skip
        # Another set of buildable metrics (weights put in place meanwhile) is another run.
        self.key = run_key({**plan.facts(), "built": sorted(self.judge.metrics)})
        self.block = processes.block(len(plan.items))
        self.real: States | None = None

    def all(self) -> ScoreFile:
        """Run every leg and return the scores; those of processes but the main one are empty."""
        scores: list[Score] = []
        extras: dict[str, Any] = {"contestants": {}, "histograms": {}, "curves": {},
                                  "samples": []}  # fmt: skip
        kept = self.checkpoint.load(f"real-{self.key}")
        self.real = None if kept is None else kept[0]
        total = len(self.plan.legs) * len(self.block)
        with progress_bar(total, "measuring", unit="items") as advance:
            for leg in self.plan.legs:
                found, curves = self._leg(leg, advance)
                scores += found
                _note(extras, leg, curves)
                extras["samples"] += self._kept_samples(leg)
        return ScoreFile(
            command=self.plan.command, scores=tuple(scores),
            extras={key: value for key, value in extras.items() if value},
        )  # fmt: skip

    def _kept_samples(self, leg: Leg) -> list[dict[str, Any]]:
        if self.samples is None:
            return []
        names = [item.name for item in self.plan.items.items]
        return self.samples.described(
            leg.contestant, leg.budget, names, self.plan.protocol.sense
        )

    # -- one leg -------------------------------------------------------------------------------

    def _leg(
        self, leg: Leg, advance: Callable[[int], None]
    ) -> tuple[list[Score], dict[str, Any]]:
        contestant = leg.contestant
        key = run_key({
            "run": self.key, "name": contestant.name, "budget": leg.budget,
            "weights": contestant.weights_hash, **contestant.identity,
        })  # fmt: skip
        plain = self.processes.shared(
            self.checkpoint.load_scores(key) if self.processes.main else None
        )
        if plain is not None:
            advance(len(self.block))
            self.checkpoint.forget(key)
            return [Score.from_dict(one) for one in plain["scores"]], plain["curves"]
        started = time.perf_counter()
        self._measure(leg, key, advance)
        found = self._merged(leg)
        if self.processes.main:
            plain = {"scores": [one.to_dict() for one in found[0]], "curves": found[1]}
            self.checkpoint.save_scores(key, plain)
            say(f"{leg.name}: {len(self.plan.items)} items in "
                f"{time.perf_counter() - started:.1f} s")  # fmt: skip
        self.checkpoint.forget(key)
        return found

    def _measure(self, leg: Leg, key: str, advance: Callable[[int], None]) -> None:
        judge = self.judge
        judge.begin(leg.contestant, self.real)
        done = self._resumed(leg, key)
        advance(done)
        reset_peak_memory(leg.contestant.device)
        step = self.plan.batch_size
        try:
            for signals in self._signals(self.block[done:]):
                made = leg.contestant.reconstruct(signals, leg.budget)
                # The first batch is slower than all others; alone it must do.
                judge.update(signals, made, timed=done > 0 or len(self.block) <= step)
                if self.samples is not None:
                    for signal, one in zip(signals, made, strict=True):
                        self.samples.keep(leg.contestant, leg.budget, signal, one)
                done += len(signals)
                advance(len(signals))
                if self.checkpoint.due():
                    self._save(key, done)
        except KeyboardInterrupt:
            self._save(key, done)
            raise
        judge.speeds.note_memory(peak_memory(leg.contestant.device))
        if self.real is None and judge.has_distances and self.plan.protocol.sense == "image":
            self.real = {k: v for k, v in real_states(judge.states()).items() if k[0] != "."}
            self.checkpoint.save(f"real-{self.key}", self.real, {})
        if self.processes.world > 1:
            self._save(key, done)

    def _signals(self, places: Sequence[int]) -> Iterator[list[Signal]]:
        """Yield batches of originals, reading one batch ahead."""
        items, step = self.plan.items.items, self.plan.batch_size
        read = lambda place: read_original(items[place], place, self.plan.protocol)  # noqa: E731
        with ThreadPoolExecutor(READERS) as pool:
            ahead = [pool.submit(read, place) for place in places[:step]]
            for start in range(0, len(places), step):
                batch, ahead = ahead, [
                    pool.submit(read, place) for place in places[start + step : start + 2 * step]
                ]  # fmt: skip
                yield [one.result() for one in batch]

    # -- resume --------------------------------------------------------------------------------

    def _save(self, key: str, done: int) -> None:
        facts = {
            "done": done, "judged": self.judge.judged, "failed": self.judge.failed.items,
            "sees_originals": self.judge.sees_originals,
        }  # fmt: skip
        self.checkpoint.save(key, self.judge.states(), facts)

    def _resumed(self, leg: Leg, key: str) -> int:
        kept = self.checkpoint.load(key)
        if kept is None:
            return 0
        states, facts = kept
        self.judge.set_states(states)
        self.judge.judged, self.judge.sees_originals = facts["judged"], facts["sees_originals"]
        self.judge.failed = Failed([(index, reason) for index, reason in facts["failed"]])
        done = int(facts["done"])
        say(f"{leg.name}: going on after {done} of {len(self.block)} items")
        return done

    # -- together ------------------------------------------------------------------------------

    def _merged(self, leg: Leg) -> tuple[list[Score], dict[str, Any]]:
        """Merge all processes' states into the main one's metrics and compute."""
        judge = self.judge
        if self.processes.world > 1:
            own = {name: _own(judge.states(), name) for name in judge.parts()}
            every = self.processes.gathered((own, judge.judged, judge.failed.items))
            if not self.processes.main:
                return [], {}
            for name, metric in judge.parts().items():
                merged = merged_states(metric, [one[0][name] for one in every])
                judge.set_states({f"{name}|{key}": value for key, value in merged.items()})
            judge.judged = sum(one[1] for one in every)
            judge.failed = Failed([item for one in every for item in one[2]])
        names = [item.name for item in self.plan.items.items]
        return LegScores(
            judge, leg.contestant, leg.budget, names=names, items=self.plan.items.sha256,
            seed=self.plan.seed, extra_warnings=self.plan.warnings,
        ).all()  # fmt: skip


def _own(states: States, name: str) -> States:
    return {key.partition("|")[2]: value for key, value in states.items()
            if key.partition("|")[0] == name}  # fmt: skip


def _note(extras: dict[str, Any], leg: Leg, curves: dict[str, Any]) -> None:
    """Add what plots and reports draw of a leg."""
    contestant = leg.contestant
    extras["contestants"][contestant.name] = {
        "parameters": contestant.parameters, "weights": contestant.weights_hash,
        "codes": contestant.code_hash, **contestant.identity,
    }  # fmt: skip
    counts = {key.partition("codes/counts")[2].strip("/") or "codes": value
              for key, value in curves.items() if key.startswith("codes/counts")}  # fmt: skip
    if counts:
        only = len(counts) == 1
        extras["histograms"][leg.name] = next(iter(counts.values())) if only else counts
    rest = {key: value for key, value in curves.items() if not key.startswith("codes/counts")}
    if rest:
        extras["curves"][leg.name] = rest


def damaged(items: Sequence[Item], protocol: Protocol) -> list[tuple[Item, str]]:
    """Return the items that cannot be read as the protocol wants them, each with the reason."""
    from eval.item_list import scan

    return scan(items, lambda item: read_original(item, 0, protocol))
