"""The engine on a tiny tokenizer: it learns, adds up, stops in time, and says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny_training import TinySource, TinyTokenizer, tiny_engine, tiny_objective
from tok_core.contract import TrainingOutput
from tok_core.errors import ConfigError, MediaError, TesseraError
from tok_core.training.objective import Objective


def metrics(folder: Path, key: str) -> dict[int, Any]:
    """Read one metric by step."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line[key] for line in lines if key in line}


def weights(model: torch.nn.Module) -> Tensor:
    """Return all float state as one vector."""
    return torch.cat([t.flatten().double() for t in model.state_dict().values()])


def test_a_run_learns_and_leaves_everything_behind(tmp_path: Path) -> None:
    engine = tiny_engine(tmp_path, "train.steps=60", "log.save_every=20", "log.tracker=tensorboard")
    folder = engine.run()
    assert folder == tmp_path / "model"
    loss = metrics(tmp_path, "loss/reconstruction")
    assert len(loss) == 60
    assert sum(loss[s] for s in range(56, 61)) < 0.85 * sum(loss[s] for s in range(1, 6))
    names = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[9]).keys()
    assert {"loss", "loss/gan", "discriminator/hinge", "discriminator/lecam", "learning_rate",
            "gradient_norm", "codebook/usage", "images_per_second"} <= names
    assert list(metrics(tmp_path, "validation/l1")) == list(range(5, 61, 5))
    used = metrics(tmp_path, "codebook/used_per_position")
    assert len(used[60]) == 16 and max(used[60]) > 1
    assert [p.name for p in sorted((tmp_path / "checkpoints").iterdir())] == [
        "step_00000040", "step_00000060",
    ]
    assert list((tmp_path / "tracker").rglob("events.*"))
    assert not [p for p in tmp_path.rglob("*") if p.suffix in (".pt", ".pth", ".bin", ".pkl")]
    loaded = TinyTokenizer.from_pretrained(folder)
    assert torch.equal(weights(loaded), weights(engine.average.model))
    assert not torch.equal(weights(loaded), weights(engine.plain))


def test_float16_storage_loads_as_float32(tmp_path: Path) -> None:
    engine = tiny_engine(tmp_path, "export.dtype=float16")
    loaded = TinyTokenizer.from_pretrained(engine.run())
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    file = tmp_path / "model" / "diffusion_pytorch_model.safetensors"
    floats = sum(p.numel() for p in loaded.parameters())
    assert file.stat().st_size < 2 * floats + 3000
    torch.testing.assert_close(weights(loaded), weights(engine.average.model), atol=2e-3, rtol=1e-3)


def test_the_discriminator_starts_late_with_a_schedule_of_its_own(tmp_path: Path) -> None:
    engine = tiny_engine(tmp_path, "train.steps=8", "schedule.warmup=2")
    engine.run()
    rates = metrics(tmp_path, "learning_rate")
    theirs = metrics(tmp_path, "discriminator/learning_rate")
    assert list(theirs) == [5, 6, 7, 8]
    assert [rates[1], rates[2], rates[3]] == pytest.approx([0.0, 0.005, 0.01])
    assert [theirs[5], theirs[6], theirs[7]] == pytest.approx([0.0, 0.005, 0.01])


def test_rates_per_epoch_and_a_schedule_of_the_discriminators_own(tmp_path: Path) -> None:
    tiny_engine(
        tmp_path, "train.steps=8", "schedule.kind=epochs", "schedule.warmup=0",
        "schedule.epoch_steps=3", "schedule.start_lr=0.001",
        "discriminator_schedule.kind=epochs", "discriminator_schedule.epoch_steps=2",
        "discriminator_schedule.warmup_epochs=2", "discriminator_schedule.start_lr=0.002",
    ).run()
    rates = list(metrics(tmp_path, "learning_rate").values())
    # Three epochs, the last one short; the cosine of 0.01 at a third and at two thirds.
    assert rates == pytest.approx([0.001] * 3 + [0.0075] * 3 + [0.0025] * 2)
    theirs = metrics(tmp_path, "discriminator/learning_rate")
    assert list(theirs) == [5, 6, 7, 8]
    assert list(theirs.values()) == pytest.approx([0.002] * 2 + [0.006] * 2)


def test_the_discriminator_judges_what_came_before_the_update(tmp_path: Path) -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    class Watching(type(tiny_objective())):  # type: ignore[misc]
        def discriminator_losses(self, x: Tensor, out: TrainingOutput, step: int) -> dict:
            assert out.reconstruction is not None and not out.reconstruction.requires_grad
            engine.plain.eval()
            with torch.no_grad():
                after = engine.plain(x).reconstruction
            engine.plain.train()
            seen.append((out.reconstruction, after))
            return super().discriminator_losses(x, out, step)

    objective = tiny_objective(start=0)
    objective.__class__ = Watching
    model = TinyTokenizer(keep=16, restarts=0)
    engine = tiny_engine(tmp_path, "train.steps=3", model=model, objective=objective)
    engine.run()
    first, second, third = seen
    assert torch.equal(*first)  # the first step runs at rate 0
    assert not torch.allclose(*second) and not torch.allclose(*third)


def test_accumulation_equals_the_joined_batch(tmp_path: Path) -> None:
    states = []
    for name, options in (
        ("joined", ["train.batch_size=8"]),
        ("parts", ["train.batch_size=2", "train.accumulation=4"]),
    ):
        engine = tiny_engine(
            tmp_path / name, *options, "train.steps=4",
            model=TinyTokenizer(keep=16, restarts=0), objective=tiny_objective(start=99),
        )
        engine.run()
        states.append(weights(engine.plain))
    torch.testing.assert_close(states[0], states[1], atol=1e-6, rtol=1e-5)


def test_decoder_only_keeps_the_codes(tmp_path: Path) -> None:
    engine = tiny_engine(tmp_path, "train.train_only=decoder", model=TinyTokenizer(restarts=0))
    before = engine.plain.code_hash(), engine.plain.weights_hash()
    model = TinyTokenizer.from_pretrained(engine.run())
    assert model.code_hash() == before[0]
    assert model.weights_hash() != before[1]
    assert not engine.plain.quantizer.training and engine.plain.training


@pytest.mark.parametrize("options", [["train.mixed_precision=bf16"], ["train.ema_decay=0"]])
def test_switches_run(tmp_path: Path, options: list[str]) -> None:
    engine = tiny_engine(tmp_path, *options, "train.steps=5")
    engine.run()
    assert torch.isfinite(weights(engine.plain)).all()
    assert {p.dtype for p in engine.plain.parameters()} == {torch.float32}
    if "train.ema_decay=0" in options:
        assert torch.equal(weights(engine.plain), weights(engine.average.model))


class Poisoned(Objective):
    """One term turns to NaN in one step."""

    def generator_losses(self, x: Tensor, out: TrainingOutput, step: int) -> dict[str, Tensor]:
        """Return two terms."""
        assert out.reconstruction is not None
        fine = (out.reconstruction - x).square().mean()
        return {"loss/fine": fine, "loss/odd": fine * (float("nan") if step == 4 else 1.0)}


def test_a_nan_stops_the_run_and_names_step_term_and_checkpoint(tmp_path: Path) -> None:
    engine = tiny_engine(tmp_path, objective=Poisoned())
    with pytest.raises(TesseraError) as caught:
        engine.run()
    sentence = str(caught.value)
    assert "step 5" in sentence and "'loss/odd' is nan" in sentence
    assert "step_00000003" in sentence
    assert torch.isfinite(weights(engine.plain)).all()
    assert torch.isfinite(weights(engine.average.model)).all()


class HalfBroken(TinySource):
    """Some pictures cannot be read, and one is not finite."""

    def __init__(self, broken: tuple[int, ...] = (), infinite: int = -1) -> None:
        super().__init__()
        self.broken, self.infinite = broken, infinite

    def item(self, index: int) -> Tensor:
        """Return a picture or complain."""
        if index in self.broken:
            raise MediaError(f"picture {index} is broken")
        picture = super().item(index)
        return picture / 0 if index == self.infinite else picture


def test_bad_pictures_are_skipped_counted_and_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = tiny_engine(tmp_path, "train.steps=5", source=HalfBroken(broken=(3,)))
    engine.run()
    assert metrics(tmp_path, "data/skipped") == {5: 2}  # 20 samples, two epochs
    assert "picture 3 is broken" in capsys.readouterr().out


def test_infinite_data_are_the_suspect(tmp_path: Path) -> None:
    with pytest.raises(TesseraError, match="the data hold NaN or Inf"):
        tiny_engine(tmp_path, source=HalfBroken(infinite=2)).run()


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("train.gradient_checkpointing=true", "TinyTokenizer has no support"),
        ("train.mixed_precision=fp16", "needs a GPU"),
        ("train.freeze=[encodr]", "did you mean 'encoder'"),
        ("log.tracker=wandb", "not installed"),
    ],
)
def test_impossible_settings_are_sentences(tmp_path: Path, option: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        tiny_engine(tmp_path, option)
