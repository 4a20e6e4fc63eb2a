"""Where training pictures come from, each as ``item(index)``: files, photographs, procedural.

All of them are endless: every pass over stored pictures is a new order with new crops, and what an
index gives depends on the config and the index alone.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from PIL import Image
from torch import Tensor

from assets import photograph_path, photograph_split
from tok_core.errors import ConfigError, MediaError
from tok_core.procedural_draws import Draws, item_draws
from tok_core.procedural_images import ProceduralClasses, ProceduralImages
from tok_core.training.data_order import shuffled
from vision_tok.image_crops import colour_change, random_crop, to_tensor
from vision_tok.image_file import read_image
from vision_tok.image_folder import find_pictures, held_out_name
from vision_tok.image_shards import TarShards

if TYPE_CHECKING:
    from vision_tok.image_data import ImageDataConfig

VERSION = 1  # of the random streams below
# Shares of the training photographs: scenes with many colours and scales come more often than the
# grey close-ups of one material.
_SHARES = {"astronaut": 4, "china": 4, "rocket": 2, "camera": 2}
_NATIVE = (1.0, 4.0)  # from a photograph's own resolution to a quarter of it


class ImageSource(Protocol):
    """Pictures by index; what `tok_core.training.data_order.batches` takes."""

    @property
    def length(self) -> int | None:
        """Number of distinct samples; None = endless."""

    def item(self, index: int) -> Tensor:
        """Return (3, S, S) float32 in [-1, 1]; MediaError for an unreadable file."""

    def label(self, index: int) -> int | None:
        """Return the class of the sample, or None where there is none."""


class Files(Protocol):
    """Stored pictures by number, 0..len-1."""

    def __len__(self) -> int: ...

    def read(self, number: int) -> Path | bytes:
        """Return what `read_image` takes; MediaError if it cannot be had."""

    def name(self, number: int) -> str:
        """Return what to call it in a report."""

    def label(self, number: int) -> int | None:
        """Return its class, or None."""


class FolderFiles:
    """The picture files below a folder.

    Its own sub-folders that hold pictures are the classes, sorted, as `tessera tokenize` has them.
    """

    def __init__(self, folder: str) -> None:
        self.paths = find_pictures(folder)
        self._depth = len(Path(folder).parts)

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, number: int) -> Path:
        """Return the path."""
        return self.paths[number]

    def name(self, number: int) -> str:
        """Return the path as text."""
        return str(self.paths[number])

    def label(self, number: int) -> int | None:
        """Return the place of its class, None for a picture that lies in no sub-folder."""
        return self._classes.get(self._class_of(self.paths[number]))

    @cached_property
    def _classes(self) -> dict[str, int]:
        names = {self._class_of(path) for path in self.paths} - {""}
        return {name: place for place, name in enumerate(sorted(names))}

    def _class_of(self, path: Path) -> str:
        return path.parts[self._depth] if len(path.parts) > self._depth + 1 else ""


def open_files(kind: str, path: str) -> Files:
    """Return the stored pictures of kind "folder" or "shards" at ``path``."""
    return TarShards(path) if kind == "shards" else FolderFiles(path)


class ProceduralSource:
    """Procedural pictures, with labels for the labelled set."""

    length = None

    def __init__(self, pictures: ProceduralImages | ProceduralClasses) -> None:
        self.pictures = pictures

    def item(self, index: int) -> Tensor:
        """Return (3, S, S) float32 in [-1, 1]."""
        found = self.pictures[index]
        return found[0] if isinstance(found, tuple) else found

    def label(self, index: int) -> int | None:
        """Return the class of a labelled source, else None."""
        return self.pictures.label(index) if isinstance(self.pictures, ProceduralClasses) else None


class PictureFiles:
    """Random crops of stored pictures.

    Held-out photographs among them are refused: at once where a file is the packaged one, and as
    unreadable samples (counted and reported) where a copy of one lies among other pictures.

    Raises:
        ConfigError: a packaged held-out photograph is among the files.
    """

    length = None

    def __init__(self, files: Files, config: ImageDataConfig) -> None:
        self.files, self.config = files, config
        self._checked: set[int] = set()
        held_out = {photograph_path(name).resolve() for name in photograph_split()["held_out"]}
        for path in getattr(files, "paths", ()):
            if path.name in {held.name for held in held_out} and path.resolve() in held_out:
                raise ConfigError(f"the training data holds the held-out photograph {path}; use "
                                  "data.source=photographs, which leaves it out")

    def _number(self, index: int) -> int:
        return shuffled(index, len(self.files), self.config.seed)

    def item(self, index: int) -> Tensor:
        """Return (3, S, S) float32 in [-1, 1]; MediaError for a file that cannot be used."""
        number = self._number(index)
        image = read_image(self.files.read(number), self.files.name(number)).pixels
        if number not in self._checked:
            held = held_out_name(image)
            if held is not None:
                raise MediaError(f"{self.files.name(number)} is the held-out photograph '{held}', "
                                 "which nothing is trained on; remove it")
            self._checked.add(number)
        draws = item_draws("crops", version=VERSION, seed=self.config.seed, index=index)
        return _cut(image, self.config, draws, self.config.native_scale)

    def label(self, index: int) -> int | None:
        """Return the label stored with the picture, or None."""
        return self.files.label(self._number(index))


def _cut(
    image: Image.Image, config: ImageDataConfig, draws: Draws,
    native_scale: tuple[float, float] | None,
) -> Tensor:
    crop = random_crop(image, config.size, draws, crop_scale=config.crop_scale,
                       native_scale=native_scale, crop_fraction=config.crop_fraction,
                       flip=config.flip)
    strength = config.colour_jitter
    return to_tensor(crop, colour_change(draws, strength) if strength > 0.0 else None)


@lru_cache(maxsize=16)
def photograph(name: str) -> Image.Image:
    """Return a packaged photograph as an RGB image, decoded once per process."""
    return read_image(photograph_path(name)).pixels


class Photographs:
    """Random crops of the packaged training photographs; the held-out ones are out of reach.

    So that a few photographs stand for many, three crops in ten are turned by quarters and one in
    three has its colour channels exchanged.
    """

    length = None

    def __init__(self, config: ImageDataConfig) -> None:
        split = photograph_split()
        both = set(split["train"]) & set(split["held_out"])
        if both:
            raise ConfigError(f"{', '.join(sorted(both))} is both trained on and held out in "
                              "SPLIT.json; restore the file")
        self.config = config
        self.names = [name for name in split["train"] for _ in range(_SHARES.get(name, 1))]

    def item(self, index: int) -> Tensor:
        """Return (3, S, S) float32 in [-1, 1]."""
        draws = item_draws("photographs", version=VERSION, seed=self.config.seed, index=index)
        image = photograph(draws.choice(self.names))
        values = _cut(image, self.config, draws, self.config.native_scale or _NATIVE)
        if draws.chance(0.3):
            values = values.rot90(draws.integer(1, 3), (1, 2))
        if draws.chance(1.0 / 3.0):
            values = values[draws.uniforms(3).argsort()]
        return values.contiguous()

    def label(self, index: int) -> int | None:
        """Return None: photographs carry no labels."""
        return None
