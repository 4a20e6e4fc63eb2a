"""The training loop, top to bottom.

    positions --> batch x --> model(x) --> objective --> backward --> clip --> AdamW --> average
                                 |
                                 +-- same output, detached --> discriminator --> AdamW

Letters: one *step* is one optimizer step over batch_size x accumulation x processes samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from tok_core.contract import Tokenizer, TrainingOutput
from tok_core.errors import ConfigError
from tok_core.perturbation_config import PerturbationConfig
from tok_core.run_config import to_mapping
from tok_core.token_pairs import parts_of
from tok_core.training import run_state, sharding
from tok_core.training.config import (
    ExportConfig,
    LogConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
)
from tok_core.training.data_order import Batch, Source, batches
from tok_core.training.distributed import (
    mean_over_processes,
    untouched_random_state,
    without_buffer_warning,
    wrap_discriminator,
)
from tok_core.training.ema import AveragedModel
from tok_core.training.finite import check_finite, clip_gradients
from tok_core.training.freezing import freeze, set_training
from tok_core.training.interrupt import Interrupt
from tok_core.training.logging import RunLog, SoundSample
from tok_core.training.objective import Objective
from tok_core.training.position_usage import PositionUsage, usage_picture
from tok_core.training.progress import TrainingProgress
from tok_core.training.schedule import epoch_learning_rate, learning_rate
from tok_core.training.weight_decay import decay_groups, decays
from tok_core.training_perturbation import TrainingPerturbation, attach_perturbation


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """The part of a run config that the engine reads; a sense adds its data and objective.

    Attributes:
        perturbation: latent perturbation of a tokenizer's codes in training; None has none.
    """

    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    discriminator_optimizer: OptimizerConfig | None = None
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    discriminator_schedule: ScheduleConfig | None = None
    train: TrainConfig
    log: LogConfig = field(default_factory=LogConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    perturbation: PerturbationConfig | None = None

    def __post_init__(self) -> None:
        if self.perturbation is not None:
            self.perturbation.check_batch(self.train.batch_size)


class Monitor(Protocol):
    """How a sense looks at its model while it trains; ids are fixed for the whole run.

    A monitor may also have ``sounds(model)``, which returns named `SoundSample`s of the same ids.
    """

    unit: str

    def scores(self, model: Any) -> dict[str, float]:
        """Return named scores of the averaged model at the fixed ids."""

    def pictures(self, model: Any) -> dict[str, np.ndarray]:
        """Return named pictures, uint8 (H, W, 3), of the same ids."""


class Engine:
    """One training run: build it, then call `run`.

    Args:
        config: checked settings.
        model: a tokenizer on the CPU, float32; only its ``forward`` is trained.
        objective: losses, and the discriminator where there is one.
        source: where samples come from.
        monitor: how to look at the model.
        folder: run folder; checkpoints, metrics and the exported model go there.
        accelerator: as made by `make_accelerator`.

    Raises:
        TesseraError: NaN or Inf, unreadable data, full disk, a checkpoint that does not fit.

    Example:
        >>> Engine(config, model, objective, source, monitor, folder, accelerator).run()
        ... # doctest: +SKIP
    """

    def __init__(
        self, config: EngineConfig, model: nn.Module, objective: Objective, source: Source,
        monitor: Monitor, folder: Path, accelerator: Accelerator,
    ) -> None:
        self.config, self.train, self.accelerator = config, config.train, accelerator
        self.source, self.monitor, self.folder = source, monitor, folder
        self.step = 0
        self.discriminator_steps = 0
        self.position = 0
        self.skipped: list[str] = []

        self.frozen = freeze(model, prefixes=self.train.freeze, train_only=self.train.train_only)
        if self.train.gradient_checkpointing:
            _enable_gradient_checkpointing(model)
        if accelerator.is_fsdp2:
            sharding.name_blocks(accelerator, model)
            structure = sharding.structure_of(model)
        self.plain = model.to(accelerator.device)
        self.objective = objective.to(accelerator.device)
        if not accelerator.is_fsdp2:
            self.average = AveragedModel(self.plain, self.train.ema_decay)
        self.perturbation: TrainingPerturbation | None = None
        if config.perturbation is not None:
            self.perturbation = attach_perturbation(self.plain, config.perturbation)
        if self.train.compile:
            # On CPUs torch fails on attention of free lengths (tail drop); None frees what changes.
            model.compile(dynamic=False if accelerator.device.type == "cpu" else None)
        with without_buffer_warning():
            self.model, self.optimizer = accelerator.prepare(
                self.plain, _adamw(self.plain, config.optimizer)
            )
        if accelerator.is_fsdp2:
            self.average = sharding.ShardedAverage(structure, self.plain, self.train.ema_decay)
        set_training(self.plain, self.frozen)
        self.objective.train()

        self.discriminator_optimizer = None
        if objective.discriminator is not None:
            self.critic_config = config.discriminator_optimizer or config.optimizer
            self.discriminator_optimizer = accelerator.prepare(
                _adamw(objective.discriminator, self.critic_config)
            )
            self.critic = wrap_discriminator(objective, accelerator)
            active = map(objective.discriminator_active, range(self.train.steps))
            self.discriminator_total = sum(active)
        self.usage = PositionUsage.of(self.plain) if isinstance(self.plain, Tokenizer) else None

    def run(self, *, resume: bool = False) -> Path | None:
        """Train to the last step; return the exported model's folder, None when interrupted."""
        accelerator, config = self.accelerator, self.config.log
        log = RunLog(accelerator, self.folder, config.tracker, to_mapping(self.config))
        resumed = run_state.restore(self) if resume else None
        if resume:
            log.forget_after(self.step)
        data = batches(
            self.source, seed=self.train.seed, start=self.position,
            batch_size=self.train.batch_size, process=accelerator.process_index,
            processes=accelerator.num_processes, workers=self.train.workers,
            pin_memory=accelerator.device.type == "cuda",
        )
        quiet = not accelerator.is_main_process
        progress = TrainingProgress(
            steps=self.train.steps, done=self.step, unit=self.monitor.unit, quiet=quiet
        )
        with progress, Interrupt() as interrupt:
            # Last of all: libraries draw random numbers while they are imported.
            run_state.start_random_streams(self, resumed)
            if self.step:
                progress.say(f"resumed at step {self.step}")
            while self.step < self.train.steps:
                values = self._step(data, interrupted=interrupt.asked)
                stop = values.pop("interrupted") > 0
                progress.advance(self.step, self._samples_per_step())
                while self.perturbation and self.perturbation.remarks:
                    progress.say(self.perturbation.remarks.pop(0))
                last = self.step == self.train.steps
                if self.step % config.every == 0 or last:
                    values[f"{self.monitor.unit}_per_second"] = progress.throughput()
                    log.metrics(self.step, values)
                    progress.losses(values)
                if _due(self.step, config.validate_every, last):
                    scores = self._look(self.monitor.scores)
                    log.metrics(self.step, {f"validation/{k}": v for k, v in scores.items()})
                    shown = "  ".join(f"{name} {score:.2f}" for name, score in scores.items())
                    progress.say(f"step {self.step} validation  {shown}")
                if _due(self.step, config.pictures_every, last):
                    self._pictures(log)
                if _due(self.step, config.save_every, last) or stop:
                    run_state.save(self)
                if stop and not last:
                    progress.say(f"stopped at step {self.step}; continue with --resume")
                    break
                progress.resume_clock()
            skipped = self._report_skipped(progress)
        log.metrics(self.step, {"data/skipped": skipped})
        log.close()
        return run_state.export(self) if self.step >= self.train.steps else None

    def _step(self, data: Iterator[Batch], interrupted: bool) -> dict[str, float]:
        """One optimizer step of the model, then one of the discriminator on the same output."""
        accelerator, objective = self.accelerator, self.objective
        share = 1.0 / self.train.accumulation
        sums: dict[str, float | Tensor] = {"interrupted": float(interrupted)}
        kept: list[tuple[Tensor, TrainingOutput]] = []
        first: Tensor | None = None
        if objective.discriminator is not None:
            objective.discriminator.requires_grad_(False)
        if self.perturbation:
            self.perturbation.step = self.step
        objective.before_step(self.plain, self.step, self.train.steps)
        for turn in range(self.train.accumulation):
            batch = next(data)
            self.skipped += batch.skipped
            x, shown, given = parts_of(_on_device(batch.samples, accelerator.device))
            last = turn == self.train.accumulation - 1
            with nullcontext() if last else accelerator.no_sync(self.model):
                with self._precision():
                    inputs = objective.model_inputs(shown) | given
                    out = self.model(objective.model_input(shown), **inputs)
                if self.perturbation:
                    self.perturbation.check_asked(self.plain)
                losses = objective.generator_losses(x, out, self.step)
                total = torch.stack(list(losses.values())).sum()
                accelerator.backward(total * share)
            _add(sums, {**losses, "loss": total, **_scalars(out.statistics)}, share)
            _add(sums, _scalars(objective.last_statistics), share)
            first = first if first is not None else _first_tensor(x)
            if objective.discriminator is not None:
                kept.append((x, _detached(out)))
            if self.usage:
                self.usage.update(out.tokens.codes)
        rate = _rate(self.config.schedule, self.config.optimizer, self.step, self.train.steps)
        sums["learning_rate"] = rate
        sums["gradient_norm"] = clip_gradients(
            accelerator, self.optimizer, self.plain, self.train.clip
        )
        values = mean_over_processes(sums, accelerator)
        check_finite(values, self.plain, first, self.step, self.folder, accelerator)
        _apply(self.optimizer, rate)
        if self.discriminator_optimizer and objective.discriminator_active(self.step):
            values |= self._discriminator_step(kept, share)
        self.average.update(self.plain)
        self.step += 1
        self.position += self._samples_per_step()
        return values

    def _discriminator_step(
        self, kept: list[tuple[Tensor, TrainingOutput]], share: float
    ) -> dict[str, float]:
        """Train the discriminator on what the model made before it was updated."""
        accelerator, discriminator = self.accelerator, self.objective.discriminator
        assert discriminator is not None
        sums: dict[str, float | Tensor] = {}
        discriminator.requires_grad_(True)
        for turn, (x, out) in enumerate(kept):
            last = turn == len(kept) - 1
            with nullcontext() if last else accelerator.no_sync(self.critic):
                losses = self.critic(x, out, self.step)
                accelerator.backward(torch.stack(list(losses.values())).sum() * share)
            _add(sums, {**losses, **_scalars(self.objective.last_statistics)}, share)
        sums["discriminator/gradient_norm"] = clip_gradients(
            accelerator, self.discriminator_optimizer, discriminator, self.train.clip
        )
        schedule = self.config.discriminator_schedule or self.config.schedule
        rate = _rate(
            schedule, self.critic_config, self.discriminator_steps, self.discriminator_total
        )
        sums["discriminator/learning_rate"] = rate
        values = mean_over_processes(sums, accelerator)
        check_finite(values, discriminator, kept[0][0], self.step, self.folder, accelerator)
        _apply(self.discriminator_optimizer, rate)
        self.discriminator_steps += 1
        return values

    def _precision(self) -> Any:
        # accelerate wraps a forward in autocast itself, but not that of a sharded model.
        return self.accelerator.autocast() if self.accelerator.is_fsdp2 else nullcontext()

    def _samples_per_step(self) -> int:
        train = self.train
        return train.batch_size * train.accumulation * self.accelerator.num_processes

    def _look(self, look: Any) -> Any:
        """Look at the averaged model; every process looks, so that none waits for another."""
        quiet = untouched_random_state(self.accelerator)
        with torch.no_grad(), quiet, self.average.whole() as model:
            return look(model)

    def _pictures(self, log: RunLog) -> None:
        pictures = self._look(self.monitor.pictures)
        if self.usage:
            vocabulary = self.usage.codebook_size
            usage = self.usage.finish()
            pictures["codebook/usage_per_position"] = usage_picture(usage, vocabulary)
            log.metrics(self.step, {
                "codebook/used_per_position": usage.used,
                "codebook/perplexity_per_position": usage.perplexity,
                "codebook/used_at_worst_position": min(usage.used),
            })
        log.pictures(self.step, pictures)
        if hasattr(self.monitor, "sounds"):
            sounds: dict[str, SoundSample] = self._look(self.monitor.sounds)
            log.sounds(self.step, sounds)

    def _report_skipped(self, progress: TrainingProgress) -> int:
        """Count unreadable samples over all processes and name the files once each."""
        count = mean_over_processes({"skipped": float(len(self.skipped))}, self.accelerator)
        total = round(count["skipped"] * self.accelerator.num_processes)
        if total:
            progress.say(f"{total} unreadable samples were skipped and replaced:")
            for sentence in sorted(set(self.skipped))[:20]:
                progress.say(f"  {sentence}")
        return total


def make_accelerator(config: EngineConfig, folder: Path) -> Accelerator:
    """Make the accelerator a config asks for; raises `ConfigError` for what cannot work."""
    from accelerate import DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState

    from tok_core.training.logging import require_tracker

    require_tracker(config.log.tracker)
    precision = config.train.mixed_precision.replace("none", "no")
    cpu = config.train.device == "cpu" or not torch.cuda.is_available()
    sharded = sharding.sharding_asked(config.train.fsdp)
    if cpu and precision == "fp16":
        raise ConfigError(
            "train.mixed_precision is 'fp16', which needs a GPU; use 'bf16' or 'none' on a CPU"
        )
    AcceleratorState._reset_state()  # an earlier run in this process may have had another precision
    plugin = sharding.sharding_plugin(precision) if sharded else None
    accelerator = Accelerator(
        cpu=cpu,
        mixed_precision=precision,
        fsdp_plugin=plugin,
        log_with=None if config.log.tracker == "none" else config.log.tracker,
        project_dir=str(folder),
        # Buffers hold statistics that are reduced over processes already.
        kwargs_handlers=[DistributedDataParallelKwargs(
            broadcast_buffers=False,
            find_unused_parameters=config.train.find_unused_parameters,
        )],
    )
    if plugin is not None and getattr(accelerator.state, "fsdp_plugin", None) is not plugin:
        sharding.shard_on_any_device(accelerator, plugin)
    if accelerator.device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True  # official recipes train with TF32 on
        torch.backends.cudnn.allow_tf32 = True
    return accelerator


def _adamw(module: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        decay_groups(
            module.named_parameters(), config.weight_decay, getattr(module, "decays", decays)
        ),
        lr=config.lr, betas=config.betas, eps=config.eps,
        fused=True,  # one pass over memory; a tiny codec's step became a fifth shorter
    )


def _rate(schedule: ScheduleConfig, optimizer: OptimizerConfig, step: int, total: int) -> float:
    """Return the learning rate after ``step`` of ``total`` steps."""
    if schedule.kind == "steps":
        return learning_rate(
            step, base=optimizer.lr, end=schedule.end_lr, warmup=schedule.warmup, total=total
        )
    epoch = schedule.epoch_steps
    return epoch_learning_rate(
        step // epoch, base=optimizer.lr, end=schedule.end_lr, start=schedule.start_lr,
        warmup=schedule.warmup_epochs, epochs=math.ceil(total / epoch),
    )


def _apply(optimizer: Any, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad()


def _on_device(x: Any, device: torch.device) -> Any:
    if isinstance(x, tuple):
        return type(x)(*(_on_device(part, device) for part in x))
    return x.to(device, non_blocking=True)


def _first_tensor(x: Any) -> Tensor:
    return _first_tensor(x[0]) if isinstance(x, tuple) else x


def _due(step: int, every: int, last: bool) -> bool:
    return every > 0 and (step % every == 0 or last)


def _scalars(values: Any) -> dict[str, Tensor]:
    tensors = {name: torch.as_tensor(value) for name, value in values.items()}
    return {name: t.detach().float() for name, t in tensors.items() if t.numel() == 1}


def _add(sums: dict[str, Any], values: Any, share: float) -> None:
    for name, value in values.items():
        value = value.detach().reshape(()) if isinstance(value, Tensor) else value
        sums[name] = sums.get(name, 0.0) + value * share


def _detached(out: TrainingOutput) -> TrainingOutput:
    reconstruction, shortened = (
        None if x is None else x.detach() for x in (out.reconstruction, out.shortened)
    )
    return TrainingOutput(reconstruction, out.tokens, {}, {}, shortened)


def _enable_gradient_checkpointing(model: nn.Module) -> None:
    enable = getattr(model, "enable_gradient_checkpointing", None)
    try:
        if enable is None:
            raise ValueError
        enable()
    except ValueError:
        raise ConfigError(
            f"train.gradient_checkpointing is on, but {type(model).__name__} has no support for "
            "it; set it to false"
        ) from None
