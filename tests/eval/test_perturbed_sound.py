"""Perturbed scores of codecs: clean, perturbed, loss, lengths, rates, state."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_audio import RATE, make_sound, tiny_codec
from torch import Tensor
from torchmetrics import Metric

from eval.metric_entry import MetricEntry
from eval.perturbed_decoding import PerturbationGrid, PerturbedDecoder
from eval.perturbed_sound import PerturbedSound
from eval.registry import entry_named
from tests.eval.tiny_sound_networks import utmos_state
from tests.eval.tiny_tokenizers import tiny_titok
from tok_core.errors import ConfigError, MediaError

GRID = PerturbationGrid.product("test", (0.3, 1.0), (2, 32))


class Error(Metric):
    """Mean squared difference of pairs of equal length, a mean over sounds."""

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, sample_rate: int = RATE, sign: float = 1.0) -> None:
        super().__init__()
        self.sample_rate, self.sign = sample_rate, sign
        self.lengths: list[int] = []
        for name in ("total", "count"):
            self.add_state(name, torch.zeros(()).double(), "sum", persistent=True)

    def update(self, decoded: Tensor, original: Tensor) -> None:
        """Take (1, T) twice."""
        assert original.shape == decoded.shape
        self.lengths.append(original.shape[1])
        self.total += (original - decoded).double().square().mean()
        self.count += 1

    def compute(self) -> Tensor:
        """Return the mean."""
        return self.sign * self.total / self.count


class Level(Error):
    """Power of a single sound, as one of two values."""

    def update(self, sound: Tensor) -> None:  # type: ignore[override]
        """Take (1, T)."""
        super().update(sound, torch.zeros_like(sound))

    def compute(self) -> dict[str, Tensor]:  # type: ignore[override]
        """Return two values."""
        return {"power": super().compute(), "count": self.count}


def entry(build: Any, name: str = "error", **changes: Any) -> MetricEntry:
    plain: dict[str, Any] = {
        "name": name, "title": name, "sense": "audio", "kind": "paired",
        "higher_is_better": False, "build": build, "options": {},
    }  # fmt: skip
    return MetricEntry(**plain | changes)


def sounds(batch: int = 3) -> Tensor:
    return torch.stack([torch.from_numpy(make_sound(0.4, RATE, seed=s)) for s in range(batch)])


def scores(metric: PerturbedSound, x: Tensor, batch: int = 2, **more: Any) -> dict[str, float]:
    for at in range(0, len(x), batch):
        part = {name: value[at : at + batch] for name, value in more.items()}
        metric.update(x[at : at + batch], range(at, min(at + batch, len(x))), **part)
    return {name: float(value) for name, value in metric.compute().items()}


def test_means_losses_and_settings() -> None:
    codec, x = tiny_codec(), sounds()
    found = scores(PerturbedSound(codec, [entry(Error)], grid=GRID), x, 3)
    each = []
    for batch in PerturbedDecoder(tokenizer=codec, grid=GRID).decodings(x, range(3)):
        by_hand = float((batch.decoded - x).double().square().mean((1, 2)).mean())
        assert found[f"perturbed/error/{batch.label}"] == pytest.approx(by_hand, rel=1e-6)
        each.append(by_hand)
    mean = sum(each[1:]) / 4
    assert found["perturbed/error"] == pytest.approx(mean, rel=1e-6)
    assert found["perturbed/error/loss"] == pytest.approx(mean - each[0], rel=1e-5, abs=1e-12)
    assert found["perturbed/samples"] == 3
    assert found["perturbed/changed/alpha=1,delta=32"] == pytest.approx(31 / 32, abs=0.06)


def test_a_loss_is_positive_where_quality_falls_whichever_way_is_better() -> None:
    codec, x = tiny_codec(), sounds()
    rising = entry(lambda: Error(sign=-1.0), "fidelity", higher_is_better=True)
    neither = entry(lambda: Error(), "rate", higher_is_better=None)
    found = scores(PerturbedSound(codec, [entry(Error), rising, neither], grid=GRID), x)
    assert found["perturbed/fidelity/loss"] == pytest.approx(found["perturbed/error/loss"])
    assert found["perturbed/fidelity"] == -found["perturbed/error"]
    assert "perturbed/rate/loss" not in found


def test_single_measures_and_several_values() -> None:
    codec, x = tiny_codec(), sounds()
    level = entry(Level, "level", kind="single", values=("power", "count"))
    found = scores(PerturbedSound(codec, [level], grid=GRID), x)
    assert found["perturbed/level:count"] == 3
    assert found["perturbed/level:power"] > 0
    one = entry(Level, "level", kind="single", values=("power",))
    alone = scores(PerturbedSound(codec, [one], grid=GRID), x)
    assert alone["perturbed/level"] == found["perturbed/level:power"]


def test_a_padded_batch_gives_what_its_sounds_give_alone() -> None:
    codec, x = tiny_codec(), sounds(3)
    lengths = torch.tensor([3200, 1000, 2345])
    padded = x.clone()
    for row, length in enumerate(lengths.tolist()):
        padded[row, :, length:] = 0
    together = PerturbedSound(codec, [entry(Error)], grid=GRID)
    found = scores(together, padded, 3, lengths=lengths)
    alone = PerturbedSound(codec, [entry(Error)], grid=GRID)
    for row, length in enumerate(lengths.tolist()):
        alone.update(x[row : row + 1, :, :length], [row])
    expected = {name: float(value) for name, value in alone.compute().items()}
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-7)
    assert together.measures[0].lengths == lengths.tolist()


def test_measures_hear_their_own_rate() -> None:
    metric = PerturbedSound(tiny_codec(), [entry(lambda: Error(16_000))], grid=GRID)
    scores(metric, sounds(1))
    assert metric.measures[0].lengths == [6400]


def test_measures_of_the_registry(tmp_path: Path) -> None:
    """At the codec's own rate or at theirs, with the decoded sound first."""
    torch.save(utmos_state(), tmp_path / "utmos.pt")
    named = [entry_named(name) for name in ("mel_distance", "si_sdr", "stoi", "utmos")]
    own = {"weights": str(tmp_path / "utmos.pt"), "heads": 2}
    named[-1] = dataclasses.replace(named[-1], options=own)
    grid = PerturbationGrid.product("test", (1.0,), (32,))
    metric = PerturbedSound(tiny_codec(), named, grid=grid)
    long = torch.from_numpy(make_sound(1.0, RATE))[None]
    found = scores(metric, long, 1)
    assert [one.sample_rate for one in metric.measures[:4]] == [RATE, RATE, RATE, 16_000]
    for name in ("mel_distance", "si_sdr", "stoi", "utmos"):
        assert math.isfinite(found[f"perturbed/{name}/loss"]), name
    assert found["perturbed/mel_distance"] > 0


def test_fewer_codebooks_and_reset() -> None:
    codec, x = tiny_codec(), sounds()
    metric = PerturbedSound(codec, [entry(Error)], grid=GRID, num_codebooks=1)
    first = scores(metric, x)
    assert first != scores(PerturbedSound(codec, [entry(Error)], grid=GRID), x)
    metric.reset()
    assert scores(metric, x) == first
    assert metric.protocol()["num_codebooks"] == 1


def test_wrong_use_is_told() -> None:
    with pytest.raises(ConfigError, match="pFID"):
        PerturbedSound(tiny_titok(), [entry(Error)])
    with pytest.raises(ConfigError, match="at least one"):
        PerturbedSound(tiny_codec(), [])
    with pytest.raises(ConfigError, match="'error'"):
        PerturbedSound(tiny_codec(), [entry(Error, sense="image")])
    with pytest.raises(MediaError, match="NaN"):
        bad = torch.full((1, 1, 800), float("nan"))
        PerturbedSound(tiny_codec(), [entry(Error)]).update(bad, [0])
