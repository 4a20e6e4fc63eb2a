"""A folder of finished reconstructions as a contestant, paired with the originals by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eval.contestant import Contestant, Reconstruction, Signal
from eval.item_list import Item, ItemList, list_items, pair, scan
from eval.originals import read_picture, read_sound
from tok_core.errors import ConfigError, MediaError

# Files whose size says nothing of a rate.
LOSSLESS = frozenset(".png .bmp .tif .tiff .ppm .wav .flac .aif .aiff".split())


class FolderContestant(Contestant):
    """Files that another program made; ``photos/cat.jpg`` pairs with ``made/cat.png``.

    Args:
        folder: with the same relative names as the originals, of any ending. sense: of the run.
        name: as tables call it.

    Raises:
        MediaError: no such folder, or nothing of this sense in it.

    Example:
        >>> made = FolderContestant("made", "image")
        >>> made.bad_items(items)  # doctest: +SKIP
        []
    """

    def __init__(self, folder: str | Path, sense: str, name: str | None = None) -> None:
        self.folder = Path(folder).expanduser()
        found = list_items(self.folder, sense)
        self.paths: dict[str, Path] = {}
        self.complaint: str | None = None
        super().__init__(
            name=name or self.folder.name, sense=sense, fixed=True,
            identity={"files": found.sha256},
        )  # fmt: skip

    def bad_items(self, items: ItemList) -> list[tuple[Item, str]]:
        """Pair the originals with the folder and return those without a readable partner."""
        found = pair(items, self.folder)
        self.complaint = found.complaint
        self.paths = dict(found.partners)
        missing = [
            (item, f"{item.name} has no partner in {self.folder}")
            for item in items.items
            if item.name not in self.paths
        ]
        partners = [Item(item.name, self.paths[item.name]) for item in items.items
                    if item.name in self.paths]  # fmt: skip
        read = read_picture if self.sense == "image" else read_sound
        return missing + scan(partners, lambda item: read(item.path))

    def check_budget(self, budget: float | None) -> None:
        """Raise ConfigError for any budget."""
        if budget is not None:
            raise ConfigError(f"the files of {self.folder} are finished; give them no budget.")

    def reconstruct(
        self, signals: Sequence[Signal], budget: float | None = None
    ) -> list[Reconstruction]:
        """Read the partners."""
        return [self._read(signal) for signal in signals]

    def _read(self, signal: Signal) -> Reconstruction:
        path = self.paths[signal.name]
        size = None if path.suffix.lower() in LOSSLESS else path.stat().st_size
        if self.sense == "audio":
            values, rate = read_sound(path)
            return Reconstruction(values, rate=rate, bytes_on_disk=size)
        from tok_core.evaluation_crop import image_bytes

        picture = image_bytes(read_picture(path))
        if picture.shape != signal.values.shape:
            raise MediaError(
                f"{path} is {_size(picture.shape)} pixels where the original, cropped by the "
                f"protocol, is {_size(signal.values.shape)}; make reconstructions of that size, "
                "or choose another protocol, --crop or --size."
            )
        return Reconstruction(picture, bytes_on_disk=size)


def _size(shape: Sequence[int]) -> str:
    return f"{shape[-1]} x {shape[-2]}"
