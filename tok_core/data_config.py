"""What the data configs of both senses share: their sources by name, mixtures, where a path leads.

    config --check--> legal names and shares --resolved--> (source, path) --opened--> samples
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from tok_core.errors import ConfigError, nearest
from tok_core.mixed_source import LabelledSource, MixedSource

# Added to the seed for validation, so that it shows synthetic items that no training has seen.
VALIDATION_SEED = 1 << 32

S = TypeVar("S", bound=LabelledSource)


class DataConfig(Protocol):
    """The fields that the data config of every sense has; a sense adds its own."""

    @property
    def source(self) -> str:
        """Name of a source, "mixture", or "auto" for whatever ``path`` names."""

    @property
    def path(self) -> str | None:
        """What is read, or the name of a source without files."""

    @property
    def seed(self) -> int:
        """Of order, crops and synthetic items."""

    @property
    def mixture(self) -> Mapping[str, float]:
        """Shares by source name."""


@dataclass(frozen=True, kw_only=True)
class DataSources:
    """The sources of training data of one sense.

    Attributes:
        stored: names of those that read a path, such as "folder".
        places: what such a path may be, in words, one for each of ``stored``.
        without_files: names of the others.
        procedural: the one that the path "procedural" means.
        example: a mixture as a user would write it.

    Example:
        >>> SOUNDS = DataSources(
        ...     stored=("folder", "list"), places=("a folder", "a list of files"),
        ...     without_files=("speech", "noise"), procedural="speech", example="{speech: 1}",
        ... )
        >>> SOUNDS.names
        ('folder', 'list', 'speech', 'noise', 'mixture')
    """

    stored: tuple[str, ...]
    places: tuple[str, ...]
    without_files: tuple[str, ...]
    procedural: str
    example: str

    @property
    def names(self) -> tuple[str, ...]:
        """Every source that a config may name, but "auto"."""
        return (*self.stored, *self.without_files, "mixture")

    def check(self, config: DataConfig) -> None:
        """Refuse unknown names, a seed below 0 and impossible shares.

        Raises:
            ConfigError: what came in, and what is legal.
        """
        legal = ("auto", *self.names)
        for name in (config.source, *config.mixture):
            if name not in legal:
                raise ConfigError(f"there is no data source '{name}'; choose one of "
                                  f"{', '.join(legal)}{nearest(name, legal)}")
        if config.seed < 0:
            raise ConfigError(f"data.seed is {config.seed}; give a whole number of 0 or more")
        if config.source == "mixture" and not config.mixture:
            raise ConfigError("data.mixture is empty; give each source a share, for example "
                              f"{self.example}")
        shares = dict(config.mixture)
        if {"mixture", "auto"} & set(shares) or any(share <= 0 for share in shares.values()):
            single = " or ".join(f"'{name}'" for name in self.stored)
            raise ConfigError(f"data.mixture is {shares}; give single sources, {single} instead of "
                              "'auto', and shares above 0")

    def resolved(self, config: DataConfig, kind_of: Callable[[str], str]) -> tuple[str, str]:
        """Return the source's name and its path ("" where it needs none); settles "auto".

        Args:
            kind_of: says which of ``stored`` a path is.

        Raises:
            ConfigError: nothing to read from.
        """
        name, path = config.source, config.path
        stored = name in self.stored or (
            name == "mixture" and bool(set(self.stored) & set(config.mixture))
        )
        if path is None:
            if stored or name == "auto":
                raise ConfigError(f"data source '{name}' has no place to read from; pass --data "
                                  f"with {', '.join(self.places)} or one of "
                                  f"{', '.join(self.without_files)}")
            return name, ""
        if stored:
            return name, path
        if path == "procedural":
            return self.procedural, ""
        return (path, "") if path in self.without_files else (kind_of(path), path)

    def not_a_place(self, path: str) -> ConfigError:
        """Return the error for a path that holds none of this, for ``kind_of`` to raise."""
        return ConfigError(f"'{path}' is neither {' nor '.join(self.places)} nor one of "
                           f"{', '.join(self.without_files)}{nearest(path, self.without_files)}")


def opened(
    config: DataConfig, name: str, open_part: Callable[[str], S], *, version: int
) -> S | MixedSource[S]:
    """Open a source, or the parts of a mixture as one.

    Args:
        name: as `DataSources.resolved` gives it. open_part: opens a single source.
        version: of the mixture's draws.
    """
    if name != "mixture":
        return open_part(name)
    parts = {part: open_part(part) for part in config.mixture}
    return MixedSource(parts, config.mixture, seed=config.seed, version=version)


def largest_part(mixture: Mapping[str, float]) -> str:
    """Return the source of the largest share, the first of equals."""
    return max(mixture, key=lambda part: mixture[part])
