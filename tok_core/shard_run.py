"""Write token shards in parts, so that a kill at any moment loses no more than the part in work.

    part, part, part (any process, any order) --all of a shard are there--> shard --all--> index

    OUT/unfinished/plan.json        what the run does; a resumed run must do the same
                   sources.jsonl    what goes in, one line each, where a run keeps such a list
                   part-00000007.*  members of a part, and a JSON file that says it is whole
                   shard-000000.json  columns of a shard that stands already
    OUT/shard-000000.tar            whole shards
    OUT/index.json                  written last; then unfinished/ goes

Every file is written beside its place and renamed.  Parts and shards depend on the plan alone, so
doing one twice (killed between its two files) gives the same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tok_core.atomic_write import atomic_file, flush_folder, write_bytes, write_error
from tok_core.errors import TesseraError
from tok_core.file_lock import lock_file
from tok_core.shard_index import INDEX, UNFINISHED, ShardHead, ShardIndex, ShardRecord
from tok_core.shard_members import NO_CAPTION, Sample, end_mark, pack_samples
from tok_core.shard_plan import ShardPlan

PLAN = "plan.json"
SOURCES = "sources.jsonl"
_COPIED = 1 << 20  # bytes copied at once
# Columns of a shard: places count from its beginning, the others are what they are.
_PLACES = ("offsets", "caption_offsets", "short_caption_offsets")
_NUMBERS = ("sizes", "labels", "caption_sizes", "short_caption_sizes")


class ShardRun:
    """The run that writes the shards of one folder; one at a time.

    Use as a context manager: it holds the folder's lock.  Processes that only make parts take
    `ShardRun.helper`, which does not.

    Args:
        folder: OUT, made when missing.
        resume: go on with an unfinished run.
        force: replace the shards of another run.

    Attributes:
        plan: of the run that is under way; None before `begin`.
        finished: the folder holds whole shards and nothing is left to do.

    Raises:
        TesseraError: the folder holds shards and neither ``resume`` nor ``force`` was given, or
            another run is writing to it.

    Example:
        >>> with ShardRun("tokens", resume=True) as run:          # doctest: +SKIP
        ...     if run.plan is None:
        ...         run.begin(plan)
        ...     for part in run.missing():
        ...         run.write_part(part, [Sample("cat", token_file, 3)], [])
        ...         run.assemble(part)
        ...     index = run.finish()
    """

    def __init__(
        self, folder: str | Path, *, resume: bool = False, force: bool = False
    ) -> None:
        self.folder = Path(folder)
        self.work = self.folder / UNFINISHED
        self.plan: ShardPlan | None = None
        self.finished = False
        self._resume, self._force = resume, force
        self._lock: Any = None

    @classmethod
    def helper(cls, folder: str | Path) -> ShardRun:
        """Return the run under way, for a process that makes parts of it."""
        run = cls(folder)
        run.plan = run._read_plan()
        if run.plan is None:
            raise TesseraError(f"'{folder}' holds no unfinished run; start one first")
        return run

    def __enter__(self) -> ShardRun:
        self._check_free()
        try:
            self.work.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.work / "lock", "ab")  # noqa: SIM115 - held until the run ends
        except OSError as error:
            raise write_error(self.work, error) from None
        if not lock_file(self._lock):
            raise TesseraError(
                f"another run is writing to '{self.folder}'; wait for its end or choose another "
                "folder"
            )
        for left in self.work.glob(".tessera-*.part"):  # of a process that was killed
            left.unlink()
        if (self.folder / INDEX).exists() and not self._force:
            self.finished = True
            self._clean()
        elif self._resume and not self._force:
            self.plan = self._read_plan()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        if self.plan is None and not (self.work / PLAN).exists():
            self._clean()  # nothing was begun: leave the place as it was
        if self._lock is not None:
            self._lock.close()

    def _check_free(self) -> None:
        there = "tokenize into another folder"
        if self._force:
            return
        if (self.folder / INDEX).exists():
            if not self._resume:
                raise TesseraError(f"'{self.folder}' holds token shards already; use --force to "
                                   f"replace them or {there}")
        elif (self.work / PLAN).exists():
            if not self._resume:
                raise TesseraError(f"'{self.folder}' holds an unfinished run; go on with --resume, "
                                   f"start anew with --force or {there}")
        elif not self.work.exists() and next(self.folder.glob("shard-*.tar"), None):
            raise TesseraError(f"'{self.folder}' holds shards but no {INDEX}; use --force to "
                               f"replace them or {there}")

    # -- the plan ------------------------------------------------------------------------------

    def begin(self, plan: ShardPlan, *, sources: Path | None = None) -> None:
        """Write down what the run does, after removing what another run left.

        Args:
            plan: of the run.
            sources: a file in `work` that lists the sources; it becomes ``sources.jsonl``.
        """
        for name in (self.work / PLAN, self.folder / INDEX):
            name.unlink(missing_ok=True)
        for shard in self.folder.glob("shard-*.tar"):
            shard.unlink()
        for pattern in ("part-*", "shard-*.json"):
            for old in self.work.glob(pattern):
                old.unlink()
        if sources is not None:
            _move(sources, self.work / SOURCES)
        _write_json(self.work / PLAN, plan.to_json())
        self.plan = plan

    def check_facts(self, facts: Mapping[str, Any]) -> None:
        """Raise unless a resumed run does what the run under way does.

        Raises:
            TesseraError: names the first fact that differs, with both values.
        """
        assert self.plan is not None
        for name, value in self.plan.facts.items():
            if facts.get(name) != value:
                raise TesseraError(
                    f"the unfinished run in '{self.folder}' has {name} {_short(value)} but now it "
                    f"is {_short(facts.get(name))}; repeat the first command with --resume, or "
                    "start anew with --force"
                )

    def _read_plan(self) -> ShardPlan | None:
        path = self.work / PLAN
        try:
            return ShardPlan(**json.loads(path.read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise TesseraError(
                f"{path} cannot be read ({error}); start anew with --force"
            ) from None

    # -- parts ---------------------------------------------------------------------------------

    def missing(self) -> list[int]:
        """Return the numbers of the parts that are still to be made."""
        assert self.plan is not None
        there = {path.name for path in self.work.iterdir()}
        return [
            part
            for shard in range(self.plan.shards)
            if _shard_file(shard, ".json") not in there
            for part in self.plan.parts_of(shard)
            if _part_file(part, ".json") not in there
        ]

    def write_part(
        self, part: int, samples: list[Sample], skipped: Sequence[Mapping[str, str]]
    ) -> None:
        """Write one part: the samples of its sources in order, and what could not be read.

        Raises:
            TesseraError: the disk cannot be written.
        """
        packed = pack_samples(samples)
        write_bytes(self.work / _part_file(part, ".tar"), packed.data, force=True)
        columns = {name: getattr(packed, name) for name in (*_PLACES, *_NUMBERS)}
        facts = {"bytes": len(packed.data), "skipped": list(skipped), **columns}
        _write_json(self.work / _part_file(part, ".json"), facts)

    def assemble_all(self) -> None:
        """Put together every shard whose parts are there (after a kill, say)."""
        assert self.plan is not None
        for shard in range(self.plan.shards):
            self.assemble(self.plan.parts_of(shard).start)

    def assemble(self, part: int) -> bool:
        """Put the shard of a part together if all its parts are there.

        Returns:
            whether the shard stands now.
        """
        assert self.plan is not None
        shard = self.plan.shard_of(part)
        record = self.work / _shard_file(shard, ".json")
        parts = self.plan.parts_of(shard)
        if not record.exists():
            if not all((self.work / _part_file(p, ".json")).exists() for p in parts):
                return False
            facts = self._join(shard, parts)
            _write_json(record, facts)
        for old in parts:
            for kind in (".json", ".tar"):
                (self.work / _part_file(old, kind)).unlink(missing_ok=True)
        return True

    def _join(self, shard: int, parts: range) -> dict[str, Any]:
        """Write the tar file of a shard; return its record and what was skipped."""
        digest = hashlib.sha256()
        size = 0
        skipped: list[Mapping[str, str]] = []
        columns: dict[str, list[int]] = {name: [] for name in (*_PLACES, *_NUMBERS)}
        name = _shard_file(shard, ".tar")
        with atomic_file(self.work / name, force=True) as file:
            for part in parts:
                facts = json.loads((self.work / _part_file(part, ".json")).read_bytes())
                # Parts that were written before there were short captions name none.
                none = [NO_CAPTION] * len(facts["offsets"])
                for place in _PLACES:
                    columns[place] += [at if at < 0 else size + at for at in facts.get(place, none)]
                for number in _NUMBERS:
                    columns[number] += facts.get(number, none)
                skipped += facts["skipped"]
                size += facts["bytes"]
                with open(self.work / _part_file(part, ".tar"), "rb") as source:
                    while block := source.read(_COPIED):
                        digest.update(block)
                        file.write(block)
            mark = end_mark(size)
            digest.update(mark)
            file.write(mark)
        _move(self.work / name, self.folder / name)
        record = ShardRecord(
            file=name, bytes=size + len(mark), sha256=digest.hexdigest(),
            **{column: _int64(numbers) for column, numbers in columns.items()},
        )  # fmt: skip
        return {"record": record.to_json(), "skipped": skipped}

    # -- the end -------------------------------------------------------------------------------

    def skipped(self) -> list[dict[str, str]]:
        """Return what could not be read in the shards and parts that are there."""
        assert self.plan is not None
        found = [dict(item) for item in self.plan.skipped]
        for shard in range(self.plan.shards):
            record = _shard_file(shard, ".json")
            parts = [_part_file(part, ".json") for part in self.plan.parts_of(shard)]
            for name in [record] if (self.work / record).exists() else parts:
                with contextlib.suppress(FileNotFoundError):
                    found += json.loads((self.work / name).read_bytes())["skipped"]
        return found

    def finish(self) -> ShardIndex:
        """Write the index, which makes the folder readable, and remove the run's own files."""
        assert self.plan is not None
        records = []
        for shard in range(self.plan.shards):
            facts = json.loads((self.work / _shard_file(shard, ".json")).read_bytes())
            records.append(ShardRecord.from_json(facts["record"]))
        head = ShardHead.from_json(self.plan.head)
        index = ShardIndex(head=head, shards=tuple(records), skipped=self.skipped())
        write_bytes(self.work / INDEX, index.dumps(), force=True)
        _move(self.work / INDEX, self.folder / INDEX)
        self.finished = True
        self._clean()
        return index

    def _clean(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)


def _part_file(part: int, kind: str) -> str:
    return f"part-{part:08d}{kind}"


def _shard_file(shard: int, kind: str) -> str:
    return f"shard-{shard:06d}{kind}"


def _int64(numbers: list[int]) -> Any:
    import numpy as np

    return np.asarray(numbers, dtype=np.int64)


def _write_json(path: Path, value: Any) -> None:
    write_bytes(path, json.dumps(value).encode(), force=True)


def _move(source: Path, target: Path) -> None:
    """Rename within one file system, and let the disk know of it before anything is removed."""
    try:
        os.replace(source, target)
    except OSError as error:
        raise write_error(target, error) from None
    flush_folder(target.parent)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
