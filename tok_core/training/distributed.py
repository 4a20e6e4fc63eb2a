"""What processes share: means of small numbers, one seed each, the discriminator's gradients."""

from __future__ import annotations

import gc
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from tok_core.contract import TrainingOutput
from tok_core.training.objective import Objective


def mean_over_processes(values: dict[str, float | torch.Tensor], accelerator: Accelerator
                        ) -> dict[str, float]:
    """Average named scalars over processes in one collective and bring them to the CPU.

    NaN or Inf on one process becomes non-finite on all, so that all stop at the same step.
    """
    if not values:
        return {}
    names = sorted(values)
    stacked = torch.stack(
        [torch.as_tensor(values[n]).detach().to(accelerator.device, torch.float32).reshape(())
         for n in names]
    )
    if accelerator.num_processes > 1:
        stacked = accelerator.reduce(stacked, "mean")
    return dict(zip(names, stacked.tolist(), strict=True))


def seed_process(seed: int, process: int) -> None:
    """Seed python, numpy and torch (all devices); each process gets a stream of its own."""
    random.seed(seed + process)
    np.random.seed((seed + process) % 2**32)
    torch.manual_seed(seed + process)


@contextmanager
def untouched_random_state(accelerator: Accelerator) -> Iterator[None]:
    """Whatever runs inside leaves torch's random streams where they were."""
    devices = [accelerator.device] if accelerator.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield


class DiscriminatorPass(nn.Module):
    """The discriminator's losses as one forward, so that a wrapper sees all that is trained.

    The tokenizer's own step uses the same discriminator unwrapped and frozen: only this pass may
    set off the exchange of its gradients.
    """

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, x: Tensor, out: TrainingOutput, step: int) -> dict[str, Tensor]:
        """Return the discriminator's loss terms."""
        return self.objective.discriminator_losses(x, out, step)


def wrap_discriminator(objective: Objective, accelerator: Accelerator) -> nn.Module:
    """Make the discriminator's pass, exchanging gradients when there are several processes.

    Not through ``accelerator.prepare``: that would run it under autocast, and it is float32.
    """
    step = DiscriminatorPass(objective)
    if accelerator.num_processes == 1:
        return step
    device = accelerator.device
    with without_buffer_warning():
        return nn.parallel.DistributedDataParallel(
            step, device_ids=[device.index] if device.type == "cuda" else None,
            broadcast_buffers=False, find_unused_parameters=objective.staged,
        )


@contextmanager
def without_buffer_warning() -> Iterator[None]:
    """Silence torch 2.13's advice on ``broadcast_buffers``: its successor is unknown to 2.6."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*broadcast_buffers.*", FutureWarning)
        yield


def end_processes() -> None:
    """Leave the process group; the caller must have let go of the engine.

    A reducer that outlives its group destroys it while holding the interpreter lock, and gloo's
    thread may wait for that lock: the process would hang at exit (seen with torch 2.13).
    """
    group = torch.distributed
    gc.collect()
    if group.is_available() and group.is_initialized():
        group.destroy_process_group()
