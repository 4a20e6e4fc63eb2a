"""One call that draws codes from any generator, whatever its way of sampling.

Letters: B samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from generators.contract import Condition, Generator
from generators.guidance import Guidance
from generators.masked_sampling import MASKED_STEPS, sample_masked
from generators.sampling import sample
from generators.token_filter import TokenFilter
from tok_core.errors import ConfigError

Progress = Callable[[Iterable[int]], Iterable[int]]


def draw_codes(
    generator: Generator,
    condition: Condition,
    *,
    seeds: Sequence[int],
    guidance: Guidance | None = None,
    token_filter: TokenFilter | None = None,
    steps: int | None = None,
    given: Tensor | None = None,
    keep: Tensor | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Draw codes (B, *axes), one sample per seed.

    Args:
        generator, condition, seeds, guidance, token_filter, given, keep, progress: as
            `generators.sampling.sample`.
        steps: of a masked generator, None for its usual ones (`MASKED_STEPS`); others take one per
            position.

    Raises:
        ConfigError: steps for a generator that has its own.
    """
    if isinstance(generator, tuple(MASKED_STEPS)):
        return sample_masked(
            generator, condition, seeds=seeds, guidance=guidance, token_filter=token_filter,
            steps=steps, given=given, keep=keep, progress=progress,
        )  # fmt: skip
    if steps is not None:
        raise ConfigError(
            f"steps came in but a {type(generator).__name__} takes one per position; leave it out."
        )
    return sample(
        generator, condition, seeds=seeds, guidance=guidance, token_filter=token_filter,
        given=given, keep=keep, progress=progress,
    )  # fmt: skip


def numbered_seed(seed: int, number: int, purpose: str = "") -> int:
    """Return a seed of its own for one of many numbered samples; neighbours share nothing.

    Args:
        seed: of the whole set. number: of the sample. purpose: a word where a sample needs several.
    """
    words = (seed, number, *purpose.encode())
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)


def seeds_of(
    count: int, generator: torch.Generator | Sequence[torch.Generator] | None = None
) -> list[int]:
    """Return one seed per sample: from one generator in turn, from one each, or anew."""
    if isinstance(generator, Sequence):
        if len(generator) != count:
            raise ConfigError(
                f"{len(generator)} generators came in for {count} samples; give one, or one each."
            )
        return [_number(each) for each in generator]
    return [_number(generator) for _ in range(count)]


def _number(generator: torch.Generator | None) -> int:
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(1 << 62, (1,), generator=generator, device=device))
