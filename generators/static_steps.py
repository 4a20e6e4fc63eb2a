"""Steps of fixed shapes, and on a GPU as CUDA graphs: captured once, replayed by one call each.

    first step of its shapes   run as it is, which also prepares every kernel
    second                     captured, then replayed
    all later ones             replayed, in this generation and in later ones of the same kind

At few rows a GPU is done with a kernel sooner than the host can send the next one; a graph sends
all kernels of a step, those that draw the codes among them, at once.  What a generation needs lies
in the same memory every time, so what was captured stays with the generator (`kept_steps`), the
cache with it, until one of another kind is asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from generators.contract import Condition, Generator, StaticSession
from generators.seeded_draw import SeededDraw
from generators.steps import Step
from tok_core.errors import ConfigError

log = logging.getLogger(__name__)


class StaticSteps:
    """One generation after another of the same kind.

    Args:
        session: of a condition. draw: for its codes. codes: int64 (B, L, F), filled in place.
        capture: whether to use CUDA graphs.
    """

    def __init__(
        self, session: StaticSession, draw: SeededDraw, codes: Tensor, *, capture: bool
    ) -> None:
        self.session, self.draw, self.codes, self.capture = session, draw, codes, capture
        self.steps = session.steps
        # Counts on the device, where captured steps can see it.
        self.number = torch.zeros(1, dtype=torch.int64, device=codes.device)
        self._seen: set[Hashable] = set()
        self._graphs: dict[Hashable, Any] = {}
        self._stream = torch.cuda.Stream(codes.device) if capture else None
        self._pool = torch.cuda.graph_pool_handle() if capture else None

    def begin(self, condition: Condition, draw: SeededDraw) -> None:
        """Start over with another condition and other numbers."""
        self.session.begin(condition)
        self.draw.take(draw)

    def __call__(self, step: int) -> None:
        """Draw the codes of a step; steps come in order, from 0."""
        shapes = self.session.prepare(step)
        if step == 0:
            self.number.zero_()
        if not self.capture:
            self._run(step)
        elif (graph := self._graph(step, shapes)) is not None:
            graph.replay()
        else:
            self._run_aside(step)

    def _run(self, step: int) -> None:
        number: Step = self.number if step else 0
        self.draw.step = number
        self.session.step(number, self.codes, self.draw)
        self.number += 1

    def _run_aside(self, step: int) -> None:
        """Run a step on the stream that captures, so that its libraries have set up there."""
        here = torch.cuda.current_stream(self.codes.device)
        assert self._stream is not None
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            self._run(step)
        here.wait_stream(self._stream)

    def _graph(self, step: int, shapes: Hashable) -> Any:
        """Return the graph of a step, None where it is the first of its shapes or cannot be had."""
        if shapes in self._graphs or shapes not in self._seen:
            self._seen.add(shapes)
            return self._graphs.get(shapes)
        graph = torch.cuda.CUDAGraph()
        try:
            # Nothing runs here.  Other threads, such as those that load data, may call CUDA.
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                self._run(step)
        except RuntimeError as error:
            log.warning("no CUDA graph of this generator, its steps run one by one: %s", error)
            self.capture = False
            return None
        self._graphs[shapes] = graph
        return graph


class _Kept:
    """The steps that a generator keeps; copies and files of it keep none."""

    def __init__(self) -> None:
        self.kind: Hashable = None
        self.steps: StaticSteps | None = None

    def __deepcopy__(self, memo: object) -> _Kept:
        return _Kept()

    def __reduce__(self) -> tuple[type[_Kept], tuple[()]]:
        return (_Kept, ())


@contextmanager
def kept_steps(
    generator: Generator, condition: Condition, draw: Callable[..., SeededDraw], codes: Tensor,
    *, guided: bool, capture: bool, decided_by: Hashable,
) -> Iterator[StaticSteps]:  # fmt: skip
    """Give steps for a generation, those that the generator keeps if they are of this kind.

    Args:
        generator, condition: see there. guided: run null rows, too.
        draw: from a number of ``steps``. decided_by: what of it must be equal for captured steps.
        codes: int64 (B, L, F), of the shape wanted. capture: whether to use CUDA graphs.

    Raises:
        ConfigError: a condition it cannot take, or a generator without static steps.
    """
    if not generator.static_steps:
        raise ConfigError(
            f"a {type(generator).__name__} has no steps of fixed shapes; leave static out."
        )
    kept: _Kept = generator.__dict__.setdefault("_kept_steps", _Kept())
    kind = (tuple(codes.shape), codes.device, guided, decided_by, *_setting(generator))
    # Taken out while in use, so that another thread makes its own.
    steps, kept.steps = (kept.steps if capture and kept.kind == kind else None), None
    if steps is not None:
        steps.begin(condition, draw(steps=steps.steps))
    else:
        session = generator.static_session(condition, batch=len(codes), guided=guided)
        steps = StaticSteps(
            session, draw(steps=session.steps).in_own_memory(), codes.clone(), capture=capture
        )
    yield steps
    if capture:
        kept.kind, kept.steps = kind, steps


def forget_steps(generator: Generator) -> None:
    """Give back the memory that captured steps hold, the key-value cache of one generation."""
    generator.__dict__.pop("_kept_steps", None)


def _setting(generator: Generator) -> tuple[Hashable, ...]:
    """Return what else a captured step depends on; its weights may change, but not move."""
    tensors = (*generator.parameters(), *generator.buffers())
    return (
        generator.training, is_compiled(generator), torch.get_float32_matmul_precision(),
        tuple(tensor.data_ptr() for tensor in tensors),
    )  # fmt: skip


def can_capture(generator: Generator) -> bool:
    """Return whether steps can become CUDA graphs: on a GPU, and not under autocast.

    Autocast keeps copies of the weights until it ends, and a graph would go on reading them.
    """
    return generator.device.type == "cuda" and not torch.is_autocast_enabled("cuda")


def is_compiled(module: nn.Module) -> bool:
    """Return whether any part was compiled in place, by diffusers' or torch's ``compile``."""
    return any(part._compiled_call_impl is not None for part in module.modules())
