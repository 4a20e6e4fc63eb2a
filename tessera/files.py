"""Which files go in (a file, a folder, a glob) and where each result goes (mirrored trees)."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tok_core.atomic_write import write_error
from tok_core.errors import MediaError, TesseraError, nearest

MAGIC = "*?["


class Found(NamedTuple):
    """One input file and its place inside the tree that it was found in."""

    path: Path
    relative: Path


class Job(NamedTuple):
    """One input file and the output file that it becomes."""

    source: Path
    target: Path


class Plan(NamedTuple):
    """Jobs still to do, and the sources whose output exists already."""

    jobs: list[Job]
    existing: list[Job]


def find(
    inputs: Sequence[str], suffixes: Collection[str], *, leave_out: Path | None = None
) -> list[Found]:
    """List the input files of files, folders and globs, each once, folders in sorted order.

    Args:
        inputs: paths or glob patterns (``"photos/**/*.png"``).  A file that is named outright is
            taken whatever its extension; folders and globs give only ``suffixes``.
        suffixes: lower-case extensions with the dot.
        leave_out: a folder whose files are never inputs (the output folder inside the input).

    Returns:
        files with their path below the folder (or below the fixed part of the pattern).

    Raises:
        MediaError: an input does not exist, or holds no file of these kinds.
    """
    check_inputs(inputs)
    found: dict[Path, Found] = {}
    for text in inputs:
        before = len(found)
        for item in _expand(text, suffixes):
            path = item.path.resolve()
            if leave_out is None or not path.is_relative_to(leave_out.resolve()):
                found.setdefault(path, item)
        if len(found) == before and not Path(text).is_file():
            kinds = " ".join(sorted(suffixes))
            raise MediaError(f"'{text}' holds no file of these kinds: {kinds}.")
    return list(found.values())


def check_inputs(inputs: Sequence[str]) -> None:
    """Raise MediaError for an input that is not there, before a model is loaded for it."""
    for text in inputs:
        path = Path(text).expanduser()
        if not path.exists() and not any(letter in text for letter in MAGIC):
            folder = path.parent
            names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
            raise MediaError(f"there is no file or folder '{text}'{nearest(path.name, names)}")


def _expand(text: str, suffixes: Collection[str]) -> Iterator[Found]:
    path = Path(text).expanduser()
    if path.is_dir():
        yield from (Found(p, p.relative_to(path)) for p in _walk(path, suffixes))
    elif path.exists():
        yield Found(path, Path(path.name))
    elif any(letter in text for letter in MAGIC):
        root = fixed_part(path)
        for name in sorted(glob.glob(str(path), recursive=True)):
            match = Path(name)
            if match.is_dir() and "**" not in text:
                yield from (Found(p, p.relative_to(root)) for p in _walk(match, suffixes))
            elif match.is_file() and match.suffix.lower() in suffixes:
                yield Found(match, match.relative_to(root))


def _walk(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """Return the files below a folder with one of the suffixes; hidden files are left alone."""
    files = []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [
            Path(root, name)
            for name in sorted(names)
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes
        ]
    return files


def fixed_part(pattern: Path) -> Path:
    """Return the folder of a glob pattern before its first wildcard."""
    parts = []
    for part in pattern.parts[:-1]:
        if any(letter in part for letter in MAGIC):
            break
        parts.append(part)
    return Path(*parts)


def plan(
    found: Sequence[Found],
    output: str,
    suffix: str,
    *,
    force: bool,
    single: bool,
    legal: Collection[str],
) -> Plan:
    """Decide every output file before any work starts.

    Args:
        found: what `find` returned.
        output: ``name.ext`` for one file, else a folder (made when missing).
        suffix: extension of the outputs in a folder, with the dot.
        force: overwrite what exists.
        single: the user named one file, so ``output`` may be a file name.
        legal: extensions that can be written.

    Returns:
        the jobs, and those whose output exists (only without ``force``).

    Raises:
        TesseraError: the output exists (one file), would replace its own input, or has an
            extension that cannot be written.
    """
    target = Path(output).expanduser()
    names_file = bool(target.suffix) and not target.is_dir() and not output.endswith(os.sep)
    if names_file and single:
        _check_suffix(target, legal)
        jobs = [Job(found[0].path, target)]
    elif names_file and target.suffix.lower() in legal:
        raise TesseraError(
            f"the output '{output}' is one file but {len(found)} files go in; give a folder."
        )
    else:
        jobs = _mirror(found, target, suffix)
    for job in jobs:
        if job.target.exists() and job.target.samefile(job.source):
            raise TesseraError(f"'{job.source}' would replace itself; give another output.")
    existing = [] if force else [job for job in jobs if job.target.exists()]
    if existing and len(existing) == len(jobs):
        what = f"all {len(jobs)} outputs exist"
        if len(jobs) == 1:
            what = f"'{existing[0].target}' exists"
        raise TesseraError(f"{what}; nothing is overwritten without --force.")
    kept = set(existing)
    return Plan([job for job in jobs if job not in kept], existing)


def _mirror(found: Sequence[Found], folder: Path, suffix: str) -> list[Job]:
    """Give each file its place below the output folder; twins keep their old extension too."""
    plain = [folder / item.relative.with_suffix(suffix) for item in found]
    count = Counter(plain)
    jobs = []
    for item, target in zip(found, plain, strict=True):
        if count[target] > 1:
            target = folder / item.relative.with_name(item.relative.name + suffix)
        jobs.append(Job(item.path, target))
    again = Counter(job.target for job in jobs)
    twins = [job for job in jobs if again[job.target] > 1]
    if twins:
        raise TesseraError(
            f"'{twins[0].source}' and '{twins[1].source}' would both become "
            f"'{twins[0].target}'; encode them into separate folders."
        )
    return jobs


def _check_suffix(target: Path, legal: Collection[str]) -> None:
    if target.suffix.lower() not in legal:
        raise TesseraError(
            f"'{target}' has the extension '{target.suffix}'; legal are {' '.join(sorted(legal))}"
            f"{nearest(target.suffix.lower(), legal)}"
        )


def make_folders(jobs: Sequence[Job]) -> None:
    """Make the output folders before the work, so that a read-only disk is found at once.

    Raises:
        TesseraError: a folder cannot be made or written.
    """
    for folder in sorted({job.target.parent for job in jobs}):
        make_folder(folder)


def make_folder(folder: Path) -> None:
    """Make one output folder with its parents, or say in a sentence why not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(folder, error) from None
    if not os.access(folder, os.W_OK):
        raise TesseraError(f"the folder '{folder}' cannot be written; give another output.")
