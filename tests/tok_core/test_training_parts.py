"""The parts of the engine one by one: order, average, freezing, checkpoints, usage."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tok_core.errors import ConfigError, MediaError, TesseraError, WeightsError
from tok_core.training import checkpoint as disk
from tok_core.training.data_order import ATTEMPTS, batches, shuffled
from tok_core.training.ema import AveragedModel, ema_decay
from tok_core.training.freezing import freeze, set_training
from tok_core.training.position_usage import PositionUsage, usage_picture
from tok_core.training.schedule import epoch_learning_rate, learning_rate


class Numbers:
    """Sample i is the number i; some cannot be read."""

    def __init__(self, length: int | None, bad: tuple[int, ...] = ()) -> None:
        self.length = length
        self.bad = bad

    def item(self, index: int) -> torch.Tensor:
        """Return the index as a tensor."""
        if index in self.bad:
            raise MediaError(f"number {index} is broken")
        return torch.tensor([float(index)])


@pytest.mark.parametrize("length", [1, 2, 3, 7, 64, 1000])
def test_every_epoch_is_another_permutation(length: int) -> None:
    epochs = [[shuffled(e * length + i, length, seed=3) for i in range(length)] for e in range(2)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(length))
    if length >= 64:
        assert epochs[0] != epochs[1] != list(range(length))
        assert epochs[0] != [shuffled(i, length, seed=4) for i in range(length)]


def _take(count: int, **options: object) -> list[list[float]]:
    stream = batches(options.pop("source"), seed=1, **options)  # type: ignore[arg-type]
    return [next(stream).samples.flatten().tolist() for _ in range(count)]


@pytest.mark.parametrize("length", [None, 11])
def test_order_does_not_depend_on_workers_resume_or_processes(length: int | None) -> None:
    source = Numbers(length)
    joined = _take(4, source=source, start=0, batch_size=4)
    assert _take(4, source=source, start=0, batch_size=4, workers=2) == joined
    assert _take(2, source=source, start=8, batch_size=4) == joined[2:]
    halves = [
        _take(4, source=source, start=0, batch_size=2, process=p, processes=2) for p in (0, 1)
    ]
    assert [a + b for a, b in zip(*halves, strict=True)] == joined


def test_loading_leaves_the_global_random_stream_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    _take(3, source=Numbers(5), start=0, batch_size=2)
    assert torch.equal(torch.get_rng_state(), before)


def test_unreadable_samples_are_replaced_and_named() -> None:
    stream = batches(Numbers(6, bad=(2,)), seed=0, start=0, batch_size=6)
    batch = next(stream)
    assert batch.samples.shape == (6, 1)
    assert 2.0 not in batch.samples
    assert batch.skipped == ["number 2 is broken"]


def test_nothing_readable_is_one_error() -> None:
    stream = batches(Numbers(3, bad=(0, 1, 2)), seed=0, start=0, batch_size=2)
    with pytest.raises(MediaError, match=f"{ATTEMPTS} samples in a row"):
        next(stream)


def test_average_follows_the_formula_and_copies_what_is_frozen() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model[0].bias.requires_grad_(False)
    average = AveragedModel(model, 0.9)
    expected = None
    for update in range(1, 5):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
            model[1].running_mean.add_(1.0)
        average.update(model)
        keep = ema_decay(update, 0.9)
        weight = model[0].weight.detach().clone()
        expected = weight if expected is None else keep * expected + (1 - keep) * weight
        torch.testing.assert_close(average.model[0].weight, expected)
        assert torch.equal(average.model[0].bias, model[0].bias)
        assert torch.equal(average.model[1].running_mean, model[1].running_mean)
    assert not torch.equal(average.model[0].weight, model[0].weight)


def test_average_without_decay_is_the_model() -> None:
    model = nn.Linear(2, 2)
    average = AveragedModel(model, 0.0)
    for _ in range(3):
        with torch.no_grad():
            model.weight.add_(1.0)
        average.update(model)
    assert torch.equal(average.model.weight, model.weight)


def test_rate_without_warmup_starts_at_base_and_stays_at_end() -> None:
    assert learning_rate(0, base=1.0, end=0.1, warmup=0, total=10) == 1.0
    assert learning_rate(10, base=1.0, end=0.1, warmup=0, total=10) == pytest.approx(0.1)
    assert learning_rate(99, base=1.0, end=0.1, warmup=0, total=10) == pytest.approx(0.1)


def test_epoch_rates_share_the_cosine_with_the_warmup() -> None:
    given = {"base": 1.0, "end": 0.2, "start": 0.1, "warmup": 2, "epochs": 4}
    rates = [epoch_learning_rate(epoch, **given) for epoch in (-1, 0, 1, 2, 3, 4, 9)]
    assert rates == pytest.approx([0.1, 0.1, 0.55, 0.6, 0.2 + 0.4 * (1 - 0.5**0.5), 0.2, 0.2])


class Parts(nn.Module):
    """Encoder, quantizer and decoder by name."""

    code_prefixes = ("encoder.", "quantizer.")

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        self.quantizer = nn.Linear(2, 2)
        self.decoder = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))


def _trained(model: nn.Module) -> set[str]:
    return {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad}


def test_train_only_decoder_freezes_what_decides_codes() -> None:
    model = Parts()
    set_training(model, freeze(model, train_only="decoder"))
    assert _trained(model) == {"decoder"}
    assert model.training and model.decoder[1].training
    assert not model.encoder[1].training and not model.quantizer.training


def test_freeze_by_prefix_and_train_only_by_prefix() -> None:
    model = Parts()
    freeze(model, prefixes=("encoder",))
    assert _trained(model) == {"quantizer", "decoder"}
    model = Parts()
    freeze(model, train_only=("quantizer",))
    assert _trained(model) == {"quantizer"}


def test_freezing_mistakes_are_sentences() -> None:
    with pytest.raises(ConfigError, match="did you mean 'encoder'"):
        freeze(Parts(), prefixes=("encodr",))
    with pytest.raises(ConfigError, match="no parameter to train"):
        freeze(Parts(), prefixes=("encoder", "quantizer", "decoder"))


def _save(folder: Path, step: int, keep_last: int = 2) -> Path:
    return disk.write_checkpoint(
        folder, step, lambda f: disk.save_json({"step": step}, f / "state.json"),
        keep_last=keep_last,
    )


def test_only_the_last_checkpoints_stay(tmp_path: Path) -> None:
    for step in (1, 2, 10, 11):
        _save(tmp_path, step)
    assert [p.name for p in disk.checkpoints(tmp_path)] == ["step_00000010", "step_00000011"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_00000010", "step_00000011"]


def test_a_half_written_checkpoint_is_ignored_and_removed(tmp_path: Path) -> None:
    _save(tmp_path, 5)

    def killed(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        disk.write_checkpoint(tmp_path, 6, killed, keep_last=2)
    latest = disk.latest_checkpoint(tmp_path)
    assert latest is not None and latest.name == "step_00000005"
    assert len(list(tmp_path.iterdir())) == 2
    disk.remove_leftovers(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


def test_full_disk_is_a_sentence_and_keeps_the_last_one(tmp_path: Path) -> None:
    _save(tmp_path, 5)

    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(TesseraError, match="No space left"):
        disk.write_checkpoint(tmp_path, 6, full, keep_last=2)
    assert [p.name for p in tmp_path.iterdir()] == ["step_00000005"]


def test_nothing_on_disk_is_a_pickle(tmp_path: Path) -> None:
    disk.save_random_state(tmp_path, 0)
    assert {p.suffix for p in tmp_path.iterdir()} == {".json", ".safetensors"}
    json.loads((tmp_path / "random_0.json").read_text())


def test_random_streams_come_back(tmp_path: Path) -> None:
    np.random.standard_normal(3)  # leaves a cached normal behind
    disk.save_random_state(tmp_path, 0)
    first = (random.random(), np.random.standard_normal(5).tolist(), torch.rand(3).tolist())
    assert disk.load_random_state(tmp_path, 0)
    again = (random.random(), np.random.standard_normal(5).tolist(), torch.rand(3).tolist())
    assert first == again
    assert not disk.load_random_state(tmp_path, 1)


def test_optimizer_state_comes_back_by_name(tmp_path: Path) -> None:
    torch.manual_seed(0)

    def make() -> tuple[nn.Module, torch.optim.Optimizer, dict[torch.Tensor, str]]:
        model = nn.Linear(3, 3)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        return model, optimizer, {p: n for n, p in model.named_parameters()}

    model, optimizer, names = make()
    for _ in range(3):
        model(torch.ones(2, 3)).square().sum().backward()
        optimizer.step()
    disk.save_tensors(disk.optimizer_tensors(optimizer, names), tmp_path / "o.safetensors")
    other, theirs, other_names = make()
    other.load_state_dict(model.state_dict())
    disk.load_optimizer(theirs, other_names, tmp_path / "o.safetensors")
    for m, o in ((model, optimizer), (other, theirs)):
        o.zero_grad()
        m(torch.ones(2, 3)).square().sum().backward()
        o.step()
    assert torch.equal(model.weight, other.weight)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    disk.save_tensors(nn.Linear(2, 2).state_dict(), path)
    with pytest.raises(WeightsError, match="shape"):
        disk.load_module(nn.Linear(2, 3), path)
    with pytest.raises(WeightsError, match="'bias' is only in the file"):
        disk.load_module(nn.Linear(2, 2, bias=False), path)
    path.write_bytes(os.urandom(40))
    with pytest.raises(WeightsError, match="cannot be read"):
        disk.load_module(nn.Linear(2, 2), path)


def test_usage_per_position() -> None:
    usage = PositionUsage(4, num_tokens=3)
    usage.update(torch.tensor([[0, 1, 2], [0, 2, 2]]))
    usage.update(torch.tensor([[0, 3]]))
    result = usage.finish()
    assert result.used == [1, 3, 1]
    assert result.perplexity == [1.0, 3.0, 1.0]
    assert usage_picture(result, 4).shape == (96, 12, 3)
    usage.update(torch.tensor([[1, 1, 1]]))
    assert usage.finish().used == [1, 1, 1]
