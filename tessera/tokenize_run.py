"""One run of `tessera tokenize`: list, plan, parts, shards, index, and the report.

    input --list--> sources --plan--> parts --crew--> shards --all there--> index.json
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tessera import files
from tessera.tokenize_captions import is_short_caption
from tessera.tokenize_crew import Crew, OwnProcess, SeveralProcesses
from tessera.tokenize_signals import Signals, open_signals
from tessera.tokenize_sources import sense_of_input, write_sources
from tessera.tokenize_worker import PartMaker, Speed, steady_numbers
from tok_core.errors import ConfigError, TesseraError
from tok_core.progress_bar import progress_bar
from tok_core.shard_index import ShardHead, read_index
from tok_core.shard_plan import ShardPlan
from tok_core.shard_run import SOURCES, ShardRun

if TYPE_CHECKING:
    from tok_core.contract import Tokenizer

_MOST_PROCESSES = 16  # by default: each holds the model
_MOST_READERS = 16  # threads of one process
_TIMED_SHARE, _TIMED_SECONDS = 0.1, 2.0  # of the run, at most, spent on timing the network alone


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asked for; see the options of the command."""

    input: str
    output: str
    model: str | None = None
    views: str | None = None
    captions: bool = False
    size: int | None = None
    per_shard: int = 10_000
    batch_size: int = 16
    processes: int | None = None
    device: str = "auto"
    resume: bool = False
    force: bool = False


@dataclass
class Outcome:
    """What happened.

    Attributes:
        facts: model, hashes, device.
        files: that this run finished, broken ones included. total: of the whole input.
        samples: in the shards, all runs together.
        shards: rows ``{"file", "samples", "bytes", "sha256"}``; empty until the index is there.
        failures: ``{"source", "error"}`` of broken files, all runs together; a broken short
            caption is one, though its sample is in the shards.
        seconds: of this run's work, without loading the model.
        model_files_per_second: of the network alone, all processes together.
    """

    facts: dict[str, Any]
    files: int = 0
    total: int = 0
    samples: int = 0
    shards: list[dict[str, Any]] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)
    seconds: float = 0.0
    model_files_per_second: float = 0.0
    interrupted: bool = False
    stopped: str | None = None
    nothing_left: bool = False

    @property
    def files_per_second(self) -> float:
        """Files of this run per second, reading and writing included."""
        return self.files / self.seconds if self.seconds else 0.0

    @property
    def ratio(self) -> float | None:
        """Share of the network's own speed that the whole run reaches."""
        if not self.model_files_per_second:
            return None
        return self.files_per_second / self.model_files_per_second

    @property
    def exit_code(self) -> int:
        """0 when every file is in the shards, 130 after Ctrl-C, else 1."""
        return 130 if self.interrupted else int(bool(self.failures or self.stopped))

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        ratio = self.ratio
        return {
            **self.facts, "files": self.files, "total": self.total, "samples": self.samples,
            "shards": self.shards, "failures": self.failures, "seconds": round(self.seconds, 4),
            "files_per_second": round(self.files_per_second, 3),
            "model_only_files_per_second": round(self.model_files_per_second, 3),
            "ratio": None if ratio is None else round(ratio, 4),
            "interrupted": self.interrupted, "stopped": self.stopped,
        }  # fmt: skip


def tokenize(request: Request) -> Outcome:
    """Tokenize a folder, a glob or tar shards to token shards.

    Raises:
        TesseraError: the output is taken, the input holds nothing, options that do not fit.
    """
    from tessera.models import default_model, load_tokenizer
    from tok_core.shipped_models import find_device

    files.check_inputs([request.input])
    out = Path(request.output).expanduser()
    with ShardRun(out, resume=request.resume, force=request.force) as run:
        name = request.model or default_model(sense_of_input(request.input, out))
        device = find_device(request.device)
        kind = device.partition(":")[0]
        with steady_numbers(kind):
            tokenizer = load_tokenizer(name)
            signals = open_signals(
                tokenizer, views=request.views, batch_size=request.batch_size, size=request.size
            )
            outcome = Outcome({
                "folder": str(out), "model": name, "class": type(tokenizer).__name__,
                "code_hash": tokenizer.code_hash(), "weights_hash": tokenizer.weights_hash(),
                "device": device,
            })  # fmt: skip
            if run.finished:
                return _already(outcome, out, signals)
            facts = _facts(request, outcome, signals, kind)
            if run.plan is None:
                _begin(run, request, tokenizer, signals, name, facts)
            else:
                run.check_facts(facts)
            run.assemble_all()
            parts = run.missing()
            crew = _crew(run, request, tokenizer, signals, name, device, parts)
            return _work(run, crew, parts, outcome)


def _facts(
    request: Request, outcome: Outcome, signals: Signals, device: str
) -> dict[str, Any]:
    """Return what a resumed run must repeat, in words of the command line."""
    return {
        "input": os.path.abspath(os.path.expanduser(request.input)),
        "code hash": outcome.facts["code_hash"], "weights hash": outcome.facts["weights_hash"],
        "views": list(signals.views), "--per-shard": request.per_shard,
        "--batch-size": request.batch_size, "device": device, "--captions": request.captions,
        "--size": request.size,
    }  # fmt: skip


def _begin(
    run: ShardRun, request: Request, tokenizer: Tokenizer, signals: Signals, name: str,
    facts: dict[str, Any],
) -> None:  # fmt: skip
    listed = run.work / ("new-" + SOURCES)
    found = write_sources(listed, request.input, signals.readable, run.folder)
    head = ShardHead(
        spec=tokenizer.spec, code_hash=tokenizer.code_hash(),
        weights_hash=tokenizer.weights_hash(), views=signals.views,
        class_names=None if found.class_names is None else tuple(found.class_names),
        facts={"model": name, "class": type(tokenizer).__name__},
    )  # fmt: skip
    plan = ShardPlan(
        sources=found.sources, per_shard=request.per_shard, per_part=signals.part_size,
        head=head.to_json(), facts=facts, skipped=found.skipped,
    )  # fmt: skip
    run.begin(plan, sources=listed)


def _crew(
    run: ShardRun, request: Request, tokenizer: Tokenizer, signals: Signals, name: str,
    device: str, parts: list[int],
) -> Crew:  # fmt: skip
    devices = _devices(device, request.processes, len(parts))
    readers = min(_MOST_READERS, max(2, _cores() // len(devices)))
    if len(devices) == 1:
        tokenizer.to(devices[0])  # type: ignore[arg-type]
        maker = PartMaker(run, signals, threads=readers, captions=request.captions)
        return OwnProcess(maker, parts)
    job = {
        "folder": str(run.folder), "model": name, "views": request.views,
        "batch_size": request.batch_size, "threads": readers, "captions": request.captions,
        "size": request.size,
    }  # fmt: skip
    return SeveralProcesses(job, parts, devices)


def _devices(device: str, processes: int | None, parts: int) -> list[str]:
    """Return the device of each process; no more processes than parts."""
    import torch

    kind, _, number = device.partition(":")
    many = kind == "cuda" and not number
    gpus = torch.cuda.device_count() if many else 1
    if processes is None:
        processes = gpus if kind != "cpu" else min(_MOST_PROCESSES, _cores())
    count = max(1, min(processes, parts))
    return [f"cuda:{rank % gpus}" if many and gpus > 1 else device for rank in range(count)]


def _cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _work(run: ShardRun, crew: Crew, parts: list[int], outcome: Outcome) -> Outcome:
    assert run.plan is not None
    outcome.total = run.plan.sources
    done = outcome.total - sum(len(run.plan.sources_of(part)) for part in parts)
    start = time.perf_counter()
    try:
        if parts:
            crew.prepare()
        start = time.perf_counter()
        with progress_bar(outcome.total, "tokenized", done=done) as advance:
            for event in crew.make() if parts else ():
                if "part" in event:
                    run.assemble(event["part"])
                else:
                    outcome.files += event["files"]
                    advance(event["files"])
        outcome.seconds = time.perf_counter() - start
        if parts:
            seconds = min(_TIMED_SECONDS, _TIMED_SHARE * outcome.seconds)
            outcome.model_files_per_second = _joined(crew.speeds(seconds))
        return _finish(run, outcome)
    except KeyboardInterrupt:
        outcome.interrupted = True
    except TesseraError as error:
        outcome.stopped = str(error)
    finally:
        crew.close()
    outcome.seconds = outcome.seconds or time.perf_counter() - start
    outcome.failures = run.skipped()
    return outcome


def _joined(speeds: list[Speed]) -> float:
    """Return files per second of all processes together, by the mean size of their files."""
    amount = sum(speed.amount for speed in speeds)
    if not amount:
        return 0.0
    rate = sum(speed.amount_per_second for speed in speeds)
    return rate * sum(speed.files for speed in speeds) / amount


def _finish(run: ShardRun, outcome: Outcome) -> Outcome:
    index = run.finish()
    return _with_index(outcome, index)


def _with_index(outcome: Outcome, index: Any) -> Outcome:
    outcome.shards = [
        {"file": s.file, "samples": s.samples, "bytes": s.bytes, "sha256": s.sha256}
        for s in index.shards
    ]
    outcome.samples = sum(shard.samples for shard in index.shards)
    outcome.failures = [dict(item) for item in index.skipped]
    return outcome


def _already(outcome: Outcome, out: Path, signals: Signals) -> Outcome:
    """Report on whole shards, or refuse them where they are another run's."""
    index = read_index(out)
    if index.head.code_hash != outcome.facts["code_hash"] or index.head.views != signals.views:
        raise ConfigError(
            f"'{out}' holds whole shards of another model or other views, which --resume does not "
            "change; use --force to replace them or choose another folder"
        )
    outcome.nothing_left = True
    lost = [item for item in index.skipped if not is_short_caption(item["source"])]
    outcome.total = sum(shard.samples for shard in index.shards) + len(lost)
    return _with_index(outcome, index)
