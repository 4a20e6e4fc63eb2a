"""Stage 1: a frozen teacher's codes as the target."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from tok_core.contract import Tokenizer, Tokens, TrainingOutput
from tok_core.errors import ConfigError, WeightsError
from vision_tok.proxy_code_objective import ProxyCodeObjective, proxy_code_loss

CODES = 7


class PatchTeacher(Tokenizer):
    """A third party's smallest tokenizer: the code of a 4x4 patch is its strongest filter."""

    @register_to_config
    def __init__(self, codes: int = CODES) -> None:
        super().__init__()
        self.filters = nn.Conv2d(3, codes, 4, stride=4)
        self.drop = nn.Dropout(0.5)

    def encode(self, x: Tensor, **options: Any) -> Tokens:
        return Tokens(self.filters(self.drop(x)).argmax(1))


def _output(logits: Tensor, **more: Tensor) -> TrainingOutput:
    losses = {"quantizer/codebook": torch.tensor(0.5)}
    features = {"proxy_logits": logits} | more
    return TrainingOutput(None, Tokens(torch.zeros(2, 3).long()), losses, {}, features=features)


@pytest.fixture
def objective() -> ProxyCodeObjective:
    torch.manual_seed(0)
    return ProxyCodeObjective(PatchTeacher(), quantizer_weight=2.0).train()


def test_cross_entropy_is_the_mean_over_all_cells(objective: ProxyCodeObjective) -> None:
    torch.manual_seed(1)
    x = torch.rand(2, 3, 8, 12) * 2 - 1
    logits = torch.randn(2, CODES, 2, 3, requires_grad=True)
    codes = objective.teacher.encode(x).codes
    terms = objective.generator_losses(x, _output(logits), step=0)
    by_hand = [
        -logits[b].log_softmax(0)[codes[b, i, j], i, j]
        for b in range(2) for i in range(2) for j in range(3)
    ]
    assert set(terms) == {"loss/proxy_codes", "loss/quantizer/codebook"}
    torch.testing.assert_close(terms["loss/proxy_codes"], torch.stack(by_hand).mean())
    assert float(terms["loss/quantizer/codebook"]) == 1.0
    terms["loss/proxy_codes"].backward()
    assert logits.grad is not None
    accuracy = (logits.argmax(1) == codes).float().mean()
    torch.testing.assert_close(objective.last_statistics["proxy_codes/accuracy"], accuracy)


def test_perfect_logits_cost_nothing(objective: ProxyCodeObjective) -> None:
    x = torch.rand(2, 3, 8, 8) * 2 - 1
    codes = objective.teacher.encode(x).codes
    logits = 50.0 * F.one_hot(codes, CODES).movedim(-1, 1)
    terms = objective.generator_losses(x, _output(logits, shortened_proxy_logits=-logits), 0)
    assert float(terms["loss/proxy_codes"]) < 1e-6
    assert float(terms["loss/shortened/proxy_codes"]) > 10


def test_the_teacher_is_frozen_in_eval_mode_and_not_saved(objective: ProxyCodeObjective) -> None:
    assert not objective.teacher.training
    assert not any(p.requires_grad for p in objective.parameters())
    assert objective.state_dict() == {}
    objective.load_state_dict({})
    assert objective.discriminator is None
    assert not objective.discriminator_active(10**6)


def test_flat_codes_are_row_major() -> None:
    logits, codes = torch.randn(2, CODES, 3, 4), torch.randint(CODES, (2, 3, 4))
    grid = proxy_code_loss(logits, codes)
    torch.testing.assert_close(grid, proxy_code_loss(logits, codes.flatten(1)))
    torch.testing.assert_close(grid, F.cross_entropy(logits, codes))


def test_mistakes_are_sentences(objective: ProxyCodeObjective, tmp_path: Any) -> None:
    x = torch.zeros(2, 3, 8, 8)
    with pytest.raises(ConfigError, match=r"teacher gives 4 codes .* predicts 9"):
        objective.generator_losses(x, _output(torch.zeros(2, CODES, 3, 3)), 0)
    no_head = _output(torch.zeros(2, CODES, 2, 2))._replace(features={})
    with pytest.raises(ConfigError, match="proxy"):
        objective.generator_losses(x, no_head, 0)
    with pytest.raises(WeightsError):
        ProxyCodeObjective.from_path(tmp_path / "nowhere")
