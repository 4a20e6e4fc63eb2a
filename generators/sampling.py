"""The sampling engine of every generator that draws step by step.

    session.step --logits--> guidance --> temperature, top-k, top-p --> one uniform number per
    place and sample decides --> kept codes take their place --> codes

A sample depends on its own seed and condition, not on the batch it is drawn in: the numbers that
decide come from a generator of its own, one per position and factor.  Letters: B samples, L
positions, F factors, V vocabulary, n places of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from generators.contract import UNCONDITIONAL, Condition, Generator
from generators.guidance import Guidance, guided
from generators.token_filter import TokenFilter, inverse_draw
from tok_core.errors import ConfigError, TokenError

# Probabilities (B, n, V), positions (n,) and the factor to codes (B, n).
Choose = Callable[[Tensor, Tensor, int], Tensor]
# Sees guided logits (B, n, V), positions (n,) and the factor.
Watch = Callable[[Tensor, Tensor, int], None]


class SeededDraw:
    """What `Generator.session` calls for codes; see `generators.contract.Draw`.

    Args:
        uniform: (B, L, F) in [0, 1), what decides. guidance, token_filter: see there.
        steps: of the session.
        given: int64 (B, L, F) codes that may be kept, and ``keep``, bool alike, which are.
        choose: replaces ``uniform``. watch: sees every distribution.
    """

    def __init__(
        self, uniform: Tensor, guidance: Guidance, token_filter: TokenFilter, *, steps: int,
        given: Tensor | None = None, keep: Tensor | None = None, choose: Choose | None = None,
        watch: Watch | None = None,
    ) -> None:  # fmt: skip
        self.uniform, self.guidance, self.token_filter = uniform, guidance, token_filter
        self.given, self.keep, self.watch = given, keep, watch
        self.choose = choose or self._by_number
        self.step, self.steps = 0, steps

    def __call__(self, logits: Tensor, places: Tensor, factor: int = 0) -> Tensor:
        """Return int64 (B, n) for logits (R, n, V) at sequence positions (n,) of one factor."""
        scale = self.guidance.at(self.step, self.steps)
        logits = guided(logits, scale, len(self.uniform))
        if self.watch is not None:
            self.watch(logits, places, factor)
        codes = self.choose(self.token_filter.probabilities(logits), places, factor)
        if self.keep is None or self.given is None:
            return codes
        return torch.where(self.keep[:, places, factor], self.given[:, places, factor], codes)

    def _by_number(self, probabilities: Tensor, places: Tensor, factor: int) -> Tensor:
        return inverse_draw(probabilities, self.uniform[:, places, factor])


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

    Returns:
        int64 (B, *axes of ``generator.spec``).

    Raises:
        ConfigError: a condition that the generator cannot take. TokenError: codes to keep that do
            not fit.

    Example:
        >>> codes = sample(generator, Condition(labels=torch.tensor([3, 3])), seeds=[0, 1])
        ... # doctest: +SKIP
    """
    guidance, token_filter = guidance or Guidance(), token_filter or TokenFilter()
    check_guidance(guidance, condition)
    spec, axes = generator.spec, generator.sizes
    shape = spec.to_sequence(torch.zeros(1, *axes, dtype=torch.int64)).shape[1:]
    codes = torch.zeros(len(seeds), *shape, dtype=torch.int64, device=generator.device)
    uniform = uniform_numbers(seeds, tuple(shape)).to(codes.device)
    kept = kept_codes(generator, given, keep, codes)
    with torch.inference_mode():
        session = generator.session(condition, batch=len(seeds), guided=guidance.active)
        draw = SeededDraw(
            uniform, guidance, token_filter, steps=session.steps, choose=choose, watch=watch, **kept
        )
        steps: Iterable[int] = range(session.steps)
        for step in steps if progress is None else progress(steps):
            draw.step = step
            session.step(step, codes, draw)
    return spec.from_sequence(codes, axes)


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
) -> dict[str, Tensor]:
    """Return given codes and what is kept of them in sequence order, (B, L, F) both."""
    if (given is None) != (keep is None):
        raise TokenError("given and keep belong together; pass both, or neither.")
    if given is None or keep is None:
        return {}
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
    return {"given": wanted.to(codes.device), "keep": mask.expand_as(wanted).to(codes.device)}
