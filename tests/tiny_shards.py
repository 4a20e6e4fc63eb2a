"""Token shards of a few numbers, written as a run writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from tok_core.shard_index import ShardHead, ShardIndex
from tok_core.shard_members import Sample
from tok_core.shard_plan import ShardPlan
from tok_core.shard_run import ShardRun
from tok_core.token_file import TokenFile
from tok_core.token_shards import stored_codes
from tok_core.token_spec import Axis, TokenSpec

HASH = "0123456789abcdef" * 4
OTHER = "f" + HASH[1:]
LINE = TokenSpec(modality="image", axes=(Axis(name="token", size=12),), vocabulary=(100,))
SPECS = {
    "line": LINE,
    "dimensions": TokenSpec(
        modality="image",
        axes=(
            Axis(name="row", size=3), Axis(name="column", size=4), Axis(name="dimension", size=2),
        ),
        vocabulary=(8, 5),
    ),
    "branches": TokenSpec(
        modality="image", axes=(Axis(name="branch", size=2), Axis(name="token", size=6)),
        vocabulary=(16, 64),
    ),
    "sound": TokenSpec(
        modality="audio", axes=(Axis(name="level", size=2), Axis(name="time")),
        vocabulary=(32, 32), input_rate=800, output_rate=800, token_rate=10.0,
    ),
}  # fmt: skip


def codes_of(spec: TokenSpec, number: int, views: int = 1) -> torch.Tensor:
    """Return (V, *axes) that differ with the number."""
    random = np.random.default_rng(number)
    sizes = [axis.size or 3 + number % 4 for axis in spec.axes]
    shape = (views, int(np.prod(sizes)) // spec.factors, spec.factors)
    flat = np.floor(random.random(shape) * np.array(spec.vocabulary)).astype(np.int64)
    return spec.from_sequence(torch.from_numpy(flat), tuple(sizes))


def sample(spec: TokenSpec, number: int, views: int = 1, label: int | None = None) -> Sample:
    """Return the sample of a number."""
    stored = stored_codes(codes_of(spec, number, views), spec)
    stored = stored if views > 1 else stored[0]
    bits = (max(spec.bits),) if spec.modality == "audio" else spec.bits
    return Sample(f"part/{number:04d}", TokenFile(stored, bits, HASH), label)


def write(
    folder: Path, count: int = 10, *, spec: TokenSpec = LINE, views: tuple[str, ...] = ("whole",),
    per_shard: int = 4, per_part: int = 2, labels: bool = True, **head: Any,
) -> ShardIndex:  # fmt: skip
    """Write a folder of shards the way a run does."""
    plan = plan_of(count, spec, views, per_shard, per_part, **head)
    with ShardRun(folder) as run:
        run.begin(plan)
        for part in run.missing():
            make(run, part, spec, views, labels)
            run.assemble(part)
        return run.finish()


def plan_of(
    count: int, spec: TokenSpec = LINE, views: tuple[str, ...] = ("whole",), per_shard: int = 4,
    per_part: int = 2, **head: Any,
) -> ShardPlan:  # fmt: skip
    """Return the plan of `write`."""
    start = ShardHead(spec=spec, code_hash=HASH, views=views, **head)
    return ShardPlan(sources=count, per_shard=per_shard, per_part=per_part, head=start.to_json(),
                     facts={"input": "here"})  # fmt: skip


def make(
    run: ShardRun, part: int, spec: TokenSpec = LINE, views: tuple[str, ...] = ("whole",),
    labels: bool = True,
) -> None:  # fmt: skip
    """Make one part; every seventh source is broken."""
    assert run.plan is not None
    numbers = run.plan.sources_of(part)
    good = [n for n in numbers if n % 7 != 6]
    run.write_part(
        part,
        [sample(spec, n, len(views), n % 3 if labels else None) for n in good],
        [{"source": f"{n}.png", "error": f"{n} is broken"} for n in numbers if n % 7 == 6],
    )


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Return all files of a folder of shards."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def damage(path: Path, at: int) -> None:
    """Flip one bit."""
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 4]))
