"""Train an image tokenizer.

    accelerate launch -m vision_tok.train --config assets/configs/smoke.yaml --data photos/
    python -m vision_tok.train --config recipe.yaml --set train.steps=1000 --out runs/mine --resume

The run folder holds config.yaml (resolved), metrics.jsonl, checkpoints/, the tracker's files and,
at the end, model/ (the averaged weights, ready for `tok_core.load`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tok_core.errors import ConfigError, MediaError, TesseraError
from tok_core.run_config import flatten, load_config, read_recipe, to_mapping, to_yaml
from tok_core.training.config import ModelConfig
from tok_core.training.engine import Engine, EngineConfig, make_accelerator
from vision_tok.image_data import ImageDataConfig, open_images
from vision_tok.image_objective import ImageObjectiveConfig

if TYPE_CHECKING:
    from torch import Tensor

STOPPED = 130  # exit code after Ctrl-C, as shells have it
ATTEMPTS = 32  # unreadable files passed over while gathering the validation pictures


@dataclass(frozen=True, kw_only=True)
class ImageRun(EngineConfig):
    """Everything an image training run is made of; a recipe in assets/configs states it.

    Attributes:
        name: names the run folder ``runs/NAME`` when ``--out`` is not given.
        validation_images: pictures scored and shown at fixed ids.
    """

    name: str = "image-run"
    model: ModelConfig = field(default_factory=ModelConfig)
    data: ImageDataConfig = field(default_factory=ImageDataConfig)
    objective: ImageObjectiveConfig = field(default_factory=ImageObjectiveConfig)
    validation_images: int = 32


def train(config: ImageRun, folder: Path, *, resume: bool = False) -> Path | None:
    """Run one training; return the folder of the exported model, None when interrupted.

    Args:
        config: as `load_config` makes it.
        folder: run folder, made when missing.
        resume: continue from its newest checkpoint (from the start when there is none).

    Raises:
        TesseraError: anything a user can put right, in one sentence.

    Example:
        >>> train(load_config(ImageRun, "smoke.yaml"), Path("runs/smoke"))  # doctest: +SKIP
    """
    from tok_core.training.distributed import seed_process
    from tok_core.training.model_building import build_model
    from vision_tok.image_objective import build_objective

    changed = _prepare_folder(config, folder, resume)
    accelerator = make_accelerator(config, folder)
    seed_process(config.train.seed, 0)  # every process builds the same model
    model = build_model(config.model)
    objective = build_objective(config.objective)
    source = open_images(config.data)
    if accelerator.is_main_process:
        (folder / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
        for line in changed:
            print(f"changed since the run began: {line}", flush=True)
        _introduce(model, source, config, accelerator)
    monitor = _monitor(config, objective)
    engine = Engine(config, model, objective, source, monitor, folder, accelerator)
    return engine.run(resume=resume)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: return 0, 2 for a user's mistake (one sentence), 130 when interrupted."""
    from tok_core.training.distributed import end_processes

    options = _parser().parse_args(arguments)
    try:
        config = load_config(ImageRun, options.config, options.set)
        if options.data is not None:
            config = replace(config, data=replace(config.data, path=options.data))
        folder = Path(options.out) if options.out else Path("runs") / config.name
        model = train(config, folder, resume=options.resume)
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vision_tok.train", description="Train an image tokenizer from a recipe."
    )
    parser.add_argument("--config", required=True, help="recipe, a YAML file")
    parser.add_argument("--data", help="image folder, tar shards or 'procedural'; sets data.path")
    parser.add_argument("--out", help="run folder; default runs/NAME with the recipe's name")
    parser.add_argument(
        "--set", action="append", default=[], metavar="A.B=C", help="change one key of the recipe"
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue from the newest checkpoint of --out"
    )
    return parser


def _prepare_folder(config: ImageRun, folder: Path, resume: bool) -> list[str]:
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


def _monitor(config: ImageRun, objective: Any) -> Any:
    """Choose how to look at the model: fixed pictures; stage 1 paints through its teacher."""
    from vision_tok.validation import ImageMonitor, SilentMonitor

    if config.validation_images < 1:
        return SilentMonitor()
    return ImageMonitor(_fixed_pictures(config), teacher=getattr(objective, "teacher", None))


def _fixed_pictures(config: ImageRun) -> Tensor:
    """Gather the validation pictures: the first readable ones of the validation source."""
    import torch

    source = open_images(config.data, validation=True)
    found: list[Tensor] = []
    failures: list[str] = []
    end = config.validation_images + ATTEMPTS
    if source.length is not None:
        end = min(end, source.length)
    for index in range(end):
        if len(found) == config.validation_images:
            break
        try:
            found.append(torch.as_tensor(source.item(index)))
        except MediaError as error:
            failures.append(str(error))
    if not found:
        raise MediaError(f"no validation picture can be read, the first: {failures[0]}")
    return torch.stack(found)


def _introduce(model: Any, source: Any, config: ImageRun, accelerator: Any) -> None:
    count = sum(parameter.numel() for parameter in model.parameters())
    size = "endless" if source.length is None else f"{source.length}"
    train = config.train
    batch = train.batch_size * train.accumulation * accelerator.num_processes
    print(
        f"{type(model).__name__}, {count / 1e6:.2f}M parameters, {size} images, {train.steps} "
        f"steps of {batch} on {accelerator.num_processes} x {accelerator.device}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
