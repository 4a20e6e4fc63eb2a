"""What a run is made of, apart from its data and losses, which belong to one sense.

Sizes: ``batch_size`` is per process; one optimizer step sees batch_size x accumulation x
processes samples.  Steps are optimizer steps everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from tok_core.errors import ConfigError

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Amount = Annotated[float, Field(ge=0.0)]
# YAML reads a bare `no`, accelerate's own word for this, as false.
Precision = Annotated[
    Literal["none", "bf16", "fp16"],
    BeforeValidator(lambda value: "none" if value in (False, "no") else value),
]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which model is trained: a class with its config, a folder to start from, or both.

    Attributes:
        class_: name of an entry point of group ``tessera.models``; not needed with ``from``.
        config: keyword arguments of that class; with ``from``, what differs from its config.
        from_: folder or hub id whose weights are the start.
        parts: prefixes of parameters that ``from`` lacks, and where they come from:
            ``FOLDER#PREFIX`` takes them from under PREFIX of another model, ``fresh`` leaves them
            as initialised.  Stage 2 puts its teacher's decoder in this way.
    """

    class_: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    from_: str | None = None
    parts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW; the defaults are those of the official One-D-Piece stage 1."""

    lr: Amount = 1e-4
    betas: tuple[Fraction, Fraction] = (0.9, 0.99)
    weight_decay: Amount = 1e-4
    eps: Annotated[float, Field(gt=0.0)] = 1e-8


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How the learning rate moves; ``discriminator_schedule`` is counted from its first step.

    Attributes:
        kind: ``steps``: linear warm-up from 0, then a half cosine to ``end_lr`` over the optimizer
            steps.  ``epochs``: one rate per epoch, see `schedule.epoch_learning_rate` (XQ-GAN and
            RobusTok).
        warmup: of kind ``steps``, in steps.
        end_lr: rate at the end.
        epoch_steps: optimizer steps of one epoch, for kind ``epochs`` (ImageNet at a global batch
            of 1024: 1251).
        warmup_epochs: of kind ``epochs``.
        start_lr: rate of its first epoch.
    """

    kind: Literal["steps", "epochs"] = "steps"
    warmup: Count = 0
    end_lr: Amount = 0.0
    epoch_steps: Count = 0
    warmup_epochs: Count = 1
    start_lr: Amount = 1e-5

    def __post_init__(self) -> None:
        if self.kind == "epochs" and not self.epoch_steps:
            raise ConfigError(
                "schedule.kind is 'epochs' but schedule.epoch_steps is 0; give the optimizer steps "
                "of one epoch (pictures / (batch_size x accumulation x processes))"
            )
        if self.kind == "epochs" and self.warmup:
            raise ConfigError(
                f"schedule.warmup is {self.warmup} steps but schedule.kind is 'epochs'; give "
                "warmup_epochs instead"
            )
        if self.kind == "steps" and self.epoch_steps:
            raise ConfigError(
                f"schedule.epoch_steps is {self.epoch_steps} but schedule.kind is 'steps'; set the "
                "kind to 'epochs', or leave epoch_steps out"
            )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, how much at once, and what stands still.

    Attributes:
        steps: optimizer steps.
        batch_size: samples per process and forward pass.
        accumulation: forward passes per optimizer step.
        clip: largest gradient norm; 0 never clips.
        mixed_precision: autocast of the model's forward; losses stay in float32.
        ema_decay: decay the averaged weights approach; 0 exports the trained weights themselves.
        freeze: prefixes of parameters that stand still.
        train_only: ``decoder`` (all that does not decide codes), or prefixes; all else is frozen.
        fsdp: shard weights, gradients and moments over the processes (FSDP2), for models that do
            not fit one GPU; ``accelerate launch --use_fsdp`` does the same.
        device: ``auto`` takes a GPU when there is one.
        find_unused_parameters: DDP's search; needed whenever a step may leave some parameter out.
        workers: loader processes per training process; 0 loads in the loop.
    """

    steps: Positive
    batch_size: Positive
    accumulation: Positive = 1
    clip: Amount = 1.0
    mixed_precision: Precision = "none"
    ema_decay: Fraction = 0.999
    gradient_checkpointing: bool = False
    compile: bool = False
    fsdp: bool = False
    seed: Count = 42
    freeze: tuple[str, ...] = ()
    train_only: Literal["decoder"] | tuple[str, ...] | None = None
    device: Literal["auto", "cpu"] = "auto"
    find_unused_parameters: bool = True
    workers: Count = 0


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """How often a run speaks, looks at itself and saves; all in optimizer steps, 0 = never.

    Attributes:
        every: losses to the tracker, metrics.jsonl and the terminal.
        validate_every: scores at fixed ids (also at the end).
        pictures_every: reconstruction grids and codebook usage per position to the tracker.
        save_every: checkpoints (also at the end).
        keep_last: checkpoints kept on disk.
        tracker: an accelerate tracker; ``none`` leaves metrics.jsonl alone.
    """

    every: Positive = 50
    validate_every: Count = 1000
    pictures_every: Count = 1000
    save_every: Count = 1000
    keep_last: Positive = 2
    tracker: Literal["tensorboard", "wandb", "none"] = "tensorboard"


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """The model written to ``model/`` at the end: the averaged weights in this storage type."""

    dtype: Literal["float32", "float16"] = "float32"
