"""The fast linear layer computes what nn.Linear computes, in every form."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tok_core import fast_linear as module
from tok_core.fast_linear import FORMS, Linear, fast_linear
from tok_core.transformer import TransformerBlock


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("m", "k", "n"), [(1, 300, 7), (2, 512, 1536), (33, 64, 96), (513, 96, 64)]
)
def test_every_form_is_equal(form: str, m: int, k: int, n: int, bias: bool) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(m, k), torch.randn(n, k) / k**0.5
    offset = torch.randn(n) if bias else None
    expected = nn.functional.linear(x, weight, offset)
    assert torch.allclose(FORMS[form](x, weight, offset), expected, atol=1e-5)


def test_keys_and_initial_numbers_are_those_of_nn_linear() -> None:
    torch.manual_seed(0)
    plain = nn.Linear(5, 7)
    torch.manual_seed(0)
    fast = Linear(5, 7)
    assert list(fast.state_dict()) == list(plain.state_dict())
    assert torch.equal(fast.weight, plain.weight)


@pytest.mark.parametrize("winner", ["linear", "convolution"])
def test_the_measured_winner_runs_and_is_measured_once(
    winner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[str] = []

    def seconds(name: str, *args: object) -> float:
        timed.append(name)
        return 0.5 if name == winner else 1.0

    monkeypatch.setattr(module, "_seconds", seconds)
    module.forget_choices()
    x, layer = torch.randn(2, 129, 256), Linear(256, 512)
    with torch.no_grad():
        out = layer(x)
        layer(x[:, :127])  # 254 rows fall into the same bucket as 129..255
        layer(torch.randn(2, 130, 256))  # so do 260 and 258
    assert set(module.measured_choices().values()) == {winner} and len(timed) == 4
    assert torch.allclose(out, nn.functional.linear(x, layer.weight, layer.bias), atol=1e-5)
    module.forget_choices()


def test_few_rows_choose_among_their_own_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: dict[int, list[str]] = {}

    def seconds(name: str, rows: torch.Tensor, *args: object) -> float:
        timed.setdefault(len(rows), []).append(name)
        return 0.5 if name == "transposed" and len(rows) == 2 else 1.0

    monkeypatch.setattr(module, "_seconds", seconds)
    module.forget_choices()
    layer = Linear(512, 1024)
    with torch.no_grad():
        for rows in (1, 2, 16):
            x = torch.randn(rows, 512)
            expected = nn.functional.linear(x, layer.weight, layer.bias)
            assert torch.allclose(layer(x), expected, atol=1e-5)
    assert timed == {rows: ["linear", "transposed"] for rows in (1, 2, 16)}
    assert list(module.measured_choices().values()) == ["linear", "transposed", "linear"]
    module.forget_choices()


def test_a_held_form_runs_without_a_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds(name: str, *args: object) -> float:
        raise AssertionError("measured")

    monkeypatch.setattr(module, "_seconds", seconds)
    layer, x = Linear(256, 512), torch.randn(1024, 256)
    module.hold_form("convolution")
    try:
        with torch.no_grad():
            assert torch.equal(layer(x), FORMS["convolution"](x, layer.weight, layer.bias))
    finally:
        module.forget_choices()


def test_training_small_products_and_meta_take_the_ordinary_path() -> None:
    module.forget_choices()
    big = torch.randn(512, 256)
    layer = Linear(256, 512)
    layer(big)  # the weight wants a gradient
    with torch.no_grad():
        layer(big[:3])  # too small to choose
        Linear(256, 512, device="meta")(big.to("meta"))
        fast_linear(big, torch.randn(256, 512).t())  # not contiguous
    assert module.measured_choices() == {}


def test_autocast_is_measured_and_run_in_its_own_dtype() -> None:
    module.forget_choices()
    layer = Linear(256, 512)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(torch.randn(512, 256))
    assert out.dtype == torch.bfloat16
    assert [key[3] for key in module.measured_choices()] == [torch.bfloat16]
    module.forget_choices()


def test_a_block_is_torchs_attention_and_mlp() -> None:
    torch.manual_seed(0)
    block = TransformerBlock(32, 4).eval()
    peer = nn.MultiheadAttention(32, 4, batch_first=True)
    with torch.no_grad():
        peer.in_proj_weight.copy_(block.attention.qkv.weight)
        peer.in_proj_bias.copy_(block.attention.qkv.bias.normal_())
        peer.out_proj.load_state_dict(block.attention.out.state_dict())
    x = torch.randn(3, 9, 32)
    y = block.attention_norm(x)
    hidden = torch.arange(9) < torch.tensor([[9], [4], [1]])
    h = x + peer(y, y, y, key_padding_mask=~hidden)[0]
    mlp = block.mlp
    expected = h + mlp.down(nn.functional.gelu(mlp.up(block.mlp_norm(h))))
    assert torch.allclose(block(x, hidden), expected, atol=1e-5)
