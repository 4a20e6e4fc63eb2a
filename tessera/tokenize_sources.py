"""What `tessera tokenize` reads: a folder of classes, a glob or tar shards, as one fixed list.

    folder/class/name.jpg --> key "class/name", label of the class
    shard.tar: name.jpg, name.cls --> key "shard/name", label in name.cls, caption in name.npy,
                                      short caption in name.short.npy

The list is written to disk line by line and read back by every process: a resumed run goes on with
the files that it began with, whatever has come or gone since.
"""

from __future__ import annotations

import glob
import json
import os
import tarfile
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from tessera import files
from tessera.modality import CODECS, codec_class
from tessera.report import say
from tok_core.atomic_write import atomic_file
from tok_core.errors import MediaError
from tok_core.shard_members import Keys

_TAR = ".tar"
_CLASS, _CAPTION, _SHORT_CAPTION = "cls", "npy", "short.npy"
_LONGEST_LABEL = 20  # bytes of a .cls member; longer ones are something else


class Source(NamedTuple):
    """One file to tokenize.

    Attributes:
        key: its unique name in the shards.
        path: of the file, or of the tar shard that holds it.
        label: class, or None.
        offset, size: place in a tar shard; None for a file of its own.
        name: of the member in a tar shard.
        caption: offset and size of its caption's features in a tar shard.
        short_caption: the same of its short caption's, which it may lack.
    """

    key: str
    path: str
    label: int | None = None
    offset: int | None = None
    size: int | None = None
    name: str = ""
    caption: tuple[int, int] | None = None
    short_caption: tuple[int, int] | None = None

    def __str__(self) -> str:
        return f"{self.path}/{self.name}" if self.name else self.path


class Listing(NamedTuple):
    """What `write_sources` found."""

    sources: int
    class_names: list[str] | None
    skipped: list[dict[str, str]]


def sense_of_input(text: str, leave_out: Path) -> str:
    """Return "image" or "audio": the kind of files there; pictures where there are both.

    Raises:
        MediaError: nothing there, or no file of either kind.
    """
    files.check_inputs([text])
    kinds = {kind: sense for sense in CODECS for kind in codec_class(sense).readable}
    count: Counter[str] = Counter()
    for name in _names(text, leave_out):
        sense = kinds.get(os.path.splitext(name)[1].lower())
        if sense:
            count[sense] += 1
    if not count:
        for path in _tars(text, leave_out):
            members = _members(path, kinds, [])
            count.update(kinds[_suffix(m.name)] for m in members)
            if count:  # one shard tells what the others hold
                break
    if not count:
        raise MediaError(f"'{text}' holds no file of these kinds: {' '.join(sorted(kinds))}.")
    present = [sense for sense in CODECS if count[sense]]
    if len(present) > 1:
        say(f"the {count[present[1]]} {present[1]} files there are left to a run of their own, with"
            f" --model; this one takes the {count[present[0]]} {present[0]} files")
    return present[0]


def write_sources(
    target: Path, text: str, suffixes: Collection[str], leave_out: Path
) -> Listing:
    """Find every source and write the list.

    Args:
        target: file of the list, one JSON array per line.
        text: folder, file, glob or tar shards as the user gave them.
        suffixes: extensions of the files to take, lower case, with the dot.
        leave_out: the output folder, whose files are never sources.

    Returns:
        number of sources, names of the classes (None without class folders), broken tar shards.

    Raises:
        MediaError: nothing to tokenize.
    """
    files.check_inputs([text])
    classes: list[str] = []
    skipped: list[dict[str, str]] = []
    count = 0
    with atomic_file(target, force=True) as file:
        for source in _sources(text, suffixes, leave_out, classes, skipped):
            file.write(json.dumps(source).encode() + b"\n")
            count += 1
        if not count:
            found = f"; {skipped[0]['error']}" if skipped else ""
            kinds = " ".join(sorted(suffixes))
            raise MediaError(f"'{text}' holds no file of these kinds: {kinds}{found}")
    return Listing(count, classes or None, skipped)


def read_sources(path: Path, ranges: Sequence[range]) -> Iterator[Source]:
    """Yield the sources of rising ranges of numbers, reading the list once, line by line."""
    at = 0
    with open(path, "rb") as lines:
        for numbers in ranges:
            for line in islice(lines, numbers.start - at, numbers.stop - at):
                yield Source(*json.loads(line))
            at = numbers.stop


# -- finding -----------------------------------------------------------------------------------


def _sources(
    text: str, suffixes: Collection[str], leave_out: Path, classes: list[str],
    skipped: list[dict[str, str]],
) -> Iterator[Source]:  # fmt: skip
    keys, folder, any_file = Keys(), None, False
    for path in _paths(text, suffixes, leave_out):
        any_file = True
        relative = path.relative_to(_root(text))
        if relative.parent != folder:
            keys, folder = Keys(), relative.parent
        label = None
        if len(relative.parts) > 1:
            # Folders come sorted, and each class's files in one run.
            if not classes or classes[-1] != relative.parts[0]:
                classes.append(relative.parts[0])
            label = len(classes) - 1
        key = (relative.parent / keys.of(relative.name)).as_posix()
        yield Source(key, os.path.abspath(path), label)
    if not any_file:
        yield from _tar_sources(text, suffixes, leave_out, skipped)


def _tar_sources(
    text: str, suffixes: Collection[str], leave_out: Path, skipped: list[dict[str, str]]
) -> Iterator[Source]:
    stems = Keys()
    for path in _tars(text, leave_out):
        keys, stem = Keys(), stems.of(path.name)
        for member in _members(path, suffixes, skipped):
            folder, _, base = member.name.rpartition("/")
            key = "/".join(part for part in (stem, folder.strip("/"), keys.of(base)) if part)
            yield member._replace(key=key)


def _members(
    path: Path, suffixes: Collection[str], skipped: list[dict[str, str]]
) -> list[Source]:
    """Return the members of a tar shard that can be read; what is broken goes to ``skipped``."""
    found: list[Source] = []
    labels: dict[str, int] = {}
    captions: dict[str, tuple[int, int]] = {}
    short_captions: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(path, mode="r:") as tar:
            for entry in tar:
                name = entry.name
                stem, _, kind = split_name(name)
                if not entry.isfile() or os.path.basename(name).startswith("."):
                    continue
                if _suffix(name) in suffixes:
                    found.append(Source(stem, os.path.abspath(path), None, entry.offset_data,
                                        entry.size, name))
                elif kind == _CAPTION:
                    captions[stem] = (entry.offset_data, entry.size)
                elif kind == _SHORT_CAPTION:
                    short_captions[stem] = (entry.offset_data, entry.size)
                elif kind == _CLASS and entry.size <= _LONGEST_LABEL:
                    member = tar.extractfile(entry)
                    value = member.read().strip() if member is not None else b""
                    if value.isdigit():
                        labels[stem] = int(value)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        skipped.append({
            "source": str(path),
            "error": f"{path} is no plain, whole tar file ({error}); {len(found)} files before the "
            "damage are taken: unpack compressed shards, copy broken ones again",
        })  # fmt: skip
    return [
        source._replace(
            label=labels.get(source.key), caption=captions.get(source.key),
            short_caption=short_captions.get(source.key),
        )
        for source in found
    ]  # fmt: skip


def split_name(name: str) -> tuple[str, str, str]:
    """Split a member's name at the first dot of its last part, as webdataset does."""
    folder, slash, base = name.rpartition("/")
    stem, dot, kind = base.partition(".")
    return folder + slash + stem, dot, kind


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _root(text: str) -> Path:
    """Return the folder that keys and classes count from."""
    path = Path(text).expanduser()
    if path.is_dir():
        return path
    return path.parent if path.exists() else files.fixed_part(path)


def _paths(text: str, suffixes: Collection[str], leave_out: Path) -> Iterator[Path]:
    """Yield media files in order: a folder's own, then its sorted folders'."""
    path = Path(text).expanduser()
    if path.is_dir():
        yield from _walk(path, suffixes, leave_out)
    elif path.exists():
        if path.suffix.lower() != _TAR:
            yield path
    else:
        # Sorted like a folder: a class's files must stay in one run.
        matches = sorted(Path(name) for name in glob.glob(str(path), recursive=True))
        for match in matches:
            if match.is_dir():
                if "**" not in text:
                    yield from _walk(match, suffixes, leave_out)
            elif match.suffix.lower() in suffixes:
                yield match


def _names(text: str, leave_out: Path) -> Iterator[str]:
    kinds = {kind for sense in CODECS for kind in codec_class(sense).readable}
    return (path.name for path in _paths(text, kinds, leave_out))


def _walk(folder: Path, suffixes: Collection[str], leave_out: Path) -> Iterator[Path]:
    hidden = leave_out.resolve()
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(
            name for name in folders
            if not name.startswith(".") and Path(place, name).resolve() != hidden
        )  # fmt: skip
        for name in sorted(names):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes:
                yield Path(place, name)


def _tars(text: str, leave_out: Path) -> list[Path]:
    """Return the tar shards that a file, folder or glob names, sorted."""
    path = Path(text).expanduser()
    if path.is_dir():
        return list(_walk(path, {_TAR}, leave_out))
    if path.exists():
        return [path] if path.suffix.lower() == _TAR else []
    hidden = leave_out.resolve()
    return [
        match for match in sorted(Path(name) for name in glob.glob(str(path), recursive=True))
        if match.suffix.lower() == _TAR and match.is_file()
        and not match.resolve().is_relative_to(hidden)
    ]  # fmt: skip
