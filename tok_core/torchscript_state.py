"""Tensors of a TorchScript archive, read without running anything that it carries.

    model.pt (zip)  data.pkl --`tok_core.inert_pickle`--> attributes, nested as the modules are
                    data/KEY --bytes--------------------> tensors --dotted names--> state dict
                    code/, constants.pkl                  left alone

OpenAI published its CLIP models so (``ViT-B-16.pt``).  `torch.load` refuses such a file where
nothing may run, and `torch.jit.load` compiles the code inside; a state dict needs neither.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from tok_core.inert_pickle import InertCheckpoint, Shell, Stored

# What tells it from the zip of an ordinary state dict.
MARK = "/constants.pkl"
# Compiled classes, and the makers of typed lists among their attributes.
SHELLED = ("__torch__.", "torch.jit._pickle.")
INSTEAD = (
    "the same model's state dict, such as its model.safetensors or open_clip_pytorch_model.bin"
)


def is_torchscript(path: Path) -> bool:
    """Return whether this file is a TorchScript archive.

    Example:
        >>> is_torchscript(Path("model.safetensors"))
        False
    """
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith(MARK) for name in archive.namelist())


def read_torchscript_state(path: Path) -> dict[str, Tensor]:
    """Return the parameters and buffers of a TorchScript module by dotted name, on the CPU.

    Raises:
        WeightsError: damaged, or holds objects other than modules, tensors and plain values.

    Example:
        >>> read_torchscript_state(Path("ViT-B-16.pt"))["visual.conv1.weight"].shape
        ... # doctest: +SKIP
        torch.Size([768, 3, 16, 16])
    """
    archive = InertCheckpoint(path, SHELLED, instead=INSTEAD)
    return archive.tensors(dict(_tensors(archive.content)))


def _tensors(module: object) -> Iterator[tuple[str, Stored]]:
    """Yield the tensors of nested modules, named by their path."""
    waiting, seen = [("", module)], set()
    while waiting:
        prefix, part = waiting.pop()
        if not isinstance(part, Shell) or not isinstance(part.state, dict) or id(part) in seen:
            continue
        seen.add(id(part))
        for name, value in part.state.items():
            if isinstance(value, Stored):
                yield f"{prefix}{name}", value
            waiting.append((f"{prefix}{name}.", value))
