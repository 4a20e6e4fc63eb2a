"""A CUDA graph's stand-in on the CPU: a tape of operations over the tensors they first ran on.

Like a graph it captures without a lasting effect, replays exactly what was captured, and knows
nothing of the Python that ran around it: a number that Python passed stays what it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Tape(TorchDispatchMode):
    """What `torch.cuda.CUDAGraph` is on a GPU.

    Attributes: replays: how often it was replayed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.replays = 0
        self._operations: list[tuple[Any, Any, Any, list[Any]]] = []
        self._before: dict[int, tuple[Any, Any]] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function._schema.is_mutable:
            for tensor in tree_leaves((args, kwargs)):
                if isinstance(tensor, Tensor):
                    memory = tensor.untyped_storage()
                    self._before.setdefault(memory.data_ptr(), (memory, memory.clone()))
        made = function(*args, **(kwargs or {}))
        assert all(isinstance(leaf, Tensor) for leaf in tree_leaves(made)), f"{function} asks"
        self._operations.append((function, args, kwargs or {}, tree_leaves(made)))
        return made

    def undo(self) -> None:
        """Put back what was there before the capture."""
        for memory, kept in self._before.values():
            memory.copy_(kept)

    def replay(self) -> None:
        """Run all operations again, each result into the memory of the first one."""
        self.replays += 1
        for function, args, kwargs, made in self._operations:
            for old, new in zip(made, tree_leaves(function(*args, **kwargs)), strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class Stream:
    """What `torch.cuda.Stream` is on a GPU; there is only one here."""

    def __init__(self, device: Any = None) -> None:
        self.device = device

    def wait_stream(self, other: Stream) -> None:
        """Return, since nothing runs beside."""


def stand_in(monkeypatch: pytest.MonkeyPatch) -> list[Tape]:
    """Let steps be captured on the CPU; return the list that tapes are added to."""
    tapes: list[Tape] = []

    @contextmanager
    def capture(graph: Tape, **options: Any) -> Iterator[None]:
        tapes.append(graph)
        with graph:
            yield
        graph.undo()

    for name, value in {
        "Stream": Stream, "current_stream": Stream,
        "stream": lambda _: nullcontext(), "graph_pool_handle": lambda: None,
        "CUDAGraph": Tape, "graph": capture,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr("generators.sampling.can_capture", lambda generator: True)
    return tapes
