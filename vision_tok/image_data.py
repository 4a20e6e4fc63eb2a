"""Training pictures behind one config: folders, tar shards, photographs, procedural, mixtures.

    sample index --item--> (3, S, S) float32 in [-1, 1]

``item(index)`` is a pure function of the config and the index, so the position in the data is one
whole number: a resumed run continues exactly, and several processes take disjoint parts of one
joined batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tok_core.data_config import VALIDATION_SEED, DataSources, largest_part, opened
from tok_core.errors import ConfigError
from tok_core.procedural_images import KINDS, ProceduralClasses, ProceduralImages
from vision_tok.image_folder import has_pictures
from vision_tok.image_shards import find_shards
from vision_tok.image_sources import (
    VERSION,
    ImageSource,
    Photographs,
    PictureFiles,
    ProceduralSource,
    open_files,
)
from vision_tok.image_validation_data import CentreCrops, HeldOutTiles

PICTURES = DataSources(
    stored=("folder", "shards"), places=("a folder", "tar shards"),
    without_files=("photographs", "classes", *KINDS), procedural="natural",
    example="{photographs: 0.7, natural: 0.3}",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ImageDataConfig:
    """Where training pictures come from and how they are cut.

    Attributes:
        source: "auto" (whatever ``path`` names), "folder", "shards", "photographs" (the packaged
            training photographs), "mixture", "classes" (the labelled set), or a procedural kind
            ("natural", "dead_leaves", "texture", "gradient", "shapes", "text").
        path: folder (searched recursively), .tar file, glob of shards, or the name of a source
            without files ("procedural" means "natural"); it replaces a source that needs no path.
        validation_path: folder or shards for validation; without it folders and shards are
            validated on their own pictures (centre crops), photographs and mixtures that hold them
            on native-size tiles of the held-out photographs, procedural ones on unseen items.
        size: side S in pixels of what comes out, 8 to 2048.
        seed: of order, crops and procedural items; 0 or more.
        flip: mirror every other picture.
        crop_scale: side of the crop as a share of the shorter side, log-uniform between the two;
            (1, 1) is the published recipe: shorter side to S, random crop.
        native_scale: side of the crop in units of S picture pixels, instead of crop_scale;
            photographs use (1, 4) where this is not given.
        crop_fraction: side of the crop as a share of the shorter side, which is brought to a random
            whole number of pixels after halving by boxes, instead of crop_scale; XQ-GAN and
            RobusTok take (0.8, 1), at 256 pixels a shorter side of 256 to 320.
        colour_jitter: spread of random light, contrast and tint, 0 (none) to 1.
        mixture: shares by source name, e.g. {natural: 1, photographs: 1}.

    Raises:
        ConfigError: an unknown name or an impossible number.
    """

    source: str = "auto"
    path: str | None = None
    validation_path: str | None = None
    size: int = 256
    seed: int = 0
    flip: bool = True
    crop_scale: tuple[float, float] = (1.0, 1.0)
    native_scale: tuple[float, float] | None = None
    crop_fraction: tuple[float, float] | None = None
    colour_jitter: float = 0.0
    mixture: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        PICTURES.check(self)
        if not 8 <= self.size <= 2048:
            raise ConfigError(f"data.size is {self.size}; give a side of 8 to 2048 pixels")
        if not 0.0 <= self.colour_jitter <= 1.0:
            raise ConfigError(f"data.colour_jitter is {self.colour_jitter}; give 0 to 1")
        low, high = self.crop_scale
        if not 0.0 < low <= high <= 1.0:
            raise ConfigError(f"data.crop_scale is {low}, {high}; give two rising numbers above 0 "
                              "and not above 1")
        low, high = self.native_scale or (1.0, 1.0)
        if not 0.0 < low <= high:
            raise ConfigError(f"data.native_scale is {low}, {high}; give two rising numbers "
                              "above 0")
        low, high = self.crop_fraction or (1.0, 1.0)
        if not 0.0 < low <= high <= 1.0:
            raise ConfigError(f"data.crop_fraction is {low}, {high}; give two rising numbers above "
                              "0 and not above 1")
        if self.crop_fraction and self.native_scale:
            raise ConfigError("data.crop_fraction and data.native_scale are both given; leave one "
                              "of the two out")


def open_images(config: ImageDataConfig, *, validation: bool = False) -> ImageSource:
    """Open what the config names.

    Args:
        validation: pictures for scores at fixed ids, cut the same way every time.

    Returns:
        A source for `tok_core.training.data_order.batches`; training sources are endless.

    Raises:
        ConfigError: nothing to read, or held-out photographs as training data.

    Example::

        source = open_images(ImageDataConfig(source="natural", size=64))
        source.item(0).shape  # (3, 64, 64)
    """
    name, path = PICTURES.resolved(config, _kind_of)
    if validation:
        return _open_validation(config, name, path)
    return opened(config, name, lambda part: _open_part(config, part, path), version=VERSION)


def _kind_of(path: str) -> str:
    """Say whether a path names a folder of pictures or tar shards."""
    if Path(path).is_dir():
        return "shards" if not has_pictures(path) and find_shards(path) else "folder"
    if find_shards(path):
        return "shards"
    raise PICTURES.not_a_place(path)


def _open_part(config: ImageDataConfig, name: str, path: str) -> ImageSource:
    if name == "photographs":
        return Photographs(config)
    if name in PICTURES.stored:
        return PictureFiles(open_files(name, path), config)
    return _procedural(name, config.size, config.seed)


def _procedural(name: str, size: int, seed: int) -> ProceduralSource:
    if name == "classes":
        return ProceduralSource(ProceduralClasses(size, seed))
    return ProceduralSource(ProceduralImages(name, size, seed))


def _open_validation(config: ImageDataConfig, name: str, path: str) -> ImageSource:
    if config.validation_path is not None:
        kind = _kind_of(config.validation_path)
        return CentreCrops(open_files(kind, config.validation_path), config.size)
    if name in PICTURES.stored:
        return CentreCrops(open_files(name, path), config.size)
    if name == "photographs" or (name == "mixture" and "photographs" in config.mixture):
        return HeldOutTiles(config.size)
    if name == "mixture":
        return _open_validation(config, largest_part(config.mixture), path)
    return _procedural(name, config.size, config.seed + VALIDATION_SEED)
