"""MaskGIT over several layouts of tokens, its networks, masks and losses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from generators.contract import Condition
from generators.mask_schedule import least_sure, masked_after, training_mask
from generators.masked_token_loss import masked_token_losses
from generators.maskgit import MaskGIT
from generators.maskgit_config import NETWORKS
from tok_core.errors import ConfigError, TesseraError, TokenError
from tok_core.token_spec import Axis, TokenSpec


def axis(name: str, size: int | None) -> Axis:
    return Axis(name=name, size=size, minimum=size or 1)


SPECS = {
    "sequence": TokenSpec(modality="image", axes=(Axis(name="token", size=8),), vocabulary=(11,)),
    "grid": TokenSpec(modality="image", axes=(axis("row", 2), axis("column", 3)), vocabulary=(11,)),
    "product": TokenSpec(modality="image", axes=(axis("branch", 2), axis("row", 2),
                         axis("column", 2)), vocabulary=(7, 9)),
    "sound": TokenSpec(modality="audio", axes=(axis("level", 3), axis("time", 5)),
                       vocabulary=(8, 8, 8), token_rate=50.0),
}  # fmt: skip
SIZES: dict[str, Any] = {"width": 32, "layers": 2, "heads": 2, "hidden": 48}
LABELS = Condition(labels=torch.tensor([0, 4, 2]))


def model(kind: str = "sequence", **options: Any) -> MaskGIT:
    torch.manual_seed(0)
    chosen = {"classes": 5, "dropout": 0.0, "attention_dropout": 0.0, **SIZES, **options}
    made = MaskGIT(spec=SPECS[kind].to_json(), **chosen)
    # Nothing stays at a value that hides a wrong wire.
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made.eval()


def codes_of(kind: str, batch: int = 3) -> Tensor:
    torch.manual_seed(1)
    sizes = [a.size or 0 for a in SPECS[kind].axes]
    return torch.randint(0, min(SPECS[kind].vocabulary), (batch, *sizes))


FORMS = [(kind, network) for kind in SPECS for network in NETWORKS]


@pytest.mark.parametrize(("kind", "network"), FORMS)
def test_a_training_step_reaches_every_parameter(kind: str, network: str) -> None:
    made, spec = model(kind, network=network, condition_dropout=0.5).train(), SPECS[kind]
    out = made(codes_of(kind, 16), condition=Condition(labels=torch.arange(16) % 5))
    length = made.settings.length
    assert out.logits.shape == (16, length, spec.factors, max(spec.vocabulary))
    assert out.logits.dtype == torch.float32
    for factor, size in enumerate(spec.vocabulary):
        assert out.logits[:, :, factor, :size].isfinite().all()
        assert (out.logits[:, :, factor, size:] == -math.inf).all()
    sum(out.losses.values(), torch.zeros(())).backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    assert out.statistics["loss_per_position"].shape == (length,)


@pytest.mark.parametrize(("kind", "network"), FORMS)
def test_saved_and_loaded_it_is_the_same(kind: str, network: str, tmp_path: Path) -> None:
    made, codes = model(kind, network=network, code_hash="ab" * 32), codes_of(kind)
    made.save_pretrained(tmp_path / "model")
    again = MaskGIT.from_pretrained(tmp_path / "model")
    assert again.spec == SPECS[kind] and again.config.code_hash == "ab" * 32
    assert not again.training and again.weights_hash() == made.weights_hash()
    assert torch.equal(again(codes, condition=LABELS).logits, made(codes, condition=LABELS).logits)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_batch_gives_what_its_items_give_alone(network: str) -> None:
    made, codes = model(network=network), codes_of("sequence")
    whole = made(codes, condition=LABELS)
    assert LABELS.labels is not None
    for i in range(len(codes)):
        alone = made(codes[i : i + 1], condition=Condition(labels=LABELS.labels[i : i + 1]))
        assert torch.allclose(alone.logits, whole.logits[i : i + 1], atol=1e-5)
    assert torch.equal(made(codes, condition=LABELS).logits, whole.logits)


@pytest.mark.parametrize(("kind", "network"), FORMS)
def test_masked_codes_are_not_seen_and_others_are(kind: str, network: str) -> None:
    made, codes = model(kind, network=network), codes_of(kind)
    masked = torch.zeros(3, made.settings.length, dtype=torch.bool)
    masked[:, 1::2] = True
    sequence = made.spec.to_sequence(codes)
    first = made(codes, condition=LABELS, masked=masked).logits
    hidden = torch.where(masked[..., None], (sequence + 1) % 7, sequence)
    shown = torch.where(masked[..., None], sequence, (sequence + 1) % 7)
    for changed, same in ((hidden, True), (shown, False)):
        back = made.spec.from_sequence(changed, made.sizes)
        assert torch.equal(made(back, condition=LABELS, masked=masked).logits, first) is same
    assert not torch.allclose(
        made(codes, condition=Condition(labels=torch.tensor([1, 1, 1])), masked=masked).logits,
        first, equal_nan=True,
    )  # fmt: skip


def test_labels_are_dropped_in_training_alone() -> None:
    made, codes = model(condition_dropout=1.0), codes_of("sequence")
    masked = torch.ones(3, 8, dtype=torch.bool)
    null = made.predict(codes[..., None], masked, made.condition.null(3))[0]
    kept = made(codes, condition=LABELS, masked=masked).logits[:, :, 0]
    dropped = made.train()(codes, condition=LABELS, masked=masked).logits[:, :, 0]
    assert torch.allclose(dropped, null, atol=1e-6) and not torch.allclose(kept, null, atol=1e-3)


def test_masks_are_drawn_anew_in_training_and_follow_from_the_codes_otherwise() -> None:
    made, codes = model(), codes_of("sequence", 32)
    condition = Condition(labels=torch.zeros(32, dtype=torch.int64))
    shares = [float(made(codes, condition=condition).statistics["masked"]) for _ in range(2)]
    made.train()
    drawn = [float(made(codes, condition=condition).statistics["masked"]) for _ in range(4)]
    assert shares[0] == shares[1] and len(set(drawn)) > 1
    assert all(0.3 < share < 0.95 for share in shares + drawn)  # 2 / pi on average


def test_an_unconditional_model_needs_no_labels() -> None:
    made = model(classes=0).train()
    loss = made(codes_of("sequence")).losses["loss/tokens"]
    assert loss.isfinite()
    with pytest.raises(ConfigError, match="knows no classes"):
        made(codes_of("sequence"), condition=LABELS)


@pytest.mark.parametrize("network", NETWORKS)
def test_gradient_checkpointing_changes_nothing(network: str) -> None:
    found = []
    for checkpointing in (False, True):
        made = model(network=network).train()
        if checkpointing:
            made.enable_gradient_checkpointing()
            assert made.trunk.gradient_checkpointing
        torch.manual_seed(3)
        made(codes_of("sequence"), condition=LABELS).losses["loss/tokens"].backward()
        found.append([parameter.grad for parameter in made.parameters()])
    for plain, cheap in zip(*found, strict=True):
        assert plain is not None and cheap is not None and torch.allclose(plain, cheap, atol=1e-6)


def test_it_learns() -> None:
    made = model(condition_dropout=0.0).train()
    codes, condition = codes_of("sequence", 4), Condition(labels=torch.arange(4))
    optimizer = torch.optim.AdamW(made.parameters(), lr=3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        out = made(codes, condition=condition)
        out.losses["loss/tokens"].backward()
        optimizer.step()
    masked = torch.ones(4, 8, dtype=torch.bool)
    last = made.eval()(codes, condition=condition, masked=masked)
    assert last.statistics["accuracy"] > 0.95


WRONG = [
    ({"network": "berd"}, "did you mean 'bert'"),
    ({"network": "uvit", "layers": 3}, "even number"),
    ({"heads": 3}, "no multiple"),
    ({"width": 0}, "width is 0"),
    ({"classes": -1}, "classes is -1"),
    ({"label_smoothing": 1.5}, "label_smoothing is 1.5"),
    ({"spec": '{"axes": 3}'}, "not a token spec"),
    ({"spec": TokenSpec(modality="audio", axes=(Axis(name="time"),), vocabulary=(4,)).to_json()},
     "leaves the size along 'time' open"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "says"), WRONG, ids=[says for _, says in WRONG])
def test_wrong_options_are_one_sentence(options: dict[str, Any], says: str) -> None:
    with pytest.raises(TesseraError, match=says) as caught:
        MaskGIT(**{"spec": SPECS["sequence"].to_json(), **SIZES, **options})
    assert "\n" not in str(caught.value)


def test_wrong_inputs_are_one_sentence() -> None:
    made, codes = model(), codes_of("sequence")
    for wrong in (codes[:, :4], codes + 11, codes.float()):
        with pytest.raises(TokenError):
            made(wrong, condition=LABELS)
    for mask in (torch.ones(3, 7, dtype=torch.bool), torch.ones(3, 8)):
        with pytest.raises(TokenError, match="masks of shape"):
            made(codes, condition=LABELS, masked=mask)
    for condition in (Condition(), Condition(labels=torch.tensor([5, 0, 0])),
                      Condition(features=torch.zeros(3, 2, 4))):  # fmt: skip
        with pytest.raises(ConfigError):
            made(codes, condition=condition)
    with pytest.raises(ConfigError, match="sample_masked"):
        made.session(LABELS, batch=3, guided=False)


# -- the parts -----------------------------------------------------------------------------------


def test_the_first_number_of_a_row_says_how_many_are_masked() -> None:
    numbers = torch.rand(64, 101)
    masked = training_mask(numbers)
    for row, first in zip(masked, numbers[:, 0].tolist(), strict=True):
        assert abs(int(row.sum()) - max(1, 100 * math.acos(first) / (math.pi / 2))) <= 0.501
    edges = torch.tensor([[0.0, 0.5, 0.1], [1.0, 0.5, 0.1]])
    assert training_mask(edges).tolist() == [[True, True], [False, True]]


@given(length=st.integers(1, 300), steps=st.integers(1, 80))
def test_every_step_reveals_until_nothing_is_masked(length: int, steps: int) -> None:
    masked = torch.tensor([length])
    for step in range(steps):
        after = masked_after(step, steps, masked, length)
        # One stays for the last step, so shorter codes than steps idle at the end.
        assert after < masked or (masked == 1 and after == 1)
        if 0 < step < steps - 1 and int(after) > 1 and int(masked) - int(after) > 1:
            assert int(after) == math.floor(length * math.acos((step + 1) / steps) * 2 / math.pi)
        masked = after
    assert int(masked) == 0


def test_the_least_sure_stay_masked_with_ties() -> None:
    confidence = torch.tensor([[3.0, 1.0, 2.0, math.inf]]).expand(3, 4)
    found = least_sure(confidence, torch.tensor([0, 1, 2]))
    assert found.tolist() == [[False] * 4, [False, True, False, False], [False, True, True, False]]
    tied = least_sure(torch.tensor([[1.0, 1.0, 2.0]]), torch.tensor([1]))
    assert tied.tolist() == [[True, True, False]]


def test_the_loss_is_a_weighted_mean_of_smoothed_cross_entropies() -> None:
    logits, codes = [torch.randn(2, 3, 5), torch.randn(2, 3, 4)], torch.randint(0, 4, (2, 3, 2))
    masked = torch.tensor([[True, False, True], [False, False, True]])
    losses, statistics = masked_token_losses(
        logits, codes, masked, smoothing=0.2, unmasked_weight=0.5
    )
    total, weights = 0.0, 0.0
    for b in range(2):
        for n in range(3):
            weight = 1.0 if masked[b, n] else 0.5
            for f in range(2):
                logs = F.log_softmax(logits[f][b, n], dim=0)
                total -= weight / 2 * float(0.8 * logs[codes[b, n, f]] + 0.2 * logs.mean())
            weights += weight
    assert float(losses["loss/tokens"]) == pytest.approx(total / weights, rel=1e-5)
    assert float(statistics["masked"]) == 0.5
    assert statistics["loss_per_position"][1] == 0
