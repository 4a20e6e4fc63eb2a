"""Captions in token shards: full and short ones come back, damage is named."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny_shards import LINE, damage, plan_of, sample
from tok_core.errors import MediaError
from tok_core.shard_index import read_index
from tok_core.shard_members import Sample
from tok_core.shard_run import ShardRun
from tok_core.token_shards import TokenShards


def with_captions(number: int) -> Sample:
    """Return a sample with the captions that its number tells: none, a full one, a short one."""
    captions = [io.BytesIO(), io.BytesIO()]
    for seed, file in enumerate(captions):
        np.save(file, np.full((3 - seed, 2), number + 100 * seed, np.float32))
    full, short = (file.getvalue() for file in captions)
    return sample(LINE, number)._replace(
        caption=full if number % 3 else None, short_caption=short if number % 3 == 2 else None
    )


def test_short_captions_come_back(tmp_path: Path) -> None:
    with ShardRun(tmp_path) as run:
        run.begin(plan_of(8))
        for part in reversed(run.missing()):
            assert run.plan is not None
            run.write_part(part, [with_captions(n) for n in run.plan.sources_of(part)], [])
            run.assemble(part)
        index = run.finish()
    assert read_index(tmp_path).dumps() == index.dumps()
    shards = TokenShards(tmp_path)
    assert shards.captioned and shards.short_captioned
    for number in range(8):
        full, short = shards.caption(number), shards.caption(number, short=True)
        assert (full is not None, short is not None) == (number % 3 > 0, number % 3 == 2)
        if full is not None:
            assert torch.equal(full, torch.full((3, 2), float(number)))
        if short is not None:
            assert torch.equal(short, torch.full((2, 2), 100.0 + number))


def test_a_damaged_short_caption_is_named(tmp_path: Path) -> None:
    with ShardRun(tmp_path) as run:
        run.begin(plan_of(4, per_part=4))
        run.write_part(0, [with_captions(n) for n in range(4)], [])
        run.assemble(0)
        record = run.finish().shards[0]
    damage(tmp_path / record.file, int(record.short_caption_offsets[2]))
    shards = TokenShards(tmp_path)
    with pytest.raises(MediaError, match=r"0002\.short\.npy holds no caption features"):
        shards.caption(2, short=True)
    assert shards.caption(2) is not None


def test_parts_from_before_there_were_short_captions(tmp_path: Path) -> None:
    """A run that another version began is finished: its parts name no short captions."""
    with ShardRun(tmp_path) as run:
        run.begin(plan_of(8))
        for part in run.missing():
            assert run.plan is not None
            run.write_part(part, [with_captions(n) for n in run.plan.sources_of(part)], [])
        old = tmp_path / "unfinished" / "part-00000001.json"
        facts = json.loads(old.read_bytes())
        kept = {name: value for name, value in facts.items() if not name.startswith("short")}
        assert len(kept) == len(facts) - 2
        old.write_text(json.dumps(kept))
        run.assemble_all()
        run.finish()
    shards = TokenShards(tmp_path)
    has = [number for number in range(8) if shards.caption(number, short=True) is not None]
    assert has == [5]  # not 2, of the old part
    assert shards.caption(2) is not None
