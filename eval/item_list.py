"""The items of a run: files of a folder in a fixed order, pairs by relative name, one hash.

    DIR/cat/1.jpg  ◀──same name, any ending──▶  OTHER/cat/1.png
"""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tok_core.errors import MediaError, nearest
from tok_core.file_walk import files_below

NAMED = 5  # items that a message names before it only counts


@dataclass(frozen=True)
class Item:
    """One file. name: its path below the folder, with slashes."""

    name: str
    path: Path

    @property
    def stem(self) -> str:
        """The name without its ending, by which pairs are found."""
        return os.path.splitext(self.name)[0]


@dataclass(frozen=True, eq=False)
class ItemList:
    """The files of a run, sorted by name.

    Args:
        items: in order; an item's place is its index, which random draws depend on.
        folder: that they were found in. sense: ``image`` or ``audio``.
    """

    items: tuple[Item, ...]
    folder: Path
    sense: str

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def sha256(self) -> str:
        """Hash over names and contents of all items, 64 hex digits."""
        digest = hashlib.sha256()
        with ThreadPoolExecutor(4) as pool:
            contents = pool.map(_content, (item.path for item in self.items))
            for item, content in zip(self.items, contents, strict=True):
                digest.update(f"{item.name}|{content}\n".encode())
        return digest.hexdigest()

    def first(self, count: int | None) -> ItemList:
        """Return the first ``count`` items, all for None."""
        return ItemList(self.items[:count], self.folder, self.sense)


def readable(sense: str) -> frozenset[str]:
    """Return the file endings of a sense, with the dot."""
    if sense == "image":
        from vision_tok.image_codec import READABLE

        return READABLE
    from audio_tok.audio_file import READABLE as SOUNDS

    return SOUNDS


def list_items(folder: str | Path, sense: str) -> ItemList:
    """List the pictures or sounds below a folder, or those of a list or a glob.

    Args:
        folder: searched with its sub-folders; a glob such as ``photos/*/val_*.png``; a ``.txt``
            file with one path per line, relative ones beside it; a single file is a list of one.
        sense: ``image`` or ``audio``.

    Raises:
        MediaError: nothing there, or nothing of this sense in it.

    Example:
        >>> len(list_items("photos", "image"))  # doctest: +SKIP
        14
    """
    root = Path(folder).expanduser()
    if root.is_file():
        if root.suffix.lower() == ".txt":
            return _listed(root, sense)
        return ItemList((Item(root.name, root),), root.parent, sense)
    if not root.is_dir():
        if glob.has_magic(str(root)):
            return _named(map(Path, glob.glob(str(root), recursive=True)), str(folder), sense)
        around = [p.name for p in root.parent.iterdir()] if root.parent.is_dir() else []
        raise MediaError(f"there is no folder '{folder}'{nearest(root.name, around)}")
    endings = readable(sense)
    found = [
        Item(path.relative_to(root).as_posix(), path) for path in files_below(root, endings)
    ]
    if not found:
        raise MediaError(
            f"'{folder}' holds no {sense} file; legal endings are {' '.join(sorted(endings))}"
        )
    return ItemList(tuple(sorted(found, key=lambda item: item.name)), root, sense)


def _listed(file: Path, sense: str) -> ItemList:
    """Return the files that a text file names."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise MediaError(f"'{file}' is no text; write one path per line") from None
    paths = [file.parent / line.strip() for line in lines if line.strip()]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise MediaError(f"'{file}' names {len(missing)} file(s) that are not there, the first: "
                         f"'{missing[0]}'; paths are taken from the list's folder")
    return _named(paths, str(file), sense)


def _named(paths: Iterable[Path], source: str, sense: str) -> ItemList:
    """Return files of this sense under their paths below the folder that they share."""
    endings = readable(sense)
    kept = {path for path in paths if path.suffix.lower() in endings and path.is_file()}
    if not kept:
        raise MediaError(
            f"'{source}' names no {sense} file; legal endings are {' '.join(sorted(endings))}"
        )
    root = Path(os.path.commonpath([path.parent for path in kept]))
    items = [Item(path.relative_to(root).as_posix(), path) for path in kept]
    return ItemList(tuple(sorted(items, key=lambda item: item.name)), root, sense)


@dataclass(frozen=True)
class Pairs:
    """Items with their partners in another folder, and who has none.

    Args:
        partners: path by item name. only_first, only_second: names without a partner.
    """

    partners: dict[str, Path]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]

    @property
    def complaint(self) -> str | None:
        """A sentence on the names without a partner, None when there are none."""
        parts = []
        if self.only_first:
            parts.append(f"{len(self.only_first)} originals have no partner "
                         f"({some(self.only_first)})")  # fmt: skip
        if self.only_second:
            parts.append(f"{len(self.only_second)} files there belong to no original "
                         f"({some(self.only_second)})")  # fmt: skip
        return " and ".join(parts) or None


def pair(items: ItemList, folder: str | Path) -> Pairs:
    """Find each item's partner in another folder: the same relative name, any ending.

    Raises:
        MediaError: no such folder, nothing there, or a name that stands for two files.
    """
    others = list_items(folder, items.sense)
    mine, theirs = _by_stem(items), _by_stem(others)
    partners = {item.name: theirs[key].path for key, item in mine.items() if key in theirs}
    only_first = tuple(item.name for key, item in mine.items() if key not in theirs)
    only_second = tuple(item.name for key, item in theirs.items() if key not in mine)
    return Pairs(partners, only_first, only_second)


def scan(items: Iterable[Item], read: Callable[[Item], object]) -> list[tuple[Item, str]]:
    """Return the items that cannot be read, each with the reason; nothing is kept in memory."""

    def reason(item: Item) -> str | None:
        try:
            read(item)
        except MediaError as error:
            return str(error)
        return None

    listed = list(items)
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(reason, listed)
        return [(item, text) for item, text in zip(listed, found, strict=True) if text]


def bad_items_error(bad: Sequence[tuple[Item, str]], total: int) -> MediaError:
    """Return the error for items that cannot be read and may not be left out."""
    names = some([item.name for item, _ in bad])
    return MediaError(
        f"{len(bad)} of {total} files cannot be read: {names}; the first: {bad[0][1]}; repair or "
        "remove them, or leave them out and have them counted with --skip-bad"
    )


def some(names: Sequence[str]) -> str:
    """Return the first few names, and how many more there are."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _by_stem(items: ItemList) -> dict[str, Item]:
    found: dict[str, Item] = {}
    for item in items.items:
        if item.stem in found:
            raise MediaError(
                f"'{found[item.stem].name}' and '{item.name}' in {items.folder} have the same name "
                "but for the ending, so partners cannot be told; rename or remove one of them"
            )
        found[item.stem] = item
    return found


def _content(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        # Reading it will fail too, and say so; the list has its hash nevertheless.
        return f"unreadable {error.errno}"
    return digest.hexdigest()
