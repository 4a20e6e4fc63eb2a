"""The masked sampler: seeds, guidance, kept codes, and the draw against the paper's formula."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from generators.contract import Condition
from generators.guidance import Guidance
from generators.masked_presets import OFFICIAL_SCHEDULES, PRESETS, official_guidance, preset
from generators.masked_sampling import gumbel, sample_masked
from generators.token_filter import TokenFilter
from tests.generators.test_maskgit import FORMS, LABELS, codes_of, model
from tok_core.errors import ConfigError, TokenError

SEEDS = [7, 0, 12]
OPTIONS: dict[str, Any] = {
    "steps": 4, "guidance": Guidance(scale=2.0), "token_filter": TokenFilter(temperature=3.0),
    "annealing": True,
}  # fmt: skip


@pytest.mark.parametrize(("kind", "network"), FORMS)
def test_a_sample_does_not_depend_on_its_batch(kind: str, network: str) -> None:
    made = model(kind, network=network)
    whole = sample_masked(made, LABELS, seeds=SEEDS, **OPTIONS)
    made.spec.check(whole)
    assert tuple(whole.shape[1:]) == made.sizes
    assert torch.equal(sample_masked(made, LABELS, seeds=SEEDS, **OPTIONS), whole)
    assert LABELS.labels is not None
    for i, seed in enumerate(SEEDS):
        alone = Condition(labels=LABELS.labels[i : i + 1])
        found = sample_masked(made, alone, seeds=[seed], **OPTIONS)
        assert torch.equal(found[0], whole[i])
    assert not torch.equal(sample_masked(made, LABELS, seeds=[1, 2, 3], **OPTIONS), whole)


def test_no_seeds_give_no_codes() -> None:
    none = Condition(labels=torch.zeros(0, dtype=torch.int64))
    assert sample_masked(model(), none, seeds=[], steps=2).shape == (0, 8)


def test_what_is_revealed_stays_and_each_step_reveals() -> None:
    made, seen = model(), []
    codes = sample_masked(
        made, LABELS, seeds=SEEDS, follow=lambda c, m: seen.append((c, m)), **OPTIONS
    )
    assert len(seen) == 4 and seen[0][1].all()
    for (before, masked), (after, still) in pairwise(seen):
        assert (still <= masked).all() and (still.sum(1) < masked.sum(1)).all()
        assert torch.equal(before[~masked], after[~masked])
        assert torch.equal(after[~still][:, 0], codes[~still])


def test_kept_codes_replace_what_is_revealed_and_later_steps_see_them() -> None:
    made, given = model(), codes_of("sequence")
    free = sample_masked(made, LABELS, seeds=SEEDS, **OPTIONS)
    keep = torch.zeros(3, 8, dtype=torch.bool)
    none = sample_masked(made, LABELS, seeds=SEEDS, given=given, keep=keep, **OPTIONS)
    every = sample_masked(made, LABELS, seeds=SEEDS, given=given, keep=~keep, **OPTIONS)
    assert torch.equal(none, free) and torch.equal(every, given)
    keep[:, ::2] = True
    seen: list[tuple[Tensor, Tensor]] = []
    mixed = sample_masked(
        made, LABELS, seeds=SEEDS, given=given, keep=keep,
        follow=lambda c, m: seen.append((c[..., 0], m)), **OPTIONS,
    )  # fmt: skip
    assert torch.equal(mixed[keep], given[keep]) and not torch.equal(mixed[~keep], free[~keep])
    assert not torch.equal(mixed[~keep], given[~keep])
    for codes, masked in seen:
        assert torch.equal(codes[keep & ~masked], given[keep & ~masked])


def test_keep_may_differ_between_factors() -> None:
    made, given = model("product"), codes_of("product")
    keep = torch.zeros_like(given, dtype=torch.bool)
    keep[:, 0] = True  # the first branch
    mixed = sample_masked(made, LABELS, seeds=SEEDS, given=given, keep=keep, **OPTIONS)
    assert torch.equal(mixed[:, 0], given[:, 0]) and not torch.equal(mixed[:, 1], given[:, 1])


def test_the_draw_is_that_of_gumbel_noise_on_logits() -> None:
    made = model(classes=0)
    with torch.no_grad():
        made.head.weight.zero_()
        made.head.bias.copy_(torch.linspace(-1, 1, 11))
    count, steps, temperature = 3000, 3, 2.0
    codes = sample_masked(
        made, seeds=range(count), steps=steps, token_filter=TokenFilter(temperature=temperature)
    )
    # The formula as it is written, on logits that depend on nothing.
    logits, generator = made.head.bias.detach(), torch.Generator().manual_seed(0)
    masked = torch.ones(count, 8, dtype=torch.bool)
    expected = torch.zeros(count, 8, dtype=torch.int64)
    for step, left in enumerate((6, 4, 0)):  # 8 arccos(1/3) / (pi/2) = 6.3, arccos(2/3) 4.3
        tau = temperature * (1 - (step + 1) / steps)
        noise = gumbel(torch.rand(count, 8, 11, generator=generator))
        drawn = (logits + tau * noise).argmax(-1)
        sure = logits[drawn] + tau * gumbel(torch.rand(count, 8, generator=generator))
        order = sure.masked_fill(~masked, torch.inf).argsort(1).argsort(1)
        revealed = masked & (order >= left)
        expected = torch.where(revealed, drawn, expected)
        masked = masked & ~revealed
    ours, theirs = (
        torch.bincount(c.flatten(), minlength=11) / c.numel() for c in (codes, expected)
    )
    # 24,000 codes: a share of 0.1 is known to 0.002.
    assert (ours - theirs).abs().max() < 0.015


def test_gumbel_noise_has_its_moments_and_no_infinities() -> None:
    noise = gumbel(torch.rand(200_000, generator=torch.Generator().manual_seed(0)))
    assert float(noise.mean()) == pytest.approx(0.5772, abs=0.02)
    assert float(noise.std()) == pytest.approx(1.2825, abs=0.02)
    assert gumbel(torch.tensor([0.0, 1.0])).isfinite().all()


def test_guidance_is_one_forward_of_both_halves_and_none_where_the_scale_is_1() -> None:
    made, rows = model(), []
    made.trunk.register_forward_hook(lambda m, inputs, out: rows.append(len(out)))
    ramp = official_guidance("linear", 1.5)
    guided = sample_masked(made, LABELS, seeds=SEEDS, steps=4, guidance=ramp)
    assert rows == [3, 6, 6, 6]
    rows.clear()
    plain = sample_masked(made, LABELS, seeds=SEEDS, steps=4)
    assert rows == [3, 3, 3, 3] and not torch.equal(plain, guided)
    same = sample_masked(made, LABELS, seeds=SEEDS, steps=4, guidance=Guidance(scale=1.0))
    assert torch.equal(plain, same)


@pytest.mark.parametrize("kind", ["sequence", "product"])
def test_watch_sees_guided_logits_and_choose_decides(kind: str) -> None:
    made = model(kind)
    seen: list[tuple[int, int]] = []

    def watch(logits: Tensor, places: Tensor, factor: int) -> None:
        assert logits.shape[:2] == (3, len(places)) and logits.isfinite().all()
        seen.append((factor, logits.shape[-1]))

    def lowest(probabilities: Tensor, places: Tensor, factor: int) -> Tensor:
        return torch.zeros(3, len(places), dtype=torch.int64) + factor

    codes = sample_masked(made, LABELS, seeds=SEEDS, watch=watch, choose=lowest, **OPTIONS)
    assert seen == 4 * list(enumerate(made.spec.vocabulary))
    assert torch.equal(made.spec.to_sequence(codes)[0, 0], torch.arange(made.spec.factors))


def test_top_k_1_is_greedy_and_progress_wraps_the_steps() -> None:
    made, steps = model(), []

    def progress(numbers: Iterable[int]) -> Iterable[int]:
        for number in numbers:
            steps.append(number)
            yield number

    hot = TokenFilter(temperature=1e-3, top_k=1)
    one = sample_masked(made, LABELS, seeds=SEEDS, steps=5, token_filter=hot, progress=progress)
    two = sample_masked(
        made, LABELS, seeds=[1, 1, 1], steps=5, token_filter=TokenFilter(temperature=0.0)
    )
    assert torch.equal(one, two) and steps == list(range(5))


def test_bfloat16_and_codes_that_may_be_trained_on() -> None:
    made = model().to(torch.bfloat16)
    codes = sample_masked(made, LABELS, seeds=SEEDS, **OPTIONS)
    assert not codes.is_inference()
    made.spec.check(codes)


# -- words of the official projects --------------------------------------------------------------


def test_official_schedules_in_our_words() -> None:
    steps, scale = 8, 4.5
    cond, uncond = torch.randn(2, 5)
    for schedule in OFFICIAL_SCHEDULES:
        ours = official_guidance(schedule, scale)
        for step in range(steps):
            if schedule == "power-cosine":
                cosine = torch.cos(torch.tensor((step / steps) ** 3 * torch.pi))
                expected = uncond + (1 + (scale - 1) * (1 - cosine) / 2) * (cond - uncond)
            else:
                s = scale if schedule == "constant" else scale * step / steps
                expected = cond + s * (cond - uncond)
            found = uncond + ours.at(step, steps) * (cond - uncond)
            assert torch.allclose(found, expected, atol=1e-5)
    with pytest.raises(ConfigError, match="did you mean 'linear'"):
        official_guidance("liner", 3.0)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_samples(name: str) -> None:
    assert preset(name) is PRESETS[name]
    codes = sample_masked(model(), LABELS, seeds=SEEDS, **PRESETS[name])
    assert codes.shape == (3, 8)


def test_wrong_inputs_are_one_sentence() -> None:
    made, given = model(), codes_of("sequence")
    with pytest.raises(ConfigError, match="did you mean 'titok_l32'"):
        preset("titok-l32")
    with pytest.raises(ConfigError, match="steps is 0"):
        sample_masked(made, LABELS, seeds=SEEDS, steps=0)
    with pytest.raises(ConfigError, match="one each"):
        sample_masked(made, LABELS, seeds=[0])
    with pytest.raises(ConfigError, match="guidance needs labels"):
        sample_masked(model(classes=0), seeds=[0], guidance=Guidance(scale=2.0))
    with pytest.raises(ConfigError, match=r"generators\.sampling\.sample"):
        sample_masked(torch.nn.Linear(1, 1), LABELS, seeds=SEEDS)  # type: ignore[arg-type]
    with pytest.raises(TokenError, match="belong together"):
        sample_masked(made, LABELS, seeds=SEEDS, given=given)
    with pytest.raises(TokenError):
        sample_masked(made, LABELS, seeds=SEEDS, given=given[:2], keep=given[:2] > 0)
