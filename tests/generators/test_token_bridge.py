"""TokenBridge over several layouts of codes: masks, head, values, sampling, pipelines, errors."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from generators.contract import UNCONDITIONAL, Condition
from generators.drawing import draw_codes
from generators.guidance import Guidance
from generators.mask_schedule import cosine_masked_after, cut_normal
from generators.masked_sampling import sample_masked
from generators.sampling import sample
from generators.token_bridge import TokenBridge
from generators.token_bridge_presets import PRESETS
from generators.token_bridge_run import scale_at
from generators.token_filter import TokenFilter
from tok_core.errors import ConfigError, TokenError
from tok_core.loading import load
from tok_core.token_spec import Axis, TokenSpec


def axis(name: str, size: int) -> Axis:
    return Axis(name=name, size=size, minimum=size)


SPECS = {
    "grid": TokenSpec(modality="image", axes=(axis("row", 3), axis("column", 4),
                      axis("dimension", 5)), vocabulary=(8,) * 5, grid=(3, 4)),
    "mixed": TokenSpec(modality="image", axes=(axis("row", 2), axis("column", 4),
                       axis("dimension", 3)), vocabulary=(4, 9, 6), grid=(2, 4)),
    "sound": TokenSpec(modality="audio", axes=(axis("dimension", 4), axis("time", 9)),
                       vocabulary=(8,) * 4, token_rate=50.0),
    "single": TokenSpec(modality="image", axes=(axis("token", 6),), vocabulary=(16,)),
}  # fmt: skip
SIZES: dict[str, Any] = {
    "width": 32, "layers": 2, "heads": 2, "decoder_width": 24, "buffer": 3, "head_width": 16,
    "head_layers": 2, "head_heads": 2,
}  # fmt: skip
LABELS = Condition(labels=torch.tensor([0, 4, 2]))
SEEDS = [5, 6, 7]
GREEDY = TokenFilter(temperature=0)


def levels(kind: str) -> list[list[float]]:
    return [torch.linspace(-2, 2, size).tolist() for size in SPECS[kind].vocabulary]


def order(kind: str) -> list[int]:
    return list(range(SPECS[kind].factors))[::-1]


def model(kind: str = "grid", **options: Any) -> TokenBridge:
    torch.manual_seed(0)
    chosen = {
        "classes": 5, "dropout": 0.0, "attention_dropout": 0.0, "values": levels(kind),
        "channel_order": order(kind), "first_input": "stepped", **SIZES, **options,
    }  # fmt: skip
    made = TokenBridge(SPECS[kind].to_json(), **chosen)
    # Nothing stays at a value that hides a wrong wire: gates begin shut.
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made.eval()


def codes_of(kind: str = "grid", batch: int = 3) -> Tensor:
    torch.manual_seed(1)
    spec = SPECS[kind]
    sizes = tuple(a.size or 0 for a in spec.axes)
    flat = spec.to_sequence(torch.zeros(batch, *sizes, dtype=torch.int64))
    drawn = [torch.randint(size, flat.shape[:2]) for size in spec.vocabulary]
    return spec.from_sequence(torch.stack(drawn, dim=-1), sizes)


def gradients(made: TokenBridge, codes: Tensor, masked: Tensor) -> dict[str, Tensor]:
    out = made(codes, condition=LABELS, masked=masked)
    out.losses["loss/tokens"].backward()
    return {name: p.grad for name, p in made.named_parameters() if p.grad is not None}


def some_masked(made: TokenBridge, batch: int = 3) -> Tensor:
    masked = torch.zeros(batch, made.settings.length, dtype=torch.bool)
    masked[:, 1::2] = True
    return masked


# -- training ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("head_kind", ["autoregressive", "parallel"])
def test_a_training_step_reaches_every_parameter(kind: str, head_kind: str) -> None:
    made, spec = model(kind, head_kind=head_kind, condition_dropout=0.5).train(), SPECS[kind]
    labels = Condition(labels=torch.arange(16) % 5)
    out = made(codes_of(kind, 16), condition=labels, masked=some_masked(made, 16))
    length = made.settings.length
    assert out.logits.shape == (16, length, spec.factors, max(spec.vocabulary))
    for factor, size in enumerate(spec.vocabulary):
        assert out.logits[:, :, factor, :size].isfinite().all()
        assert (out.logits[:, :, factor, size:] == -math.inf).all()
    out.losses["loss/tokens"].backward()
    for name, parameter in made.named_parameters():
        if parameter.numel():
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    assert out.statistics["loss_per_factor"].shape == (spec.factors,)
    mean = out.statistics["loss_per_factor"].mean()
    torch.testing.assert_close(mean, out.losses["loss/tokens"].detach())


def test_the_share_of_masks_is_one_draw_per_batch() -> None:
    made, shares = model().train(), set()
    for seed in range(12):
        torch.manual_seed(seed)
        counts = made._drawn_mask(torch.zeros(4, 12, 5, dtype=torch.int64)).sum(dim=1)
        assert len(set(counts.tolist())) == 1
        shares.add(int(counts[0]))
    assert min(shares) >= math.ceil(0.7 * 12) and max(shares) <= 12 and len(shares) > 2
    masks = made.eval()._drawn_mask(made.spec.to_sequence(codes_of()))
    assert masks.sum(dim=1).tolist() == [11] * 3  # the median share, 0.874
    assert not torch.equal(masks[0], masks[1])
    assert torch.equal(masks, made._drawn_mask(made.spec.to_sequence(codes_of())))


@given(number=st.floats(0, 1), least=st.floats(0.1, 0.9))
def test_a_cut_normal_stays_inside_and_rises(number: float, least: float) -> None:
    value = cut_normal(number, 1.0, 0.25, least, 1.0)
    assert least <= value <= 1.0
    assert cut_normal(number / 2, 1.0, 0.25, least, 1.0) <= value


def test_mask_shares_are_normal_between_their_ends() -> None:
    numbers = torch.linspace(0.0005, 0.9995, 1000)
    drawn = torch.tensor([cut_normal(float(n), 1.0, 0.25, 0.7, 1.0) for n in numbers])
    # Of the half normal below 1, cut off at 1.2 deviations.
    density = torch.distributions.Normal(1.0, 0.25)
    low, high = density.cdf(torch.tensor(0.7)), density.cdf(torch.tensor(1.0))
    shares = (density.cdf(drawn) - low) / (high - low)
    torch.testing.assert_close(shares, numbers, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", SPECS)
def test_masked_codes_are_not_seen_and_others_are(kind: str) -> None:
    made, codes = model(kind, head_kind="parallel"), codes_of(kind)
    masked, sequence = some_masked(made), made.spec.to_sequence(codes)
    first = made(codes, condition=LABELS, masked=masked).logits
    sizes = torch.tensor(made.spec.vocabulary)
    hidden = torch.where(masked[..., None], (sequence + 1) % sizes, sequence)
    shown = torch.where(masked[..., None], sequence, (sequence + 1) % sizes)
    for changed, same in ((hidden, True), (shown, False)):
        back = made.spec.from_sequence(changed, made.sizes)
        again = made(back, condition=LABELS, masked=masked).logits
        assert torch.allclose(again, first, atol=1e-6) is same
    assert bool((first[~masked][:, :, : min(sizes)] == 0).all())  # nothing is said of what is shown


@pytest.mark.parametrize("kind", ["grid", "mixed", "sound"])
def test_dimensions_see_those_before_them_in_the_order(kind: str) -> None:
    made, codes = model(kind), codes_of(kind)
    masked, sequence = some_masked(made), made.spec.to_sequence(codes)
    before = made(codes, condition=LABELS, masked=masked).logits[masked]
    places = order(kind)
    for slot, factor in enumerate(places):
        changed = sequence.clone()
        hit = changed[..., factor]
        hit[masked] = (hit[masked] + 1) % made.spec.vocabulary[factor]
        back = made.spec.from_sequence(changed, made.sizes)
        after = made(back, condition=LABELS, masked=masked).logits[masked]
        moved = (after - before).nan_to_num().abs().amax(dim=(0, 2)) > 1e-6
        assert moved.tolist() == [places.index(other) > slot for other in range(len(places))]


def test_chunks_and_checkpoints_change_nothing() -> None:
    codes, masked = codes_of(), some_masked(model())
    whole = gradients(model(condition_dropout=0.0).train(), codes, masked)
    for chunk, checkpointed in ((5, False), (7, True), (None, True)):
        other = model(condition_dropout=0.0, head_chunk=chunk).train()
        if checkpointed:
            other.enable_gradient_checkpointing()
        found = gradients(other, codes, masked)
        assert found.keys() == whole.keys()
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, whole[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", SPECS)
def test_a_batch_gives_what_its_items_give_alone(kind: str) -> None:
    made, codes = model(kind), codes_of(kind)
    whole = made(codes, condition=LABELS)
    assert LABELS.labels is not None
    for i in range(len(codes)):
        alone = made(codes[i : i + 1], condition=Condition(labels=LABELS.labels[i : i + 1]))
        assert torch.allclose(alone.logits, whole.logits[i : i + 1], atol=1e-5)


# -- saving, values ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SPECS)
def test_saved_and_loaded_it_is_the_same(kind: str, tmp_path: Path) -> None:
    made, codes = model(kind, code_hash="ab" * 32), codes_of(kind)
    made.save_pretrained(tmp_path / "model")
    again = load(tmp_path / "model")
    assert isinstance(again, TokenBridge) and again.settings == made.settings
    assert torch.equal(again(codes, condition=LABELS).logits, made(codes, condition=LABELS).logits)
    options: dict[str, Any] = {"seeds": SEEDS, "steps": 3, "guidance": Guidance(scale=2.0)}
    assert torch.equal(
        sample_masked(again, LABELS, **options), sample_masked(made, LABELS, **options)
    )


def tokenizer(**options: Any) -> Any:
    """A tokenizer of 4 x 4 positions of 4 dimensions over a tiny KL autoencoder."""
    from vision_tok.token_bridge import TokenBridgeTokenizer

    torch.manual_seed(0)
    vae = {"block_out_channels": [8, 8, 16], "layers_per_block": 1, "latent_channels": 4,
           "norm_num_groups": 4, "sample_size": 16}  # fmt: skip
    chosen = {"scale": 1.0, "bits": 3, "channel_order": [2, 0, 3, 1], **options}
    return TokenBridgeTokenizer(vae, **chosen).eval()


def fresh(of: Any, **options: Any) -> TokenBridge:
    from generators.contract import fixed_spec

    torch.manual_seed(0)
    chosen = {"classes": 5, "code_hash": of.code_hash(), **SIZES, **options}
    return TokenBridge(fixed_spec(of.spec).to_json(), **chosen).eval()


def test_it_takes_values_and_order_from_its_tokenizer(tmp_path: Path) -> None:
    source = tokenizer()
    made = fresh(source)
    with pytest.raises(ConfigError, match=r"call attach\(tokenizer\)"):
        sample_masked(made, LABELS, seeds=SEEDS)
    made.attach(source)
    assert made.settings.channel_order == (2, 0, 3, 1)
    codes = torch.randint(8, (2, 4, 4, 4))
    values = made.values(made.spec.to_sequence(codes))
    torch.testing.assert_close(values, source.embed(codes).flatten(2).mT)
    made.save_pretrained(tmp_path)
    again = load(tmp_path)  # samples without its tokenizer
    assert sample_masked(again, LABELS, seeds=SEEDS, steps=2).shape == (3, 4, 4, 4)
    again.attach(source)
    assert again.settings == made.settings


def test_an_order_of_its_own_stays() -> None:
    made = fresh(tokenizer(), channel_order=[0, 1, 2, 3])
    made.attach(tokenizer())
    assert made.settings.channel_order == (0, 1, 2, 3)


def test_tokenizers_that_do_not_fit() -> None:
    source, made = tokenizer(), fresh(tokenizer(), code_hash=None)
    with pytest.raises(TokenError, match="made for image codes .* of 8 and .* of 16"):
        made.attach(tokenizer(bits=4))
    with pytest.raises(TokenError, match="dimension 4.*dimension 16"):
        made.attach(tokenizer(patch_size=2, channel_order=None))
    made.attach(source)
    with pytest.raises(TokenError, match="levels of this TokenBridgeTokenizer are not those"):
        made.attach(tokenizer(low=-4.0, high=4.0))
    with pytest.raises(TokenError, match="code hash"):
        fresh(source).attach(tokenizer(low=-4.0))


def test_codes_that_stand_for_vectors() -> None:
    from vision_tok.vqgan import VQGAN

    side = {"channels": 8, "multipliers": [1, 2], "res_blocks": 1, "attention": []}
    vectors = VQGAN(encoder_sizes=side, decoder_sizes=side, z_channels=4, code_dim=4,
                    codebook_size=8, norm_groups=4, image_size=8)  # fmt: skip
    with pytest.raises(ConfigError, match="of this VQGAN stand for vectors"):
        fresh(vectors).attach(vectors)


# -- sampling ------------------------------------------------------------------------------------


@given(length=st.integers(1, 300), share=st.floats(0.01, 1))
def test_every_step_reveals_something(length: int, share: float) -> None:
    steps = max(1, int(length * share))
    left = [length]
    for step in range(steps - 1):
        left.append(cosine_masked_after(step, steps, left[-1], length))
    assert all(after < before for before, after in pairwise(left))
    assert left[-1] >= 1
    if steps == length:
        assert left == list(range(length, 0, -1))


def test_the_scale_counts_positions() -> None:
    ramp = Guidance(scale=3.0, schedule="ramp")
    assert [scale_at(ramp, n, 8) for n in (0, 4, 7)] == [1.0, 2.0, 2.75]
    assert scale_at(Guidance(scale=3.0, stop=4), 3, 8) == 3.0
    assert scale_at(Guidance(scale=3.0, stop=4), 4, 8) == 1.0


@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("steps", [1, 3, 50])
def test_a_sample_does_not_depend_on_its_batch(kind: str, steps: int) -> None:
    made = model(kind)
    options: dict[str, Any] = {"steps": steps, "guidance": Guidance(scale=2.0, schedule="ramp")}
    whole = sample_masked(made, LABELS, seeds=SEEDS, **options)
    made.spec.check(whole)
    assert LABELS.labels is not None
    for row, seed in enumerate(SEEDS):
        alone = Condition(labels=LABELS.labels[row : row + 1])
        assert torch.equal(sample_masked(made, alone, seeds=[seed], **options)[0], whole[row])
    assert not torch.equal(sample_masked(made, LABELS, seeds=[1, 2, 3], **options), whole)


@torch.no_grad()
@pytest.mark.parametrize("head_kind", ["autoregressive", "parallel"])
@pytest.mark.parametrize("kind", SPECS)
def test_drawn_logits_are_those_of_teacher_forcing(kind: str, head_kind: str) -> None:
    """One step reveals all, so that a forward pass with everything masked gives the same."""
    made = model(kind, head_kind=head_kind)
    seen: dict[int, tuple[Tensor, Tensor]] = {}

    def watch(logits: Tensor, places: Tensor, factor: int) -> None:
        seen[factor] = (logits, places)

    codes = sample_masked(made, LABELS, seeds=SEEDS, steps=1, watch=watch)
    masked = torch.ones(3, made.settings.length, dtype=torch.bool)
    whole = made(codes, condition=LABELS, masked=masked).logits
    assert list(seen) == order(kind)
    for factor, (logits, places) in seen.items():
        expected = whole[torch.arange(3)[:, None], places, factor, : logits.shape[-1]]
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def test_later_steps_see_what_was_revealed() -> None:
    made, orders = model(), torch.arange(12).repeat(3, 1)
    rows: list[Tensor] = []
    sample_masked(
        made, LABELS, seeds=SEEDS, steps=12, orders=orders, follow=lambda _, m: rows.append(m[0])
    )
    assert [int(row.sum()) for row in rows] == list(range(12, 0, -1))
    assert all(bool(row[: 12 - i].all()) for i, row in enumerate(rows))  # from the end
    # The last position's logits, given all others.
    seen: list[Tensor] = []
    codes = sample_masked(
        made, LABELS, seeds=SEEDS, steps=12, orders=orders,
        watch=lambda logits, places, factor: seen.append(logits[:, 0]),
    )  # fmt: skip
    masked = torch.zeros(3, 12, dtype=torch.bool)
    masked[:, 0] = True
    whole = made(codes, condition=LABELS, masked=masked).logits[:, 0]
    for logits, factor in zip(seen[-5:], order("grid"), strict=True):
        torch.testing.assert_close(logits, whole[:, factor], rtol=1e-4, atol=1e-5)


def test_kept_codes_replace_drawn_ones_and_are_seen() -> None:
    made, given_codes = model(), codes_of()
    keep = torch.rand(3, 12, generator=torch.Generator().manual_seed(3)) < 0.5
    options: dict[str, Any] = {"seeds": SEEDS, "steps": 4}
    free = sample_masked(made, LABELS, **options)
    mixed = sample_masked(made, LABELS, given=given_codes, keep=keep, **options)
    spec = made.spec
    mine, theirs = spec.to_sequence(mixed), spec.to_sequence(given_codes)
    assert torch.equal(mine[keep], theirs[keep])
    assert not torch.equal(mine[~keep], spec.to_sequence(free)[~keep])
    none = sample_masked(made, LABELS, given=given_codes, keep=~keep & keep, **options)
    every = sample_masked(made, LABELS, given=given_codes, keep=keep | ~keep, **options)
    assert torch.equal(none, free) and torch.equal(every, given_codes)
    # Single dimensions, too: the next in the order sees the kept one.
    part = torch.zeros_like(given_codes, dtype=torch.bool)
    part[..., order("grid")[0]] = True
    some = sample_masked(made, LABELS, given=given_codes, keep=part, **options)
    assert torch.equal(some[part], given_codes[part])
    assert not torch.equal(some[..., order("grid")[1]], free[..., order("grid")[1]])


def test_guidance_mixes_features() -> None:
    made, logits = model(), {}
    for scale in (0.0, 1.0, 2.5):
        rows: list[Tensor] = []
        sample_masked(
            made, LABELS, seeds=SEEDS, steps=1, guidance=Guidance(scale=scale),
            orders=torch.arange(12).repeat(3, 1),
            watch=lambda seen, *_: rows.append(seen),  # noqa: B023
        )  # fmt: skip
        logits[scale] = rows[0]
    masked = torch.ones(3, 12, dtype=torch.bool)
    values = made.values(torch.zeros(3, 12, 5, dtype=torch.int64))
    with torch.no_grad():
        z = [
            made.backbone(values, masked, made.condition(condition, 3))
            for condition in (UNCONDITIONAL, LABELS)
        ]
        for scale, found in logits.items():
            features = (z[0] + scale * (z[1] - z[0])).flatten(0, 1)[:, None]
            expected = made.head.logits(made.head.begin(features).step(None), 0)
            torch.testing.assert_close(found.flatten(0, 1), expected, rtol=1e-4, atol=1e-5)


def test_temperature_zero_and_choice() -> None:
    made = model()
    greedy = sample_masked(made, LABELS, seeds=SEEDS, steps=4, token_filter=GREEDY,
                           orders=torch.arange(12).repeat(3, 1))  # fmt: skip
    chosen = sample_masked(
        made, LABELS, seeds=[1, 2, 3], steps=4, orders=torch.arange(12).repeat(3, 1),
        choose=lambda probabilities, places, factor: probabilities.argmax(dim=-1),
    )  # fmt: skip
    assert torch.equal(greedy, chosen)


def test_published_settings_draw() -> None:
    for options in PRESETS.values():
        assert sample_masked(model(), LABELS, seeds=SEEDS, **options).shape == (3, 3, 4, 5)
    assert PRESETS["token_bridge_l"]["guidance"].at(256, 256) == pytest.approx(3.1)


def test_bfloat16() -> None:
    made, codes = model(), codes_of()
    exact = float(made(codes, condition=LABELS).losses["loss/tokens"].detach())
    with torch.autocast("cpu", torch.bfloat16):
        out = made.train()(codes, condition=LABELS, masked=some_masked(made))
    out.losses["loss/tokens"].backward()
    half = made.eval().to(torch.bfloat16)
    out = half(codes, condition=LABELS)
    assert out.logits.dtype == torch.float32
    assert float(out.losses["loss/tokens"].detach()) == pytest.approx(exact, rel=0.05)
    guidance = Guidance(scale=2.0, schedule="ramp")
    half.spec.check(sample_masked(half, LABELS, seeds=SEEDS, steps=3, guidance=guidance))


def test_many_positions_are_drawn_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    made = model()
    whole = sample_masked(made, LABELS, seeds=SEEDS, steps=2)
    monkeypatch.setattr("generators.token_bridge_run.MOST_POSITIONS", 4)
    assert torch.equal(sample_masked(made, LABELS, seeds=SEEDS, steps=2), whole)


def test_no_samples_and_no_classes() -> None:
    nothing = Condition(labels=torch.zeros(0, dtype=torch.int64))
    assert sample_masked(model(), nothing, seeds=[]).shape == (0, 3, 4, 5)
    plain = model(classes=0)
    assert plain(codes_of()).losses["loss/tokens"] > 0
    assert draw_codes(plain, UNCONDITIONAL, seeds=[1, 2], steps=3).shape == (2, 3, 4, 5)


def test_pictures_from_a_pipeline(tmp_path: Path) -> None:
    from generators.pipelines import TokenImagePipeline

    source = tokenizer()
    pipe = TokenImagePipeline(fresh(source), source)
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(tmp_path)
    again = TokenImagePipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    options: dict[str, Any] = {
        "guidance_scale": 2.0, "guidance_schedule": "ramp", "num_inference_steps": 3,
        "output_type": "pt",
    }  # fmt: skip
    one, two = (
        each([1, 3], generator=torch.Generator().manual_seed(4), **options).images
        for each in (pipe, again)
    )
    assert one.shape == (2, 3, 16, 16) and torch.equal(one, two)


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "error"), [
    ({"channel_order": [0, 1, 2, 3, 3]}, "no permutation of 0 to 4"),
    ({"channel_order": list(range(16))}, "these codes have 5 dimensions"),
    ({"values": [0.0, 1.0]}, "values hold 5 x 2 levels but the codes need 5 x 8"),
    ({"values": [[0.0] * 8] * 4}, "values hold 4 x 8 levels"),
    ({"values": [math.nan] * 8}, "not finite"),
    ({"values": ["a"] * 8}, "something else than numbers"),
    ({"head_kind": "paralel"}, "head_kind is 'paralel'.*parallel"),
    ({"first_input": "both"}, "first_input is 'both'"),
    ({"heads": 3}, "width 32 is no multiple of 3"),
    ({"head_heads": 3}, "width 16 is no multiple of 3"),
    ({"layers": 0}, "layers is 0"),
    ({"buffer": 0}, "buffer is 0"),
    ({"head_chunk": -1}, "head_chunk is -1"),
    ({"classes": -1}, "classes is -1"),
    ({"dropout": 2}, "dropout is 2"),
    ({"mask_least": 0}, "mask_least is 0"),
])  # fmt: skip
def test_options_that_do_not_go_together(options: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        model(**options)


def test_specs_that_do_not_fit() -> None:
    free = TokenSpec(modality="image", axes=(Axis(name="row"), Axis(name="column")),
                     vocabulary=(8,))  # fmt: skip
    with pytest.raises(ConfigError, match="leaves the size along 'row' and 'column' open"):
        TokenBridge(free.to_json(), **SIZES)
    scales = TokenSpec(modality="image", axes=(axis("scale_token", 5),), vocabulary=(8,),
                       scales=((1, 1), (2, 2)))  # fmt: skip
    with pytest.raises(ConfigError, match="use NextScale"):
        TokenBridge(scales.to_json(), **SIZES)


def test_codes_masks_and_labels_that_do_not_fit() -> None:
    made, codes = model(), codes_of()
    with pytest.raises(TokenError, match="legal is 3"):
        made(codes[:, :2], condition=LABELS)
    with pytest.raises(TokenError, match="code 8 is outside"):
        made(codes + 8 - codes, condition=LABELS)
    uneven = torch.zeros(3, 12, dtype=torch.bool)
    uneven[0, :3] = True
    with pytest.raises(TokenError, match="masks hide 0 to 3 positions"):
        made(codes, condition=LABELS, masked=uneven)
    with pytest.raises(TokenError, match=r"give bool \(3, 12\)"):
        made(codes, condition=LABELS, masked=uneven[:, :4])
    with pytest.raises(ConfigError, match="label 5 is out of range; legal is 0 to 4"):
        made(codes, condition=Condition(labels=torch.tensor([0, 5, 1])))
    with pytest.raises(ConfigError, match="needs labels"):
        sample_masked(made, seeds=SEEDS)


def test_sampling_options_that_do_not_fit() -> None:
    made = model()
    with pytest.raises(ConfigError, match="steps is 0"):
        sample_masked(made, LABELS, seeds=SEEDS, steps=0)
    with pytest.raises(ConfigError, match="annealing is MaskGIT's"):
        sample_masked(made, LABELS, seeds=SEEDS, annealing=True)
    with pytest.raises(TokenError, match="no permutations"):
        sample_masked(made, LABELS, seeds=SEEDS, orders=torch.zeros(3, 12, dtype=torch.int64))
    with pytest.raises(ConfigError, match="use generators.masked_sampling.sample_masked"):
        sample(made, LABELS, seeds=SEEDS)


# -- learning ------------------------------------------------------------------------------------


@pytest.mark.parametrize("head_kind", ["autoregressive", "parallel"])
def test_only_dimensions_that_see_each_other_learn_to_agree(head_kind: str) -> None:
    """Dimensions of a position are equal, and nothing else tells what they are."""
    torch.manual_seed(0)
    spec = SPECS["grid"]
    made = TokenBridge(
        spec.to_json(), values=levels("grid")[0], head_kind=head_kind, dropout=0.0,
        attention_dropout=0.0, **SIZES,
    ).train()  # fmt: skip
    optimizer = torch.optim.AdamW(made.parameters(), lr=4e-3)
    for _ in range(120):
        codes = torch.randint(8, (32, 3, 4, 1)).expand(-1, -1, -1, 5).contiguous()
        out = made(codes)
        optimizer.zero_grad()
        out.losses["loss/tokens"].backward()
        optimizer.step()
    each = out.statistics["loss_per_factor"]
    chance = math.log(8)
    assert float(each[0]) == pytest.approx(chance, abs=0.1)
    if head_kind == "parallel":
        assert float(each.min()) > chance - 0.1
        return
    assert float(each[1:].max()) < 0.2
    drawn = sample_masked(made.eval(), seeds=range(8), steps=4)
    assert float((drawn == drawn[..., :1]).float().mean()) > 0.95
