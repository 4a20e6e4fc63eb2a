"""Two processes (gloo) get the contrastive loss and gradients of one on the joined batch."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from tests.two_processes import half, in_two, joined
from vision_tok.contrastive_loss import contrastive_loss

ITEMS, WIDTH, CODE = 6, 5, 4


class Pair(nn.Module):
    """Two projections, one of them shared by both sides as quant_conv is."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.own = nn.Linear(WIDTH, CODE), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        return self.shared(teacher), self.shared(self.own(x))


def gradients(rank: int | None) -> dict[str, Tensor]:
    """Losses and gradients of both forms."""
    torch.manual_seed(1)
    bare = Pair()
    model, own = joined(bare), half(rank, ITEMS)
    x, teacher = torch.randn(2, ITEMS, WIDTH, generator=torch.Generator().manual_seed(2))
    found = {}
    for normalize in (False, True):
        bare.zero_grad()
        loss = contrastive_loss(*model(x[own], teacher[own]), scale=2.0, normalize=normalize)
        loss.backward()
        found[f"loss/{normalize}"] = loss.detach()
        for name, parameter in bare.named_parameters():
            found[f"{name}/{normalize}"] = parameter.grad.clone()
    return found


def test_two_processes_are_one(tmp_path: Path) -> None:
    expected = gradients(None)
    first, second = in_two(gradients, tmp_path)
    assert len(expected) == 10
    for name, value in expected.items():
        torch.testing.assert_close(first[name], value, rtol=1e-4, atol=1e-6)
        assert torch.equal(first[name], second[name])
