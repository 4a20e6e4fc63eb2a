"""Samplers of masked generators: begin with masks alone, reveal some positions at every step.

MaskGIT draws every code, keeps the surest and masks the rest again:

    masked codes --network--> guided logits --/ heat--> draw at temperature tau --> codes
    confidence = logit of the drawn code + tau Gumbel --> the least sure stay masked

    r = (t + 1) / T      tau = temperature (1 - r)      heat = 1, or 0.5 + 0.8 (1 - r)

Adding tau Gumbel noise to all logits and taking the best code, as the paper says it, is drawing
from softmax(logits / tau): one uniform number per code decides, so `TokenFilter` fits, and a sample
depends on its own seed and condition alone.  Chang et al. 2022, arXiv 2202.04200; heat ("softmax
temperature annealing") is TiTok's.  TokenBridge reveals positions in random orders, see
`generators.token_bridge_run`.  Letters: B samples, N positions, F factors, K codes of a factor, t
step of T.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from generators.contract import UNCONDITIONAL, Condition
from generators.guidance import Guidance, guided
from generators.mask_schedule import least_sure, masked_after
from generators.maskgit import MaskGIT
from generators.sampling import check_guidance, counted, kept_codes, uniform_numbers
from generators.seeded_draw import Choose, Watch
from generators.token_bridge import TokenBridge
from generators.token_bridge_run import TokenBridgeRun
from generators.token_filter import TokenFilter, inverse_draw
from tok_core.errors import ConfigError

# Sees codes (B, N, F) and which positions are masked, bool (B, N), where codes mean nothing.
Follow = Callable[[Tensor, Tensor], None]


# Steps where none are given: the papers' own for MaskGIT, the fast setting of TokenBridge.
MASKED_STEPS: dict[type, int] = {MaskGIT: 16, TokenBridge: 64}


def sample_masked(
    generator: MaskGIT | TokenBridge,
    condition: Condition = UNCONDITIONAL,
    *,
    seeds: Sequence[int],
    steps: int | None = None,
    guidance: Guidance | None = None,
    token_filter: TokenFilter | None = None,
    annealing: bool = False,
    orders: Tensor | None = None,
    given: Tensor | None = None,
    keep: Tensor | None = None,
    choose: Choose | None = None,
    watch: Watch | None = None,
    follow: Follow | None = None,
    progress: Callable[[Iterable[int]], Iterable[int]] | None = None,
) -> Tensor:
    """Draw codes, one sample per seed; settings of published models are in `masked_presets`.

    Args:
        generator: in eval mode.
        condition, seeds, given, keep, progress: as `generators.sampling.sample`. Given codes
            take their places when these are revealed, in the order that there is without them.
        steps: T; more than N positions are of no use. None is 16 for MaskGIT, 64 for TokenBridge,
            which gains from up to N.
        guidance: None is none. Half of a step's work is saved where its scale is 1. TokenBridge's
            acts on features, and its schedule counts positions.
        token_filter: for MaskGIT its temperature is that of the first step and falls to 0 on the
            last, for codes and for confidences; None is 1.
        annealing: divide MaskGIT's logits by a heat that falls from 1.3 to 0.5.
        orders: int64 (B, N), in which TokenBridge reveals positions, the last entry first; None
            draws them from the seeds.
        choose: draws codes in place of the seeds' numbers. watch: sees guided logits (B, n, K).
            Both are told the positions, (N,) for MaskGIT, (B, n) for TokenBridge.
        follow: sees what is revealed at the start of each step.

    Returns:
        int64 (B, *axes of ``generator.spec``).

    Raises:
        ConfigError: a condition that the generator cannot take, steps below 1, an option of
            another kind of generator. TokenError: codes to keep or orders that do not fit.

    Example:
        >>> from generators.masked_presets import PRESETS
        >>> codes = sample_masked(generator, condition, seeds=[0, 1], **PRESETS["titok_l32"])
        ... # doctest: +SKIP
    """
    with torch.inference_mode():
        run = _begun(
            generator, condition, seeds, guidance or Guidance(), token_filter or TokenFilter(),
            steps=steps, annealing=annealing, orders=orders,
        )  # fmt: skip
        given, keep = kept_codes(generator, given, keep, run.codes)
        for step in counted(run.steps, progress):
            if follow is not None:
                follow(run.codes, run.masked)
            run.step(step, choose, watch, given, keep)
    # A copy made out here may take part in training.
    return generator.spec.from_sequence(run.codes.clone(), generator.sizes)


def _begun(
    generator: MaskGIT | TokenBridge, condition: Condition, seeds: Sequence[int],
    guidance: Guidance, token_filter: TokenFilter, *, steps: int | None, annealing: bool,
    orders: Tensor | None,
) -> _Run | TokenBridgeRun:  # fmt: skip
    """Return the run of a generator's kind, or refuse what does not go with it."""
    check_guidance(guidance, condition)
    if not isinstance(generator, tuple(MASKED_STEPS)):
        raise ConfigError(
            f"a {type(generator).__name__} came in but only MaskGIT and TokenBridge fill in masks; "
            "use generators.sampling.sample."
        )
    bridge = isinstance(generator, TokenBridge)
    if steps is None:
        steps = MASKED_STEPS[TokenBridge if bridge else MaskGIT]
    if steps < 1:
        raise ConfigError(f"steps is {steps}; give at least 1.")
    if annealing and bridge:
        raise ConfigError("annealing is MaskGIT's; leave it out for a TokenBridge.")
    if orders is not None and not bridge:
        raise ConfigError("orders are TokenBridge's; MaskGIT reveals what it is surest of.")
    if isinstance(generator, TokenBridge):
        return TokenBridgeRun(
            generator, condition, seeds, steps=steps, guidance=guidance, token_filter=token_filter,
            orders=orders,
        )  # fmt: skip
    return _Run(
        generator, condition, seeds, steps=steps, guidance=guidance, token_filter=token_filter,
        annealing=annealing,
    )  # fmt: skip


class _Run:
    """One generation of MaskGIT: codes (B, N, F) and which positions are masked, bool (B, N)."""

    def __init__(
        self, generator: MaskGIT, condition: Condition, seeds: Sequence[int], *, steps: int,
        guidance: Guidance, token_filter: TokenFilter, annealing: bool,
    ) -> None:  # fmt: skip
        batch, length = len(seeds), generator.settings.length
        factors, device = generator.spec.factors, generator.device
        self.generator, self.steps, self.annealing = generator, steps, annealing
        self.guidance, self.token_filter = guidance, token_filter
        embedding = generator.condition
        self.condition = embedding(embedding.checked(condition, batch), batch)
        if guidance.active:
            self.condition = torch.cat((self.condition, embedding.null(batch)))
        # One number per code, and one for the confidence.
        self.numbers = uniform_numbers(seeds, (steps, length, factors + 1)).to(device)
        self.codes = torch.zeros(batch, length, factors, dtype=torch.int64, device=device)
        self.masked = torch.ones(batch, length, dtype=torch.bool, device=device)

    def step(
        self, step: int, choose: Choose | None, watch: Watch | None, given: Tensor | None,
        keep: Tensor | None,
    ) -> None:  # fmt: skip
        """Draw what is masked and reveal what is surest."""
        length = self.masked.shape[1]
        rest = 1 - (step + 1) / self.steps
        temperature = self.token_filter.temperature * rest
        token_filter = replace(self.token_filter, temperature=temperature)
        places = torch.arange(length, device=self.codes.device)
        numbers = self.numbers[:, step]
        drawn = torch.empty_like(self.codes)
        confidence = temperature * gumbel(numbers[..., -1])
        for factor, logits in enumerate(self._logits(step)):
            if watch is not None:
                watch(logits, places, factor)
            logits = logits / (0.5 + 0.8 * rest) if self.annealing else logits
            probabilities = token_filter.probabilities(logits)
            if choose is None:
                drawn[..., factor] = inverse_draw(probabilities, numbers[..., factor])
            else:
                drawn[..., factor] = choose(probabilities, places, factor)
            # The logit, not the probability, is what the official samplers compare.
            confidence += logits.gather(-1, drawn[..., factor, None])[..., 0]
        count = masked_after(step, self.steps, self.masked.sum(dim=1), length)
        # What was revealed stays revealed.
        still = least_sure(confidence.masked_fill(~self.masked, torch.inf), count)
        if given is not None and keep is not None:
            drawn = torch.where(keep, given, drawn)
        revealed = self.masked & ~still
        self.codes = torch.where(revealed[..., None], drawn, self.codes)
        self.masked = still

    def _logits(self, step: int) -> list[Tensor]:
        """Return guided logits (B, N, K) of each factor."""
        batch = len(self.codes)
        scale = self.guidance.at(step, self.steps)
        codes, masked, condition = self.codes, self.masked, self.condition
        if scale == 1.0:
            condition = condition[:batch]
        else:
            codes, masked = codes.repeat(2, 1, 1), masked.repeat(2, 1)
        parts = self.generator.predict(codes, masked, condition)
        return [guided(part, scale, batch) for part in parts]


def gumbel(uniform: Tensor) -> Tensor:
    """Return standard Gumbel noise for numbers in [0, 1)."""
    return -(-uniform.clamp(min=1e-20).log()).clamp(min=1e-20).log()
