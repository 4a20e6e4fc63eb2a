"""The contrastive loss: its formula, its scale, its place in the objective."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from tok_core.contract import Tokens, TrainingOutput
from tok_core.errors import ConfigError
from vision_tok.contrastive_loss import contrastive_loss, ramped_scale
from vision_tok.contrastive_semantics import ContrastiveSemantics

ITEMS, CODE = 6, 4


def test_formula() -> None:
    teacher, tokens = torch.randn(2, ITEMS, CODE)
    logits = teacher @ tokens.t()
    rows = logits.logsumexp(1).mean() + logits.logsumexp(0).mean() - 2 * logits.diag().mean()
    torch.testing.assert_close(contrastive_loss(teacher, tokens), rows / 2)


def test_nothing_told_apart_and_all_told_apart() -> None:
    same = torch.ones(ITEMS, CODE)
    assert float(contrastive_loss(same, same)) == pytest.approx(math.log(ITEMS))
    apart = torch.eye(ITEMS)
    sharp = contrastive_loss(apart, 3 * apart, scale=100.0, normalize=True)
    assert float(sharp) < 1e-6


def test_normalised_features_forget_their_length() -> None:
    teacher, tokens = torch.randn(2, ITEMS, CODE)
    plain = contrastive_loss(teacher, tokens, normalize=True)
    torch.testing.assert_close(contrastive_loss(7 * teacher, tokens, normalize=True), plain)
    assert not torch.isclose(contrastive_loss(7 * teacher, tokens), plain)


def test_ramp() -> None:
    assert [ramped_scale(step, 200) for step in (0, 100, 200, 300)] == [1.0, 50.5, 100.0, 100.0]
    assert ramped_scale(0, 0) == 100.0


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match=r"\(3, 4\).*\(3, 5\).*agree"):
        contrastive_loss(torch.zeros(3, 4), torch.zeros(3, 5))


# -- the term of the objective -------------------------------------------------------------------


class Teacher(nn.Module):
    """The mean colour as a class feature."""

    def class_feature(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


def output(features: dict[str, Tensor]) -> TrainingOutput:
    return TrainingOutput(None, Tokens(torch.zeros(2, 1).long()), {}, {}, features=features)


def test_term_picks_clean_or_perturbed_tokens_and_averages_branches() -> None:
    teacher, clean, perturbed = torch.randn(5, ITEMS, CODE).split([1, 2, 2])
    out = output({
        "semantic_teacher": teacher[0], "semantic_tokens": clean,
        "semantic_tokens_perturbed": perturbed,
    })  # fmt: skip
    for name, tokens in (("clean", clean), ("perturbed", perturbed)):
        term = ContrastiveSemantics(Teacher(), tokens=name)  # type: ignore[arg-type]
        each = [contrastive_loss(teacher[0], branch) for branch in tokens]
        torch.testing.assert_close(term(out, 0), torch.stack(each).mean())
    ramped = ContrastiveSemantics(Teacher(), clip_norm=True, ramp_steps=10)  # type: ignore[arg-type]
    each = [contrastive_loss(teacher[0], b, scale=50.5, normalize=True) for b in clean]
    torch.testing.assert_close(ramped(out, 5), torch.stack(each).mean())


def test_term_hands_the_teacher_to_the_model() -> None:
    term = ContrastiveSemantics(Teacher())  # type: ignore[arg-type]
    assert term.model_inputs(torch.zeros(2, 3, 4, 4))["teacher_feature"].shape == (2, 3)


def test_a_tokenizer_without_semantic_tokens() -> None:
    with pytest.raises(ConfigError, match=r"contrastive_weight.*RobusTok"):
        ContrastiveSemantics(Teacher())(output({}), 0)  # type: ignore[arg-type]
