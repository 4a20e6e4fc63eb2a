"""Fully sharded training (FSDP2): every process holds a part of each weight, gradient and moment.

    parameter (N, ...) --rows over processes--> shard --all-gather, block by block--> forward
    gradient --reduce-scatter--> mean of its shard --> AdamW and average on the shard alone

The whole model comes together where it is looked at, saved or exported, so that checkpoints are
those of a run without sharding: either can be resumed as the other.

Zhao et al. 2023, arXiv 2304.11277; torch's ``fully_shard``, through accelerate.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from tok_core.errors import ConfigError
from tok_core.training.ema import AveragedModel, ema_decay

LAUNCHER = "ACCELERATE_USE_FSDP"  # what `accelerate launch --use_fsdp` sets


def sharding_asked(asked: bool) -> bool:
    """Return whether a run shards: its recipe or accelerate's launcher says so, for several."""
    launched = os.environ.get(LAUNCHER, "false").lower() == "true"
    return (asked or launched) and int(os.environ.get("WORLD_SIZE", "1")) > 1


def sharding_plugin(precision: str) -> Any:
    """Return accelerate's plugin for FSDP2 over the blocks that a model names.

    Weights travel as they are and autocast makes the products small, as without sharding: norms
    and losses keep float32.

    Args:
        precision: ``no`` or ``bf16``.

    Raises:
        ConfigError: fp16, whose loss scale would have to see all shards.
    """
    from accelerate import FullyShardedDataParallelPlugin
    from torch.distributed.fsdp import MixedPrecisionPolicy

    if precision == "fp16":
        raise ConfigError(
            "train.mixed_precision is 'fp16', which sharded training does not scale; use 'bf16' or "
            "'none', or train without train.fsdp"
        )
    return FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="TRANSFORMER_BASED_WRAP", reshard_after_forward=True,
        mixed_precision_policy=MixedPrecisionPolicy(), cpu_ram_efficient_loading=False,
        cpu_offload=False, activation_checkpointing=False,
    )  # fmt: skip


def shard_on_any_device(accelerator: Accelerator, plugin: Any) -> None:
    """Let accelerate shard on a CPU, too, where gloo does what NCCL does on GPUs."""
    from accelerate import DistributedType
    from accelerate.state import PartialState

    # accelerate switches to FSDP for accelerators alone, though torch's fully_shard needs none.
    accelerator.state.distributed_type = DistributedType.FSDP
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    accelerator.state.fsdp_plugin = plugin


def name_blocks(accelerator: Accelerator, model: nn.Module) -> None:
    """Tell accelerate which modules of a model are gathered as one.

    Raises:
        ConfigError: a model that names none (``_no_split_modules``): it has parts that a step
            moves by hand, such as codebooks, or that work outside of its forward.
    """
    named = getattr(model, "_no_split_modules", None) or ()
    present = {type(module).__name__ for module in model.modules()}
    blocks = [name for name in named if name in present]
    if not blocks:
        raise ConfigError(
            f"train.fsdp is on, but {type(model).__name__} names no blocks to shard; train it "
            "without (every process then holds the whole model)"
        )
    accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap = blocks


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor that a process holds a part of; all processes must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_tensors(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Gather named tensors one by one on the CPU; empty where ``keep`` is false.

    Every process must call it with the same names in the same order.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        gathered = whole(tensor.detach())
        if keep:
            found[name] = gathered.cpu()
    return found


def sharded_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Return this process's view of a whole tensor, cut and placed as another one is."""
    tensor = tensor.to(like.device)
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements)


class ShardedAverage(AveragedModel):
    """The averaged weights of a sharded model: shards between looks, whole while looked at.

    Args:
        structure: of the model, see `structure_of`. model: sharded, before the first step.
        decay: in [0, 1); 0 makes this the trained model itself.
    """

    def __init__(self, structure: nn.Module, model: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.structure, self.sharded = structure, model
        self.shards = [parameter.detach().clone() for parameter in model.parameters()]

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Follow ``model`` after one optimizer step, each process its own shards."""
        self.updates += 1
        keep = ema_decay(self.updates, self.decay)
        for ours, theirs in zip(self.shards, model.parameters(), strict=True):
            mine, given = _local(ours), _local(theirs.detach())
            if theirs.requires_grad:
                mine.lerp_(given, 1.0 - keep)
            else:
                mine.copy_(given)

    @contextmanager
    def whole(self) -> Iterator[nn.Module]:
        """Yield the averaged model with all its weights; every process must enter."""
        device = next(self.sharded.parameters()).device
        self.structure.to_empty(device=device)
        try:
            with torch.no_grad():
                for empty, shard in zip(self.structure.parameters(), self.shards, strict=True):
                    empty.copy_(whole(shard))
                buffers = zip(self.structure.buffers(), self.sharded.buffers(), strict=True)
                for kept, given in buffers:
                    kept.copy_(given)
            yield self.structure
        finally:
            self.structure.to("meta")

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take averaged weights by name; buffers are those of the trained model."""
        names = [name for name, _ in self.sharded.named_parameters()]
        for name, shard in zip(names, self.shards, strict=True):
            _local(shard).copy_(_local(sharded_like(tensors[name], shard)))


def structure_of(model: nn.Module) -> nn.Module:
    """Return a model like this one without its numbers; accelerate shards in place."""
    return copy.deepcopy(model).eval().requires_grad_(False).to("meta")


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
