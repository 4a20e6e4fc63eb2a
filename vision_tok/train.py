"""Train an image tokenizer.

    accelerate launch -m vision_tok.train --config assets/configs/smoke.yaml --data photos/
    python -m vision_tok.train --config recipe.yaml --set train.steps=1000 --out runs/mine --resume

The run folder holds config.yaml (resolved), metrics.jsonl, checkpoints/, the tracker's files and,
at the end, model/ (the averaged weights, ready for `tok_core.load`).
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tok_core.errors import ConfigError
from tok_core.training.launch import Sense, TrainingRun, command, fixed_samples, train_run
from vision_tok.contrastive_semantics import TEACHER_FEATURE
from vision_tok.image_data import ImageDataConfig, open_images
from vision_tok.image_objective import ImageObjectiveConfig, build_objective


@dataclass(frozen=True, kw_only=True)
class ImageRun(TrainingRun):
    """Everything an image training run is made of; a recipe in assets/configs states it.

    Attributes:
        validation_images: pictures scored and shown at fixed ids.
    """

    name: str = "image-run"
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
    return train_run(image_sense(), config, folder, resume=resume)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: return 0, 2 for a user's mistake (one sentence), 130 when interrupted."""
    return command(image_sense(), arguments)


def check_model(config: ImageRun, model: Any) -> None:
    """Raise `ConfigError` where the objective asks for what the model's forward does not take."""
    takes = inspect.signature(model.forward).parameters
    if config.objective.contrastive_weight > 0 and TEACHER_FEATURE not in takes:
        raise ConfigError(
            f"objective.contrastive_weight is {config.objective.contrastive_weight} but "
            f"{type(model).__name__} compares no teacher's feature with its tokens; train RobusTok,"
            " or set the weight to 0"
        )


def image_sense() -> Sense:
    """Return what `tok_core.training.launch` needs to know of these trainings."""
    return Sense(
        program="vision_tok.train",
        description="Train an image tokenizer from a recipe.",
        data_help="image folder, tar shards or 'procedural'",
        run=ImageRun,
        open_source=open_images,
        build_objective=build_objective,
        make_monitor=_monitor,
        units="images",
        check=check_model,
    )


def _monitor(config: ImageRun, objective: Any) -> Any:
    """Choose how to look at the model: fixed pictures; stage 1 paints through its teacher."""
    from vision_tok.validation import ImageMonitor, SilentMonitor

    if config.validation_images < 1:
        return SilentMonitor()
    source = open_images(config.data, validation=True)
    pictures = fixed_samples(source, config.validation_images, "picture")
    return ImageMonitor(pictures, teacher=getattr(objective, "teacher", None))


if __name__ == "__main__":
    sys.exit(main())
