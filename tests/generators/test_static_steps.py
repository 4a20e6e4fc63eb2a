"""Steps of fixed shapes draw what steps of growing ones draw, and ask the device for nothing."""

from __future__ import annotations

import copy
import math
import pickle
import shutil
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from generators import static_shapes
from generators.contract import Condition, Generator
from generators.guidance import Guidance
from generators.llamagen import LlamaGen
from generators.next_scale import NextScale
from generators.rar import RAR
from generators.sampling import sample, uniform_numbers
from generators.seeded_draw import SeededDraw
from generators.static_shapes import Stretches
from generators.static_steps import StaticSteps, forget_steps, kept_steps
from generators.token_filter import TokenFilter, inverse_draw
from tests.generators.tape import stand_in
from tok_core.errors import ConfigError
from tok_core.token_spec import Axis, TokenSpec

LABELS = Condition(labels=torch.tensor([0, 4, 2]))
SEEDS = [5, 6, 7]


def spec_of(vocabulary: tuple[int, ...] = (11,), **sizes: int) -> TokenSpec:
    axes = tuple(Axis(name=name, size=size, minimum=size) for name, size in sizes.items())
    return TokenSpec(modality="image", axes=axes, vocabulary=vocabulary)


def moved(made: Any) -> Any:
    """Return a model that predicts something: every weight is moved at random."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made.eval()


SIZES: dict[str, Any] = {"width": 32, "layers": 2, "heads": 2, "classes": 5}
GRID = spec_of(row=6, column=8).to_json()
PRODUCT = spec_of((7, 9), branch=2, row=4, column=4).to_json()
MODELS: dict[str, Any] = {
    "grid": lambda: LlamaGen(spec=GRID, **SIZES),
    "windows": lambda: LlamaGen(spec=GRID, window=2, **SIZES),
    "windows, causal": lambda: LlamaGen(spec=GRID, window=2, slot_head="causal", **SIZES),
    "product": lambda: LlamaGen(spec=PRODUCT, **SIZES),
    "product, causal": lambda: LlamaGen(spec=PRODUCT, slot_head="causal", **SIZES),
    "captions": lambda: LlamaGen(
        spec=GRID, caption_width=6, caption_length=5, **SIZES | {"classes": 0}
    ),
    "RAR": lambda: RAR(GRID, **SIZES),
    "RAR, product": lambda: RAR(PRODUCT, **SIZES),
}  # fmt: skip
FILTERS = [
    {},
    {
        "guidance": Guidance(scale=2.5, schedule="half_linear", stop=9),
        "token_filter": TokenFilter(temperature=0.9, top_k=6, top_p=0.95),
    },
    {"guidance": Guidance(scale=3.0), "token_filter": TokenFilter(temperature=0)},
]  # fmt: skip


def condition_of(kind: str, seed: int = 0, real: tuple[int, ...] = (5, 3, 1)) -> Condition:
    draws = torch.Generator().manual_seed(seed)
    if kind != "captions":
        return Condition(labels=torch.randint(0, 5, (3,), generator=draws))
    # Padded at the left.
    mask = torch.arange(5) >= 5 - torch.tensor(real)[:, None]
    return Condition(features=torch.randn(3, 5, 6, generator=draws), mask=mask)


@pytest.fixture(autouse=True)
def short_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let small models pass several stretches."""
    monkeypatch.setattr(static_shapes, "SHORTEST", 16)


@pytest.mark.parametrize("options", FILTERS)
@pytest.mark.parametrize("kind", MODELS)
def test_the_same_codes(kind: str, options: dict[str, Any]) -> None:
    network, condition = moved(MODELS[kind]()), condition_of(kind)
    logits: list[list[Tensor]] = [[], []]
    codes = [
        sample(network, condition, seeds=SEEDS, static=static, **options)
        for static in (False, True)
    ]
    for static, kept in enumerate(logits):
        watched = sample(
            network, condition, seeds=SEEDS, static=bool(static),
            watch=lambda seen, places, factor: kept.append(seen), **options,  # noqa: B023
        )  # fmt: skip
        assert torch.equal(codes[static], watched)
    assert torch.equal(*codes)
    for counted, fixed in zip(*logits, strict=True):
        torch.testing.assert_close(counted, fixed, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", MODELS)
def test_kept_codes_are_kept_and_seen(kind: str) -> None:
    network, condition = moved(MODELS[kind]()), condition_of(kind)
    given = sample(network, condition, seeds=[1, 2, 3])
    length = network.spec.to_sequence(given).shape[1]
    keep = torch.rand(3, length, generator=torch.Generator().manual_seed(0)) < 0.5
    options: dict[str, Any] = {"seeds": SEEDS, "given": given, "keep": keep}
    codes = sample(network, condition, static=True, **options)
    assert torch.equal(codes, sample(network, condition, static=False, **options))
    own = network.spec.to_sequence
    assert torch.equal(own(codes)[keep], own(given)[keep])


def static_steps(
    network: Generator, condition: Condition, seeds: list[int], guidance: Guidance
) -> tuple[StaticSteps, SeededDraw]:
    shape = network.spec.to_sequence(torch.zeros(1, *network.sizes, dtype=torch.int64)).shape[1:]
    session = network.static_session(condition, batch=3, guided=guidance.active)
    draw = SeededDraw(
        uniform_numbers(seeds, tuple(shape)), guidance, TokenFilter(), steps=session.steps
    )
    codes = torch.zeros(3, *shape, dtype=torch.int64)
    return StaticSteps(session, draw.in_own_memory(), codes, capture=False), draw


@pytest.mark.parametrize("kind", MODELS)
def test_the_same_memory_serves_another_generation(kind: str) -> None:
    """What is left from the generation before changes nothing: captured steps live on that."""
    network = moved(MODELS[kind]())
    guidance = [Guidance(scale=2.0), Guidance(scale=4.0, schedule="linear")]
    # The second captions are the longer ones, then the shorter ones come back.
    conditions = [condition_of(kind, 0, (3, 2, 1)), condition_of(kind, 1, (5, 5, 5))]
    with torch.inference_mode():
        run, _ = static_steps(network, conditions[0], [1, 2, 3], guidance[0])
        for turn in (0, 1, 0):
            seeds = [turn + 1, 2, 3]
            run.begin(
                conditions[turn],
                static_steps(network, conditions[turn], seeds, guidance[turn])[1],
            )
            for step in range(run.steps):
                run(step)
            codes = network.spec.from_sequence(run.codes.clone(), network.sizes)
            expected = sample(
                network, conditions[turn], seeds=seeds, guidance=guidance[turn], static=False
            )
            assert torch.equal(codes, expected)


@pytest.mark.parametrize("kind", [kind for kind in MODELS if kind != "captions"])
def test_nothing_is_asked_of_the_device(kind: str) -> None:
    """A device without memory answers nothing, and takes no tensor of the host either."""
    network = moved(MODELS[kind]()).to("meta")
    codes = sample(network, LABELS, seeds=SEEDS, static=True, **FILTERS[1])
    assert codes.is_meta and codes.shape == (3, *network.sizes)


@pytest.mark.parametrize("kind", MODELS)
def test_captured_steps(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replayed steps draw other samples right, and other weights in the same place."""
    network, tapes = moved(MODELS[kind]()), stand_in(monkeypatch)
    steps = len(network.tables["windows"]) if kind[:3] != "RAR" else network.settings.length
    for turn, guidance in enumerate((
        Guidance(scale=2.0), Guidance(scale=4.0, schedule="linear"), Guidance(scale=2.0, stop=7)
    )):  # fmt: skip
        options: dict[str, Any] = {
            "seeds": [turn, 8, 9], "guidance": guidance, "token_filter": TokenFilter(top_k=5)
        }
        condition = condition_of(kind, turn, ((3, 2, 1), (5, 5, 5), (2, 4, 5))[turn])
        codes = sample(network, condition, **options)
        assert torch.equal(codes, sample(network, condition, static=False, **options))
        with torch.no_grad():
            network.output.weight.mul_(-1)
    # The first of a stretch runs as it is, once; the first step of all belongs to none.
    stretches = len(tapes) - 1
    assert stretches >= 1 and sum(tape.replays for tape in tapes) == 3 * steps - stretches - 1
    captured = len(tapes)
    sample(network, condition, **options | {"token_filter": TokenFilter(top_k=6)})
    assert len(tapes) > captured
    network.output.weight = torch.nn.Parameter(network.output.weight.detach().clone())
    captured = len(tapes)
    sample(network, condition, **options | {"token_filter": TokenFilter(top_k=6)})
    assert len(tapes) > captured


def test_what_cannot_be_captured_runs_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stand_in(monkeypatch)

    def refuse(*args: Any, **options: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "graph", refuse)
    network = moved(MODELS["grid"]())
    for _ in range(2):
        codes = sample(network, LABELS, seeds=SEEDS)
        assert torch.equal(codes, sample(network, LABELS, seeds=SEEDS, static=False))
    warned = [record.getMessage() for record in caplog.records]
    assert len(warned) == 1 and "not permitted when stream is capturing" in warned[0]


def test_a_generation_that_broke_off_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stand_in(monkeypatch)
    network = moved(MODELS["grid"]())

    def broken(steps: Iterable[int]) -> Iterator[int]:
        yield from range(5)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(network, LABELS, seeds=SEEDS, progress=broken)
    codes = sample(network, LABELS, seeds=SEEDS)
    assert torch.equal(codes, sample(network, LABELS, seeds=SEEDS, static=False))


def test_stretches() -> None:
    assert [Stretches(576).of(count) for count in (1, 144, 145, 576)] == [144, 144, 288, 576]
    assert [Stretches(37).of(count) for count in (1, 16, 17, 37)] == [16, 16, 32, 48]
    shapes = Stretches(1000)
    assert shapes.longest == 1008 and shapes.part % 16 == 0
    assert all(count <= shapes.of(count) <= shapes.longest for count in range(1, 1001))
    assert len({shapes.of(count) for count in range(1, 1001)}) == 4
    causal = Stretches(5).causal(like=torch.zeros(1))
    assert causal.shape == (16, 16) and torch.equal(causal.exp().sum(1), torch.arange(1.0, 17.0))


def test_what_a_generator_keeps_is_not_copied_with_it() -> None:
    network = moved(MODELS["grid"]())
    codes = torch.zeros(3, 48, 1, dtype=torch.int64)
    with torch.inference_mode(), kept_steps(
        network, LABELS,
        lambda steps: SeededDraw(torch.rand(3, 48, 1), Guidance(), TokenFilter(), steps=steps),
        codes, guided=False, capture=False, decided_by=(),
    ) as run:  # fmt: skip
        assert run.steps == 48
    kept = network.__dict__["_kept_steps"]
    assert kept.steps is None  # only captured ones are worth their memory
    kept.steps = run
    assert copy.deepcopy(network).__dict__["_kept_steps"].steps is None
    assert pickle.loads(pickle.dumps(kept)).steps is None
    forget_steps(network)
    assert "_kept_steps" not in network.__dict__


def test_a_generator_without_them() -> None:
    spec = TokenSpec(
        modality="image", axes=(Axis(name="scale_token", size=5, minimum=5),), vocabulary=(4,),
        scales=((1, 1), (2, 2)),
    )  # fmt: skip
    network = NextScale(spec=spec.to_json(), **SIZES)
    with pytest.raises(ConfigError, match="NextScale has no steps of fixed shapes; leave static"):
        sample(network, LABELS, seeds=SEEDS, static=True)


# -- compiled ------------------------------------------------------------------------------------


@pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="inductor needs a C++ compiler"
)
def test_compiled_blocks_draw_the_same_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks share one compiled form, whatever the batch and the stretch of the cache."""
    # Sizes that are equal at first count as one for the compiler; no stretch is a head's width.
    monkeypatch.setattr(static_shapes, "SHORTEST", 24)
    network = moved(MODELS["grid"]())
    fewer = Condition(labels=torch.tensor([0, 4]))
    guidance = Guidance(scale=2.0)
    whole = sample(network, LABELS, seeds=SEEDS, guidance=guidance)
    torch._dynamo.reset()
    network.compile_repeated_blocks(fullgraph=True, dynamic=True)
    # Compiled blocks make steps of fixed shapes the default.
    with torch._dynamo.config.patch(error_on_recompile=True):
        assert torch.equal(sample(network, LABELS, seeds=SEEDS, guidance=guidance), whole)
        part = sample(network, fewer, seeds=SEEDS[:2], guidance=guidance)
    assert torch.equal(part[0], whole[0])
    assert network.__dict__.get("_kept_steps") is not None


# -- the number that decides ---------------------------------------------------------------------


def test_a_number_decides_as_the_sums_say() -> None:
    probabilities = torch.tensor([[0.0, 0.25, 0.0, 0.5, 0.25, 0.0]])
    numbers = torch.tensor([0.0, 0.249, 0.25, 0.7499, 0.75, 1 - 2**-24])
    drawn = inverse_draw(probabilities.expand(6, -1), numbers)
    assert drawn.tolist() == [1, 1, 3, 3, 4, 4]
    # Just below 1, which rounding may turn into the whole sum.
    below = torch.tensor([math.nextafter(1.0, 0.0)], dtype=torch.float64)
    for scale in (1.0, 1e-30, 3e4):
        assert inverse_draw(probabilities * scale, below).tolist() == [4]
    logits = torch.randn(4, 3, 20, generator=torch.Generator().manual_seed(0))
    greedy = TokenFilter(temperature=0)
    assert torch.equal(
        greedy.draw(logits, torch.rand(4, 3)),
        inverse_draw(greedy.probabilities(logits), torch.rand(4, 3)),
    )
