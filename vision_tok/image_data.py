"""Training pictures behind one config: folders, tar shards, photographs, procedural, mixtures.

    sample index --item--> (3, S, S) float32 in [-1, 1]

``item(index)`` is a pure function of the config and the index, so the position in the data is one
whole number: a resumed run continues exactly, and several processes take disjoint parts of one
joined batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tok_core.errors import ConfigError, nearest
from tok_core.mixed_source import MixedSource
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

STORED: tuple[str, ...] = ("folder", "shards")
WITHOUT_FILES: tuple[str, ...] = ("photographs", "classes", *KINDS)
SOURCES: tuple[str, ...] = (*STORED, *WITHOUT_FILES, "mixture")
_VALIDATION_SEED = 1 << 32  # added to the seed, so that validation shows unseen procedural items


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
        legal = ("auto", *SOURCES)
        for name in (self.source, *self.mixture):
            if name not in legal:
                raise ConfigError(f"there is no data source '{name}'; choose one of "
                                  f"{', '.join(legal)}{nearest(name, legal)}")
        if not 8 <= self.size <= 2048:
            raise ConfigError(f"data.size is {self.size}; give a side of 8 to 2048 pixels")
        if self.seed < 0:
            raise ConfigError(f"data.seed is {self.seed}; give a whole number of 0 or more")
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
        if self.source == "mixture" and not self.mixture:
            raise ConfigError("data.mixture is empty; give each source a share, for example "
                              "{photographs: 0.7, natural: 0.3}")
        if {"mixture", "auto"} & set(self.mixture) or any(s <= 0 for s in self.mixture.values()):
            raise ConfigError(f"data.mixture is {dict(self.mixture)}; give single sources, 'folder'"
                              " or 'shards' instead of 'auto', and shares above 0")


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
    name, path = _resolve(config)
    if validation:
        return _open_validation(config, name, path)
    if name == "mixture":
        parts = {part: _open_part(config, part, path) for part in config.mixture}
        return MixedSource(parts, config.mixture, seed=config.seed, version=VERSION)
    return _open_part(config, name, path)


def _resolve(config: ImageDataConfig) -> tuple[str, str]:
    """Return the source's name and its path ("" where it needs none); settles "auto"."""
    name, path = config.source, config.path
    stored = name in STORED or (name == "mixture" and bool(set(STORED) & set(config.mixture)))
    if path is None:
        if stored or name == "auto":
            raise ConfigError(f"data source '{name}' has no place to read from; pass --data with a "
                              f"folder, tar shards or one of {', '.join(WITHOUT_FILES)}")
        return name, ""
    if stored:
        return name, path
    if path == "procedural":
        return "natural", ""
    return (path, "") if path in WITHOUT_FILES else (_kind_of(path), path)


def _kind_of(path: str) -> str:
    """Say whether a path names a folder of pictures or tar shards."""
    if Path(path).is_dir():
        return "shards" if not has_pictures(path) and find_shards(path) else "folder"
    if find_shards(path):
        return "shards"
    raise ConfigError(f"'{path}' is neither a folder nor tar shards nor one of "
                      f"{', '.join(WITHOUT_FILES)}{nearest(path, WITHOUT_FILES)}")


def _open_part(config: ImageDataConfig, name: str, path: str) -> ImageSource:
    if name == "photographs":
        return Photographs(config)
    if name in STORED:
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
    if name in STORED:
        return CentreCrops(open_files(name, path), config.size)
    if name == "photographs" or (name == "mixture" and "photographs" in config.mixture):
        return HeldOutTiles(config.size)
    if name == "mixture":
        largest = max(config.mixture, key=lambda part: config.mixture[part])
        return _open_validation(config, largest, path)
    return _procedural(name, config.size, config.seed + _VALIDATION_SEED)
