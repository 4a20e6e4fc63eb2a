"""Augmentations of what the discriminator sees, against their plain definitions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vision_tok.diff_augment import (
    AugmentDraws,
    augment_draws,
    blur_schedule,
    diff_augment,
    warm_up_blur,
)

B, H, W = 3, 16, 24


def pictures() -> Tensor:
    return torch.rand(B, 3, H, W, generator=torch.Generator().manual_seed(0)) * 2 - 1


def draws(gates: tuple[float, float, float], seed: int = 1) -> AugmentDraws:
    generator = torch.Generator().manual_seed(seed)
    return AugmentDraws(torch.tensor(gates), torch.rand(7, B, 1, 1, generator=generator))


def test_translation_moves_whole_pixels_and_lets_zeros_in() -> None:
    x, given = pictures(), draws((0.0, 1.0, 1.0))
    out = diff_augment(x, given, probability=0.5)
    for item in range(B):
        down = int(float(given.values[0, item]) * 5) - 2
        right = int(float(given.values[1, item]) * 7) - 3
        expected = torch.zeros(3, H, W)
        for i in range(H):
            for j in range(W):
                if 0 <= i + down < H and 0 <= j + right < W:
                    expected[:, i, j] = x[item, :, i + down, j + right]
        assert torch.equal(out[item], expected)


def test_cutout_erases_one_rectangle() -> None:
    x = pictures()
    x[x.abs() < 0.01] = 0.5
    out = diff_augment(x, draws((1.0, 1.0, 0.0)), probability=0.5)
    erased = out == 0
    assert torch.equal(out[~erased], x[~erased])
    for item in range(B):
        assert torch.equal(erased[item, 0], erased[item, 1])
        rows, columns = (erased[item, 0].any(dim=d).sum() for d in (1, 0))
        assert erased[item, 0].sum() == rows * columns
        assert 1 <= rows <= round(0.2 * H)
        assert 1 <= columns <= round(0.2 * W)


def test_colour_keeps_what_it_says() -> None:
    x = pictures()
    values = torch.full((7, B, 1, 1), 0.5)
    same = diff_augment(x, AugmentDraws(torch.tensor([1.0, 0.0, 1.0]), values), probability=0.5)
    torch.testing.assert_close(same, x)
    values = values.clone()
    values[3] = 0.0  # no saturation: grey
    grey = diff_augment(x, AugmentDraws(torch.tensor([1.0, 0.0, 1.0]), values), probability=0.5)
    torch.testing.assert_close(grey, x.mean(1, keepdim=True).expand_as(x))


def test_gates_decide_for_the_whole_call() -> None:
    x = pictures()
    assert torch.equal(diff_augment(x, draws((0.6, 0.7, 0.8)), probability=0.5), x)
    assert not torch.equal(diff_augment(x, draws((0.6, 0.7, 0.8)), probability=0.7), x)


def test_gradients_flow_through_every_step() -> None:
    x = pictures().requires_grad_()
    diff_augment(warm_up_blur(x, 0.5), augment_draws(B)).sum().backward()
    assert x.grad is not None
    assert bool(x.grad.isfinite().all()) and float(x.grad.abs().sum()) > 0


def test_items_are_changed_alone() -> None:
    x, given = pictures(), draws((0.0, 0.0, 0.0))
    together = diff_augment(x, given)
    for item in range(B):
        one = AugmentDraws(given.gates, given.values[:, item : item + 1])
        torch.testing.assert_close(diff_augment(x[item : item + 1], one)[0], together[item])


@pytest.mark.parametrize("schedule", [1.0, 0.3, 0.05])
def test_blur_keeps_flat_pictures_and_fades(schedule: float) -> None:
    flat = torch.full((1, 3, 32, 32), 0.25)
    torch.testing.assert_close(warm_up_blur(flat, schedule), flat)
    x = pictures()
    assert warm_up_blur(x, schedule).shape == x.shape
    assert warm_up_blur(x, 1.0).var() < warm_up_blur(x, 0.5).var() < x.var()


def test_blur_schedule() -> None:
    published = [blur_schedule(step, 10, 1) for step in (0, 9, 10, 11, 20)]
    assert published == [1.0, 1.0, 1.0, 0.0, 0.0]
    assert blur_schedule(12, 10, 4) == 0.5
    assert blur_schedule(0, 10, 0) == 0.0
