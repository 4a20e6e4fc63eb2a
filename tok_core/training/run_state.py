"""What of a run goes to disk and comes back: the engine's complete state, and the final model."""

from __future__ import annotations

import copy
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tok_core.errors import TesseraError
from tok_core.training import checkpoint as disk
from tok_core.training.distributed import seed_process
from tok_core.training.sharding import whole_tensors

if TYPE_CHECKING:
    from tok_core.training.engine import Engine


def save(engine: Engine) -> Path:
    """Write a checkpoint of this step; every process calls it."""
    accelerator = engine.accelerator

    def write(folder: Path) -> None:
        disk.save_random_state(folder, accelerator.process_index)
        main = accelerator.is_main_process
        # Gathering shards takes every process; writing what came together, one.
        for name, tensors in (
            ("model", engine.plain.state_dict()),
            ("optimizer", disk.optimizer_tensors(engine.optimizer.optimizer, _names(engine))),
        ):
            gathered = whole_tensors(tensors, keep=main)
            if main:
                disk.save_tensors(gathered, folder / f"{name}.safetensors")
            del gathered
        with engine.average.whole() as averaged:
            if main:
                disk.save_tensors(averaged.state_dict(), folder / "ema.safetensors")
        if not main:
            return
        disk.save_tensors(engine.objective.state_dict(), folder / "objective.safetensors")
        if engine.discriminator_optimizer:
            disk.save_tensors(
                disk.optimizer_tensors(engine.discriminator_optimizer.optimizer, _names(engine)),
                folder / "discriminator_optimizer.safetensors",
            )
        scaler = accelerator.scaler
        disk.save_json(
            {
                "format": disk.FORMAT,
                "step": engine.step,
                "discriminator_steps": engine.discriminator_steps,
                "ema_updates": engine.average.updates,
                "position": engine.position,
                "processes": accelerator.num_processes,
                "skipped": engine.skipped,
                "scaler": scaler.state_dict() if scaler is not None else None,
            },
            folder / "state.json",
        )

    return disk.write_checkpoint(
        engine.folder / "checkpoints", engine.step, write,
        keep_last=engine.config.log.keep_last, main=accelerator.is_main_process,
        wait=accelerator.wait_for_everyone,
    )


def restore(engine: Engine) -> Path | None:
    """Continue from the newest whole checkpoint and return it; without one, begin at step 0."""
    accelerator = engine.accelerator
    root = engine.folder / "checkpoints"
    if accelerator.is_main_process:
        disk.remove_leftovers(root)
    accelerator.wait_for_everyone()
    folder = disk.latest_checkpoint(root)
    if folder is None:
        return None
    state = disk.read_json(folder / "state.json")
    disk.check_format(state, folder)
    disk.load_module(engine.plain, folder / "model.safetensors")
    engine.average.load(disk.fitting(engine.plain, folder / "ema.safetensors"))
    disk.load_module(engine.objective, folder / "objective.safetensors")
    disk.load_optimizer(
        engine.optimizer.optimizer, _names(engine), folder / "optimizer.safetensors"
    )
    if engine.discriminator_optimizer:
        disk.load_optimizer(
            engine.discriminator_optimizer.optimizer, _names(engine),
            folder / "discriminator_optimizer.safetensors",
        )
    engine.step = state["step"]
    engine.discriminator_steps = state["discriminator_steps"]
    engine.average.updates = state["ema_updates"]
    engine.position = state["position"]
    engine.skipped = state["skipped"] if accelerator.is_main_process else []
    if accelerator.scaler is not None and state["scaler"]:
        accelerator.scaler.load_state_dict(state["scaler"])
    return folder


def start_random_streams(engine: Engine, folder: Path | None) -> None:
    """Set this process's random streams from a checkpoint, or from the seed."""
    process = engine.accelerator.process_index
    if folder is None or not disk.load_random_state(folder, process):
        seed_process(engine.train.seed, process)


def export(engine: Engine) -> Path:
    """Write the averaged model to ``model/`` in the storage type of the config; return it."""
    folder = engine.folder / "model"
    with engine.average.whole() as averaged:
        model: Any = copy.deepcopy(averaged).cpu() if engine.accelerator.is_main_process else None
    if model is not None:
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():  # storage only: loading makes it float32 again
                tensor.data = tensor.data.to(getattr(torch, engine.config.export.dtype))
        scratch = engine.folder / ".writing_model"
        try:
            shutil.rmtree(scratch, ignore_errors=True)
            model.save_pretrained(scratch)
            shutil.rmtree(folder, ignore_errors=True)
            os.rename(scratch, folder)
        except OSError as error:
            raise TesseraError(
                f"the trained model could not be written to {folder} ({error}); free space, then "
                "--resume, which only writes it again"
            ) from None
    engine.accelerator.wait_for_everyone()
    return folder


def _names(engine: Engine) -> dict[Tensor, str]:
    names: dict[Tensor, str] = {p: name for name, p in engine.plain.named_parameters()}
    for name, parameter in engine.objective.named_parameters():
        names[parameter] = f"objective.{name}"
    return names
