"""The sampling engine of every generator that draws step by step.

    session.step --logits--> guidance --> temperature, top-k, top-p --> one uniform number per
    place and sample decides --> kept codes take their place --> codes

A sample depends on its own seed and condition, not on the batch it is drawn in: the numbers that
decide come from a generator of its own, one per position and factor.  Letters: B samples, L
positions, F factors, V vocabulary, n places of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from generators.contract import UNCONDITIONAL, Condition, Generator, Session
from generators.guidance import Guidance
from generators.seeded_draw import Choose, SeededDraw, Watch
from generators.static_steps import StaticSteps, can_capture, is_compiled, kept_steps
from generators.token_filter import TokenFilter
from tok_core.errors import ConfigError, TokenError


def sample(
    generator: Generator,
    condition: Condition = UNCONDITIONAL,
    *,
    seeds: Sequence[int],
    guidance: Guidance | None = None,
    token_filter: TokenFilter | None = None,
    given: Tensor | None = None,
    keep: Tensor | None = None,
    choose: Choose | None = None,
    watch: Watch | None = None,
    progress: Callable[[Iterable[int]], Iterable[int]] | None = None,
    static: bool | None = None,
) -> Tensor:
    """Draw codes, one sample per seed.

    Args:
        generator: in eval mode.
        condition: of every sample; see `Condition`.
        seeds: one whole number per sample; the same seed, condition and settings give the same
            codes in any batch (to rounding of the logits).
        guidance: None is none. token_filter: None is temperature 1.
        given: int64 (B, *axes) codes of which ``keep``, bool alike or (B, L), are not drawn but
            taken: teacher-forced resampling. What is kept in whole runs costs its steps all the
            same.
        choose: draws codes in place of the seeds' numbers. watch: sees guided logits.
        progress: wraps the steps, such as a progress bar.
        static: whether steps have fixed shapes, see `generators.static_steps`; None where that
            pays: on CUDA, and wherever the generator's blocks are compiled. The codes are the same,
            to rounding of the logits.

    Returns:
        int64 (B, *axes of ``generator.spec``).

    Raises:
        ConfigError: a condition that the generator cannot take, static steps of a generator that
            has none. TokenError: codes to keep that do not fit.

    Example:
        >>> codes = sample(generator, Condition(labels=torch.tensor([3, 3])), seeds=[0, 1])
        ... # doctest: +SKIP
    """
    guidance, token_filter = guidance or Guidance(), token_filter or TokenFilter()
    check_guidance(guidance, condition)
    codes = _blank(generator, len(seeds))
    given, keep = kept_codes(generator, given, keep, codes)
    draw = partial(
        SeededDraw, uniform_numbers(seeds, tuple(codes.shape[1:])).to(codes.device), guidance,
        token_filter, given=given, keep=keep, choose=choose, watch=watch,
    )  # fmt: skip
    capture = choose is None and watch is None and can_capture(generator)
    with torch.inference_mode(), _steps(
        generator, condition, draw, codes, static=static, guided=guidance.active, capture=capture,
        decided_by=(token_filter, keep is None),
    ) as run:  # fmt: skip
        for step in counted(run.steps, progress):
            run(step)
        codes.copy_(run.codes)
    return generator.spec.from_sequence(codes, generator.sizes)


def counted(
    steps: int, progress: Callable[[Iterable[int]], Iterable[int]] | None
) -> Iterable[int]:
    """Return the numbers of the steps, as ``progress`` passes them on."""
    return range(steps) if progress is None else progress(range(steps))


def _blank(generator: Generator, batch: int) -> Tensor:
    """Return codes (B, L, F) to fill in; made outside inference mode, they may train a model."""
    shape = generator.spec.to_sequence(torch.zeros(1, *generator.sizes, dtype=torch.int64)).shape
    return torch.zeros(batch, *shape[1:], dtype=torch.int64, device=generator.device)


@contextmanager
def _steps(
    generator: Generator, condition: Condition, draw: Callable[..., SeededDraw], codes: Tensor, *,
    static: bool | None, guided: bool, capture: bool, decided_by: Hashable,
) -> Iterator[StaticSteps | CountedSteps]:  # fmt: skip
    """Give the steps of a generation, of fixed shapes where these are wanted or pay."""
    if static is None:
        static = generator.static_steps and (capture or is_compiled(generator))
    if static:
        with kept_steps(
            generator, condition, draw, codes, guided=guided, capture=capture, decided_by=decided_by
        ) as steps:
            yield steps
    else:
        session = generator.session(condition, batch=len(codes), guided=guided)
        yield CountedSteps(session, draw(steps=session.steps), codes)


class CountedSteps:
    """Steps of a session one by one, each reading just what there is.

    Args:
        session: of a condition. draw: for its codes. codes: int64 (B, L, F), filled in place.
    """

    def __init__(self, session: Session, draw: SeededDraw, codes: Tensor) -> None:
        self.session, self.draw, self.codes, self.steps = session, draw, codes, session.steps

    def __call__(self, step: int) -> None:
        """Draw the codes of a step; steps come in order, from 0."""
        self.draw.step = step
        self.session.step(step, self.codes, self.draw)


def check_guidance(guidance: Guidance, condition: Condition) -> None:
    """Refuse guidance where there is no condition to be guided by.

    Raises:
        ConfigError: both halves would be the same.
    """
    if guidance.active and condition.labels is None and condition.features is None:
        raise ConfigError("guidance needs labels or captions; give some, or set its scale to 1.")


def uniform_numbers(seeds: Sequence[int], shape: tuple[int, ...]) -> Tensor:
    """Return (len(seeds), *shape) in [0, 1), each row from its own seed alone."""
    rows = [torch.rand(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(rows) if rows else torch.zeros(0, *shape)


def kept_codes(
    generator: Generator, given: Tensor | None, keep: Tensor | None, codes: Tensor
) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Return given codes and what is kept of them in sequence order, (B, L, F) both."""
    if (given is None) != (keep is None):
        raise TokenError("given and keep belong together; pass both, or neither.")
    if given is None or keep is None:
        return None, None
    spec = generator.spec
    spec.check(given)
    wanted = spec.to_sequence(given)
    mask = keep[..., None] if keep.dim() == 2 and keep.shape != given.shape else None
    if mask is None:
        if keep.shape != given.shape:
            raise TokenError(
                f"keep has shape {tuple(keep.shape)} and given {tuple(given.shape)}; give keep one "
                "entry per code, or per position (batch, positions)."
            )
        mask = spec.to_sequence(keep.long()).bool()
    if wanted.shape != codes.shape or mask.shape[:2] != codes.shape[:2]:
        raise TokenError(
            f"codes to keep are for {tuple(wanted.shape[:2])} positions, the generator draws "
            f"{tuple(codes.shape[:2])}; give one row per seed."
        )
    return wanted.to(codes.device), mask.expand_as(wanted).to(codes.device)
