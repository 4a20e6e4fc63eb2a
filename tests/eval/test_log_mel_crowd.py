"""The distance of two crowds of sounds: zero for the same; it hears level, timbre and rhythm."""

from __future__ import annotations

import pytest
import torch

from eval.log_mel_crowd import BANDS, crowd_distance, log_mel_statistics
from tok_core.errors import ConfigError

RATE = 16_000


def noises(seed: int, count: int = 90, samples: int = 8000) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(count, 1, samples, generator=random)


def test_statistics_do_not_depend_on_the_others() -> None:
    sounds = noises(0)
    together = log_mel_statistics(sounds, RATE)
    assert together.shape == (90, 2 * BANDS) and together.dtype == torch.float64
    torch.testing.assert_close(log_mel_statistics(sounds[70:71], RATE)[0], together[70])


def test_more_wrong_is_farther() -> None:
    real, same_kind = noises(1), noises(2)
    near = crowd_distance(same_kind, real, RATE)
    assert crowd_distance(real, real, RATE) == pytest.approx(0, abs=1e-6)
    softer = crowd_distance(0.5 * same_kind, real, RATE)
    # Halving every band moves each mean by log 2.
    assert softer - near == pytest.approx(BANDS * torch.tensor(2.0).log().item() ** 2, rel=0.05)
    muffled = torch.nn.functional.avg_pool1d(same_kind, 5, 1, 2)
    on_off = same_kind * (torch.arange(8000) // 1000 % 2)
    assert all(crowd_distance(odd, real, RATE) > 100 * near for odd in (muffled, on_off))


def test_one_sound_is_no_crowd() -> None:
    with pytest.raises(ConfigError):
        crowd_distance(noises(0)[:1], noises(1), RATE)
