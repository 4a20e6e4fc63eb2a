"""`data.short_captions`: how often short captions show, who draws what, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from generators.token_data import CaptionedSample, ShardSource, TokenDataConfig, facts_of
from generators.train import GeneratorRun, train
from tests.generators.test_captions import LENGTH, WIDTH, numbers, saved
from tok_core.errors import ConfigError, MediaError
from tok_core.run_config import from_mapping
from tok_core.shard_index import ShardHead
from tok_core.shard_members import Sample
from tok_core.shard_plan import ShardPlan
from tok_core.shard_run import ShardRun
from tok_core.token_file import TokenFile
from tok_core.token_spec import Axis, TokenSpec
from tok_core.training.data_order import batches, endless_index

LINE = TokenSpec(modality="image", axes=(Axis(name="token", size=4),), vocabulary=(16,))
COUNT = 8  # samples; full captions have 3 positions, short ones 1, every fourth sample has none
HASH = "0123456789abcdef" * 4


def made(folder: Path, *, short: bool = True, short_width: int = WIDTH) -> Path:
    """Write shards of captioned samples."""
    samples = []
    for i in range(COUNT):
        codes = np.random.default_rng(i).integers(0, 16, 4)
        brief = np.full((1, short_width), i, np.float16)
        samples.append(Sample(
            f"{i}", TokenFile(codes, LINE.bits, HASH), None, saved(numbers(3, seed=i)),
            saved(brief) if short and i % 4 != 3 else None,
        ))  # fmt: skip
    head = ShardHead(spec=LINE, code_hash=HASH)
    with ShardRun(folder) as run:
        run.begin(ShardPlan(
            sources=COUNT, per_shard=COUNT, per_part=COUNT, head=head.to_json(), facts={},
        ))  # fmt: skip
        run.write_part(0, samples, [])
        run.assemble(0)
        run.finish()
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("short") / "tokens")


def source(shards: Path, share: float, *, seed: int = 0, validation: bool = False) -> ShardSource:
    config = TokenDataConfig(path=str(shards), captions=LENGTH, short_captions=share, seed=seed)
    return ShardSource(config, validation=validation)


def is_short(sample: Any) -> bool:
    assert isinstance(sample, CaptionedSample)
    count = int(sample.mask.sum())
    assert count in (1, 3) and not sample.features[: LENGTH - count].any()
    return count == 1


def test_the_share_is_what_was_asked_for(shards: Path) -> None:
    drawn = source(shards, 0.3)
    seen = np.zeros((COUNT, 2))
    for position in range(100 * COUNT):
        index = endless_index(position, COUNT, 0)
        seen[index, int(is_short(drawn.item(position)))] += 1
    assert (seen.sum(1) == 100).all()
    # Samples without a short caption show the full one.
    assert not seen[3::4, 1].any()
    rest = [i for i in range(COUNT) if i % 4 != 3]
    assert abs(seen[rest, 1].mean() / 100 - 0.3) < 0.06  # three deviations of 600 draws


def test_always_and_never(shards: Path) -> None:
    never, always = source(shards, 0), source(shards, 1)
    for position in range(3 * COUNT):
        index = endless_index(position, COUNT, 0)
        assert not is_short(never.item(position))
        sample = always.item(position)
        assert is_short(sample) == (index % 4 != 3)
        if is_short(sample):
            assert isinstance(sample, CaptionedSample)
            assert (sample.features[-1] == index).all()
        else:
            assert isinstance(sample, CaptionedSample)
            expected = torch.from_numpy(numbers(3, seed=index))
            assert torch.equal(sample.features[-3:], expected)


def test_draws_change_with_the_epoch_and_the_seed_alone(shards: Path) -> None:
    def draws(seed: int) -> list[list[bool]]:
        drawn = source(shards, 0.5, seed=seed)
        order = [drawn.item(position) for position in range(12 * COUNT)]
        epochs = [dict[int, bool]() for _ in range(12)]
        for position, sample in enumerate(order):
            index = endless_index(position, COUNT, seed)
            epochs[position // COUNT][index] = is_short(sample)
        return [[epoch[index] for index in range(COUNT)] for epoch in epochs]

    first = draws(0)
    assert first == draws(0) and first != draws(1)
    assert len({tuple(epoch) for epoch in first}) > 6


@pytest.mark.parametrize("workers", [0, 1])
def test_processes_and_resumed_runs_draw_the_same(shards: Path, workers: int) -> None:
    def read(start: int, count: int, **options: Any) -> list[torch.Tensor]:
        found = batches(source(shards, 0.5), seed=0, start=start, workers=workers, **options)
        return [next(found).samples.features for _ in range(count)]

    whole = read(0, 4, batch_size=4)
    assert len({float(x[..., -2, :].abs().sum()) for x in whole}) > 1
    resumed = read(8, 2, batch_size=4)
    for one, two in zip(whole[2:], resumed, strict=True):
        assert torch.equal(one, two)
    shares = [read(0, 4, batch_size=2, process=p, processes=2) for p in range(2)]
    for one, left, right in zip(whole, *shares, strict=True):
        assert torch.equal(one, torch.cat((left, right)))


def test_validation_shows_full_captions(shards: Path, tmp_path: Path) -> None:
    held = source(shards, 1, validation=True)
    assert held.length == COUNT
    assert not any(is_short(held.item(index)) for index in range(COUNT))
    # Shards for the validation alone need no short captions.
    plain = made(tmp_path / "plain", short=False)
    config = TokenDataConfig(
        path=str(shards), captions=LENGTH, short_captions=0.3, validation_path=str(plain)
    )
    assert not is_short(ShardSource(config, validation=True).item(0))


@pytest.mark.parametrize(("data", "error"), [
    ({"captions": LENGTH, "short_captions": 1.5}, "short_captions is 1.5; give a probability"),
    ({"captions": LENGTH, "short_captions": -0.1}, "short_captions is -0.1; give a probability"),
    ({"captions": LENGTH, "short_captions": float("nan")}, "short_captions is nan; give a prob"),
    ({"captions": LENGTH, "short_captions": "often"}, "short_captions"),
    ({"short_captions": 0.3}, "short_captions is 0.3 but data.captions is 0; give"),
])  # fmt: skip
def test_what_no_config_may_say(data: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigError, match=error) as caught:
        from_mapping(TokenDataConfig, {"path": "tokens"} | data)
    assert "\n" not in str(caught.value)


def test_shards_without_short_captions_are_refused(tmp_path: Path) -> None:
    plain = made(tmp_path / "plain", short=False)
    config = TokenDataConfig(path=str(plain), captions=LENGTH, short_captions=0.3)
    with pytest.raises(ConfigError, match=r"hold none; tokenize with NAME\.short\.npy beside"):
        facts_of(config)


def test_a_short_caption_of_another_encoder_is_passed_over(tmp_path: Path) -> None:
    odd = source(made(tmp_path / "odd", short_width=WIDTH + 1), 1)
    assert odd.caption(3, short=True).shape == (3, WIDTH)  # it has none: the full one
    with pytest.raises(MediaError, match="features and those before it"):
        odd.caption(0, short=True)


def test_training_with_short_captions(shards: Path, tmp_path: Path) -> None:
    config = from_mapping(GeneratorRun, {
        "model": {"class": "LlamaGen", "config": {"width": 32, "layers": 1, "heads": 2}},
        "data": {"path": str(shards), "captions": LENGTH, "short_captions": 0.3},
        "train": {"steps": 3, "batch_size": 4, "seed": 0, "ema_decay": 0.0, "device": "cpu"},
        "log": {"every": 1, "pictures_every": 0, "save_every": 0, "tracker": "none"},
        "validation_samples": 4,
    })  # fmt: skip
    folder = train(config, tmp_path / "run")
    assert folder is not None
    assert "short_captions: 0.3" in (tmp_path / "run" / "config.yaml").read_text()
