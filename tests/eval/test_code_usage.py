"""Code usage: by hand, every layout of codes, variable lengths, memory rule, state."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from eval.code_usage import ENTRIES, CodeUsage, factor_names, fixed_positions
from tests.eval.tiny_tokenizers import pictures, tiny_titok
from tok_core.codebook_usage import CodebookUsage, entropy, perplexity
from tok_core.contract import Tokens
from tok_core.errors import ConfigError, TokenError
from tok_core.token_spec import Axis, TokenSpec


def spec(*axes: tuple[str, int | None], vocabulary: tuple[int, ...] = (8,)) -> TokenSpec:
    made = tuple(Axis(name=name, size=size) for name, size in axes)
    modality = "audio" if any(name == "time" for name, _ in axes) else "image"
    return TokenSpec(modality=modality, axes=made, vocabulary=vocabulary)


def numbers(metric: CodeUsage) -> dict[str, float]:
    return {key: float(value) for key, value in metric.compute().items() if value.ndim == 0}


def test_by_hand() -> None:
    metric = CodeUsage(spec(("token", 2), vocabulary=(4,)))
    metric.update(torch.tensor([[0, 1], [0, 2]]))
    metric.update(torch.tensor([[0, 1], [3, 1]]))
    found = metric.compute()
    assert found["codes/counts"].tolist() == [3, 3, 1, 1]
    assert found["codes/usage"] == 1
    quarter = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    assert found["codes/position_entropy"].tolist() == pytest.approx([quarter, quarter])
    assert found["codes/position_usage"].tolist() == [0.5, 0.5]
    assert float(found["codes/bits_bound"]) == pytest.approx(2 * quarter)
    assert float(found["codes/bits"]) == 4
    assert float(found["codes/entropy"]) == pytest.approx(0.75 * math.log2(8 / 3) + 0.75)
    assert float(found["codes/perplexity"]) == pytest.approx(2 ** float(found["codes/entropy"]))
    assert [float(found[f"codes/{key}"]) for key in ("items", "tokens")] == [4, 8]
    assert [float(found[f"codes/{key}_frequency"]) for key in ("min", "max")] == [1, 3]


@settings(max_examples=15, deadline=None)
@given(size=st.integers(1, 40), length=st.integers(1, 9), seed=st.integers(0, 999))
def test_bounds(size: int, length: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, size, (6, length), generator=generator)
    metric = CodeUsage(spec(("token", length), vocabulary=(size,)))
    metric.update(codes)
    found, curves = numbers(metric), metric.compute()
    assert 0 < found["codes/usage"] <= 1
    assert 1 <= found["codes/perplexity"] <= size * (1 + 1e-12)
    assert found["codes/bits_bound"] <= found["codes/bits"] + 1e-9
    # Knowing the position never costs.
    assert found["codes/bits_bound"] <= length * found["codes/entropy"] + 1e-9
    assert curves["codes/counts"].sum() == codes.numel()
    meter = CodebookUsage(size, num_tokens=length)
    meter.update(codes)
    assert torch.equal(meter.compute()["codebook/counts"].double(), curves["codes/counts"].view(-1))
    assert float(meter.compute()["codebook/perplexity"]) == pytest.approx(
        found["codes/perplexity"], rel=1e-6
    )


LAYOUTS = {
    "grid": (spec(("row", 2), ("column", 3)), (2, 3), 6, 1),
    "free grid": (spec(("row", None), ("column", None)), (2, 3), 0, 1),
    "dimensions": (spec(("row", 2), ("column", 2), ("dimension", 3), vocabulary=(8, 8, 9)),
                   (2, 2, 3), 4, 3),
    "branches": (spec(("branch", 2), ("token", 4), vocabulary=(8, 9)), (2, 4), 4, 2),
    "sound": (spec(("level", 2), ("time", None), vocabulary=(8, 8)), (2, 5), 0, 2),
    "both": (spec(("branch", 2), ("level", 2), ("token", 3), vocabulary=(8, 8, 9, 9)),
             (2, 2, 3), 3, 4),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout(name: str) -> None:
    layout, sizes, positions, factors = LAYOUTS[name]
    codes = torch.randint(0, 8, (5, *sizes), generator=torch.Generator().manual_seed(1))
    assert fixed_positions(layout) == positions
    metric = CodeUsage(layout)
    metric.update(codes)
    found = metric.compute()
    sequence = layout.to_sequence(codes)
    names = [f"/{one}" for one in factor_names(layout)] if factors > 1 else [""]
    assert len(names) == factors
    for factor, label in enumerate(names):
        own = sequence[..., factor].flatten()
        counts = torch.bincount(own, minlength=layout.vocabulary[factor])
        assert torch.equal(found[f"codes/counts{label}"], counts.double())
        if factors > 1:
            wanted = float(entropy(counts)) / math.log(2)
            assert float(found[f"codes/entropy{label}"]) == pytest.approx(wanted)
    assert ("codes/position_entropy" in found) == (positions > 0)
    mean = torch.stack([
        entropy(found[f"codes/counts{label}"]) / math.log(2) for label in names
    ]).mean()
    assert float(found["codes/entropy"]) == pytest.approx(float(mean))


def test_names_of_factors() -> None:
    assert factor_names(LAYOUTS["both"][0])[1] == "branch0.level1"
    assert factor_names(LAYOUTS["sound"][0]) == ["level0", "level1"]


def test_a_prefix_of_the_levels_leaves_the_others_uncounted() -> None:
    axes = (Axis(name="branch", size=2), Axis(name="level", size=2, minimum=1), Axis(name="token"))
    two = TokenSpec(modality="image", axes=axes, vocabulary=(8, 8, 8, 8))
    metric = CodeUsage(two)
    codes = torch.stack([torch.zeros(3, 1, 4), torch.ones(3, 1, 4)], dim=1).long()
    metric.update(codes)
    found = metric.compute()
    assert found["codes/counts/branch0.level0"][0] == 12
    assert found["codes/counts/branch1.level0"][1] == 12
    assert found["codes/entropy/branch1.level1"].isnan()
    assert float(found["codes/entropy"]) == 0
    assert float(found["codes/bits"]) == 4 * 2 * 3


def test_lengths_mask_what_was_dropped() -> None:
    codes = torch.tensor([[0, 1, 2, 3], [4, 5, 6, 7], [0, 2, 5, 5]])
    first = math.log2(3) - 2 / 3  # of shares 2/3 and 1/3
    metric = CodeUsage(spec(("token", 4)))
    metric.update(Tokens(codes, torch.tensor([4, 1, 2])))
    found = metric.compute()
    kept = torch.cat([codes[0], codes[1, :1], codes[2, :2]])
    assert torch.equal(found["codes/counts"], torch.bincount(kept, minlength=8).double())
    assert found["codes/position_entropy"].tolist() == pytest.approx([first, 1, 0, 0])
    # All three items reach position 0, two reach position 1, one goes on with no choice.
    assert float(found["codes/bits_bound"]) == pytest.approx((3 * first + 2 * 1) / 3)
    assert float(found["codes/bits"]) == pytest.approx(3 * 7 / 3)


def test_shorter_codes_leave_positions_undefined() -> None:
    axes = (Axis(name="token", size=4, minimum=1),)
    metric = CodeUsage(TokenSpec(modality="image", axes=axes, vocabulary=(8,)))
    metric.update(torch.zeros(2, 3, dtype=torch.int64))
    assert metric.compute()["codes/position_entropy"].isnan().tolist() == [False] * 3 + [True]


def test_memory_is_bounded() -> None:
    large = CodeUsage(spec(("token", 256), vocabulary=(16384,)))
    assert large.by_position
    assert large.table0.shape == (256, 16384)
    huge = CodeUsage(spec(("token", 256), vocabulary=(2**18,)))
    assert not huge.by_position
    assert huge.table0.shape == (1, 2**18)
    huge.update(torch.full((2, 256), 2**18 - 1))
    found = huge.compute()
    assert found["codes/counts"][-1] == 512
    assert "codes/position_entropy" not in found
    with pytest.raises(ConfigError, match="larger table_bytes"):
        CodeUsage(spec(("token", 4)), table_bytes=63)


def test_without_positions_the_bound_is_the_codebook_s() -> None:
    sound = CodeUsage(spec(("level", 1), ("time", None)))
    codes = torch.tensor([[[0, 1, 2, 3]], [[3, 2, 1, 0]]])
    sound.update(codes)
    assert float(sound.compute()["codes/bits_bound"]) == pytest.approx(4 * 2)
    by_place = CodeUsage(spec(("level", 1), ("time", None)), positions=4)
    by_place.update(codes)
    assert float(by_place.compute()["codes/bits_bound"]) == pytest.approx(4 * 1)
    with pytest.raises(TokenError, match="5 positions"):
        by_place.update(torch.zeros(1, 1, 5, dtype=torch.int64))


def test_state_comes_back() -> None:
    def metric() -> CodeUsage:
        return CodeUsage(LAYOUTS["both"][0])

    codes = torch.randint(0, 8, (6, 2, 2, 3))
    whole, first, resumed = metric(), metric(), metric()
    whole.update(codes)
    first.update(codes[:2])
    resumed.load_state_dict(first.state_dict())
    resumed.update(codes[2:])
    ours, theirs = whole.compute(), resumed.compute()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key].nan_to_num(), theirs[key].nan_to_num()) for key in ours)


def test_a_real_tokenizer() -> None:
    model = tiny_titok()
    for entry in ENTRIES:
        metric = entry.build(spec=model.spec, **entry.options)
        metric.update(model.encode(pictures(4)))
        found = metric.compute()
        assert set(entry.values) <= found.keys()
        assert float(found["codes/items"]) == 4


def test_epsilon_moves_the_value_down_a_little() -> None:
    codes: Tensor = torch.arange(8).view(1, 8)
    values = []
    for epsilon in (0.0, 1e-8):
        metric = CodeUsage(spec(("token", 8)), epsilon=epsilon)
        metric.update(codes)
        values.append(float(metric.compute()["codes/entropy"]))
    assert values[0] == pytest.approx(3, abs=1e-12)
    assert 0 < values[0] - values[1] < 1e-6


def test_codes_that_do_not_fit_are_told() -> None:
    metric = CodeUsage(spec(("token", 4)))
    with pytest.raises(TokenError, match="outside the vocabulary"):
        metric.update(torch.full((1, 4), 8))
    with pytest.raises(TokenError, match="this tokenizer needs"):
        metric.update(torch.zeros(1, 2, 2, dtype=torch.int64))


def test_ground_floor_arithmetic() -> None:
    counts = torch.tensor([[5, 5, 0, 0], [0, 0, 0, 0]])
    assert entropy(counts).tolist() == [pytest.approx(math.log(2)), 0]
    assert perplexity(counts).tolist() == [2, 0]
    assert not bool(torch.signbit(entropy(counts)).any())
