"""Pictures in tar shards of the webdataset layout, read at random without unpacking.

A shard holds members ``key.jpg``, ``key.cls`` and so on; members that share the key belong to one
sample.  The headers are read once; after that every picture is one read at a known place, so that
any process can take any sample.
"""

from __future__ import annotations

import glob
import os
import tarfile
from pathlib import Path
from typing import NamedTuple

from tok_core.errors import ConfigError, MediaError
from vision_tok.image_folder import SUFFIXES


class ShardMember(NamedTuple):
    """One picture: shard number, place and length of its bytes, key, and label or None."""

    shard: int
    offset: int
    length: int
    key: str
    label: int | None


def find_shards(path: str | Path) -> list[Path]:
    """Return the sorted .tar files that a file, folder or glob names; [] if there are none."""
    path = Path(path)
    if path.is_dir():
        return sorted(path.rglob("*.tar"))
    if path.is_file():
        return [path]
    return sorted(Path(name) for name in glob.glob(str(path)) if Path(name).is_file())


class TarShards:
    """The pictures of tar shards by number.

    Args:
        path: one .tar file, a folder of them, or a glob such as "data/train-*.tar".

    Raises:
        ConfigError: no shard, a shard that is no plain tar file, or shards without pictures.

    Example::

        shards = TarShards("data/train-*.tar")
        shards.read(0), shards.name(0), shards.label(0)
    """

    def __init__(self, path: str | Path) -> None:
        self.paths = find_shards(path)
        if not self.paths:
            raise ConfigError(f"'{path}' names no .tar file; give a shard, a folder of shards or a "
                              "quoted glob")
        self.members = [m for number in range(len(self.paths)) for m in self._index(number)]
        if not self.members:
            raise ConfigError(f"the {len(self.paths)} shards of '{path}' hold no picture "
                              f"({', '.join(sorted(SUFFIXES))}); check what they were made from")
        self._open: dict[int, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self.members)

    def label(self, number: int) -> int | None:
        """Return the whole number in the sample's ``.cls`` member, or None."""
        return self.members[number].label

    def name(self, number: int) -> str:
        """Return "shard.tar/key" for reports."""
        member = self.members[number]
        return f"{self.paths[member.shard]}/{member.key}"

    def read(self, number: int) -> bytes:
        """Return the bytes of one picture file; MediaError if the shard has become shorter."""
        member = self.members[number]
        try:
            data = os.pread(self._descriptor(member.shard), member.length, member.offset)
        except OSError as error:
            raise MediaError(f"{self.name(number)} cannot be read ({error.strerror})") from None
        if len(data) != member.length:
            raise MediaError(f"{self.name(number)} is cut off; the shard is truncated")
        return data

    def _descriptor(self, shard: int) -> int:
        """Open a shard once per process: workers must not share one file with their parent."""
        process, descriptor = self._open.get(shard, (0, 0))
        if process != os.getpid():
            descriptor = os.open(self.paths[shard], os.O_RDONLY)
            self._open[shard] = (os.getpid(), descriptor)
        return descriptor

    def _index(self, number: int) -> list[ShardMember]:
        pictures: list[tuple[str, int, int]] = []
        labels: dict[str, int] = {}
        path = self.paths[number]
        try:
            with tarfile.open(path, mode="r:") as tar:
                for entry in tar:
                    if not entry.isfile():
                        continue
                    folder, _, base = entry.name.rpartition("/")
                    stem, _, kind = base.partition(".")
                    key = f"{folder}/{stem}" if folder else stem
                    if "." + kind.lower().rpartition(".")[2] in SUFFIXES:
                        pictures.append((key, entry.offset_data, entry.size))
                    elif kind == "cls" and entry.size <= 20:
                        text = (tar.extractfile(entry) or b"").read().strip()  # type: ignore
                        if text.isdigit():
                            labels[key] = int(text)
        except (tarfile.TarError, OSError, EOFError) as error:
            raise ConfigError(f"shard {path} is no plain, whole tar file ({error}); unpack "
                              "compressed ones and copy broken ones again") from None
        return [ShardMember(number, at, size, key, labels.get(key)) for key, at, size in pictures]
