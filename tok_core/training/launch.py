"""What the training programs of all senses share: options, run folder, start, end and exit codes.

A sense says what differs in one `Sense`; its ``train.py`` is that and its run config.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tok_core.errors import ConfigError, MediaError, TesseraError
from tok_core.run_config import flatten, load_config, read_recipe, to_mapping, to_yaml
from tok_core.training.config import ModelConfig
from tok_core.training.engine import Engine, EngineConfig, make_accelerator

STOPPED = 130  # exit code after Ctrl-C, as shells have it
ATTEMPTS = 32  # unreadable files passed over while gathering the validation samples


@dataclass(frozen=True, kw_only=True)
class TrainingRun(EngineConfig):
    """What every run config has; a sense adds its data and its objective.

    Attributes:
        name: names the run folder ``runs/NAME`` when ``--out`` is not given.
    """

    name: str = "run"
    model: ModelConfig = field(default_factory=ModelConfig)


@dataclass(frozen=True)
class Sense:
    """What a training program needs to know of its sense.

    Attributes:
        program: its name, as in ``python -m``.
        description: one sentence for ``--help``.
        data_help: what ``--data`` takes.
        run: class of the run config; it has ``data`` (with a ``path``) and ``objective``.
        open_source: training samples from ``config.data``.
        build_objective: losses from ``config.objective``.
        make_monitor: how to look at the model, from the run config and the objective.
        units: what samples are called, in the plural.
        check: called with the run config and the model before training; raises `ConfigError`.
        complete: returns the run config with what follows from the data.
    """

    program: str
    description: str
    data_help: str
    run: type[Any]
    open_source: Callable[[Any], Any]
    build_objective: Callable[[Any], Any]
    make_monitor: Callable[[Any, Any], Any]
    units: str
    check: Callable[[Any, Any], None] | None = None
    complete: Callable[[Any], Any] | None = None


def train_run(sense: Sense, config: Any, folder: Path, *, resume: bool = False) -> Path | None:
    """Run one training; return the folder of the exported model, None when interrupted.

    Args:
        sense: what is trained.
        config: a ``sense.run``, as `load_config` makes it.
        folder: run folder, made when missing.
        resume: continue from its newest checkpoint (from the start when there is none).

    Raises:
        TesseraError: anything a user can put right, in one sentence.
    """
    from tok_core.training.distributed import seed_process
    from tok_core.training.model_building import build_model

    if sense.complete is not None:
        config = sense.complete(config)
    changed = _prepare_folder(config, folder, resume)
    accelerator = make_accelerator(config, folder)
    seed_process(config.train.seed, 0)  # every process builds the same model
    model = build_model(config.model)
    if sense.check is not None:
        sense.check(config, model)
    objective = sense.build_objective(config.objective)
    source = sense.open_source(config.data)
    if accelerator.is_main_process:
        (folder / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
        for line in changed:
            print(f"changed since the run began: {line}", flush=True)
        _introduce(model, source, config, accelerator, sense.units)
    monitor = sense.make_monitor(config, objective)
    engine = Engine(config, model, objective, source, monitor, folder, accelerator)
    return engine.run(resume=resume)


def command(sense: Sense, arguments: Sequence[str] | None = None) -> int:
    """Command line: return 0, 2 for a user's mistake (one sentence), 130 when interrupted."""
    from tok_core.training.distributed import end_processes

    options = _parser(sense).parse_args(arguments)
    try:
        data = [] if options.data is None else [f"data.path={json.dumps(options.data)}"]
        config = load_config(sense.run, options.config, [*options.set, *data])
        folder = Path(options.out) if options.out else Path("runs") / config.name
        model = train_run(sense, config, folder, resume=options.resume)
    except TesseraError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return STOPPED
    finally:
        end_processes()
    if model is None:
        return STOPPED
    print(f"model written to {model}", flush=True)
    return 0


def fixed_samples(source: Any, count: int, what: str) -> Any:
    """Gather the first ``count`` readable samples of a validation source.

    Args:
        source: with ``item`` and ``length``.
        count: at most so many.
        what: one sample's name, for the error.

    Returns:
        (B, ...), at least one sample, or a named tuple of such where a sample is one.

    Raises:
        MediaError: none can be read.
    """
    from tok_core.training.data_order import stacked

    found: list[Any] = []
    failures: list[str] = []
    end = count + ATTEMPTS
    if source.length is not None:
        end = min(end, source.length)
    for index in range(end):
        if len(found) == count:
            break
        try:
            found.append(source.item(index))
        except MediaError as error:
            failures.append(str(error))
    if not found:
        raise MediaError(f"no validation {what} can be read, the first: {failures[0]}")
    return stacked(found)


def _parser(sense: Sense) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=sense.program, description=sense.description)
    parser.add_argument("--config", required=True, help="recipe, a YAML file")
    parser.add_argument("--data", help=f"{sense.data_help}; sets data.path")
    parser.add_argument("--out", help="run folder; default runs/NAME with the recipe's name")
    parser.add_argument(
        "--set", action="append", default=[], metavar="A.B=C", help="change one key of the recipe"
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue from the newest checkpoint of --out"
    )
    return parser


def _prepare_folder(config: TrainingRun, folder: Path, resume: bool) -> list[str]:
    """Make the run folder; refuse to overwrite a run; say what differs from the one resumed."""
    from tok_core.training.checkpoint import latest_checkpoint

    last = latest_checkpoint(folder / "checkpoints")
    if last is not None and not resume:
        raise ConfigError(
            f"{folder} already holds a run up to {last.name}; add --resume to continue it, or "
            "choose another --out"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the run folder {folder} cannot be made ({error.strerror})") from None
    if last is None or not (folder / "config.yaml").is_file():
        return []
    before = flatten(read_recipe(folder / "config.yaml"))
    now = flatten(to_mapping(config))
    return [
        f"{key} {before.get(key)!r} -> {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)
    ]


def _introduce(
    model: Any, source: Any, config: TrainingRun, accelerator: Any, units: str
) -> None:
    count = sum(parameter.numel() for parameter in model.parameters())
    size = "endless" if source.length is None else f"{source.length}"
    train = config.train
    batch = train.batch_size * train.accumulation * accelerator.num_processes
    print(
        f"{type(model).__name__}, {count / 1e6:.2f}M parameters, {size} {units}, {train.steps} "
        f"steps of {batch} on {accelerator.num_processes} x {accelerator.device}",
        flush=True,
    )
