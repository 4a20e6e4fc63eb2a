"""The work that `benchmarks/token_shuffle_scale.py` states, against what torch counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from benchmark_script import benchmark_script
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from generators.contract import Condition
from generators.llamagen import LlamaGen
from tok_core.token_spec import Axis, TokenSpec


@pytest.fixture
def scale(monkeypatch: pytest.MonkeyPatch) -> Any:
    return benchmark_script("token_shuffle_scale", monkeypatch)


@pytest.mark.parametrize("options", [
    {}, {"window": 2}, {"window": 4, "shuffle_blocks": 1}, {"window": 2, "slot_head": "causal"},
])  # fmt: skip
def test_formula_is_what_torch_counts(scale: Any, options: dict[str, Any]) -> None:
    axes = (Axis(name="row", size=4, minimum=4), Axis(name="column", size=8, minimum=8))
    spec = TokenSpec(modality="image", axes=axes, vocabulary=(24,), grid=(4, 8))
    model = LlamaGen(
        spec=spec.to_json(), classes=3, width=32, layers=2, heads=2, hidden=48, dropout=0.0,
        **options,
    )  # fmt: skip
    codes, condition = torch.zeros(1, 4, 8, dtype=torch.int64), Condition(torch.tensor([1]))
    counter = FlopCounterMode(display=False)
    # The kernels of CPUs are not in torch's table of formulas, the plain products are.
    with counter, sdpa_kernel(SDPBackend.MATH):
        losses = model(codes, condition=condition).losses
        forward = counter.get_total_flops()
        losses["loss/tokens"].backward()
    parts = scale.flops_of(model)
    assert sum(parts.values()) == forward and counter.get_total_flops() == 3 * forward
    assert (parts["causal head"] > 0) == ("slot_head" in options)
    assert (parts["shuffle"] > 0) == ("window" in options)


def test_losses_at_equal_compute(scale: Any) -> None:
    from _token_shuffle_table import at_compute

    curve = [{"flops": flops, "loss": loss} for flops, loss in ((10.0, 5.0), (1000.0, 3.0))]
    assert at_compute(curve, 100.0) == pytest.approx(4.0)
    assert at_compute(curve, 1000.0) == 3.0 and at_compute(curve, 10.0) == 5.0
    assert at_compute(curve, 9.0) is None and at_compute(curve, 1001.0) is None


def test_where_a_curve_is_looked_at(scale: Any) -> None:
    assert scale.looks(1000, 4) == [32, 100, 316, 1000] and scale.looks(4, 1) == [4]
    assert scale.looks(5, 9)[-1] == 5
