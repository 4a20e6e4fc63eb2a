"""Training sounds behind one config: folders, file lists, synthetic sound, mixtures.

    sample index --item--> (1, T) float32 in [-1, 1]

``item(index)`` is a pure function of the config and the index, so the position in the data is one
whole number: a resumed run continues exactly, and several processes take disjoint parts of one
joined batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from audio_tok.audio_sources import (
    SUFFIXES,
    VERSION,
    AudioSource,
    SoundFiles,
    SyntheticSound,
    find_sounds,
    read_list,
)
from audio_tok.held_out_speech import FileBeginnings, HeldOutSpeech, UnheardSound
from tok_core.errors import ConfigError, nearest
from tok_core.mixed_source import MixedSource
from tok_core.procedural_audio import KINDS
from tok_core.procedural_audio import LONGEST as LONGEST_SYNTHETIC
from tok_core.procedural_speech import RATE as SYNTHETIC_RATE
from tok_core.resample import RATES

STORED: tuple[str, ...] = ("folder", "list")
SOURCES: tuple[str, ...] = (*STORED, *KINDS, "mixture")
_VALIDATION_SEED = 1 << 32  # added to the seed, so that validation plays unheard music and noise


@dataclass(frozen=True, kw_only=True)
class AudioDataConfig:
    """Where training sounds come from and how they are cut.

    Attributes:
        source: "auto" (whatever ``path`` names), "folder", "list" (a text file, one path per
            line), "mixture", or synthetic: "speech", "music", "noise", "mixed".
        path: folder (searched recursively), list, or the name of a synthetic source
            ("procedural" means "mixed"); it replaces a source that needs no path.
        validation_path: folder or list for validation; without it folders and lists are validated
            on the beginnings of their own files, speech and mixtures on the held-out sentences in
            held-out voices, music and noise on unheard pieces.
        segment: T in samples of what comes out.
        sample_rate: in Hz of what comes out; files at other rates are resampled.
        seed: of order, segments and synthetic items; 0 or more.
        peak_decibels: every segment's peak is scaled to a level between the two, in dB below full
            scale; (-6, -1) is the published recipe.
        mixture: shares by source name, e.g. {speech: 0.7, music: 0.2, noise: 0.1}.

    Raises:
        ConfigError: an unknown name or an impossible number.
    """

    source: str = "auto"
    path: str | None = None
    validation_path: str | None = None
    segment: int = 72_000
    sample_rate: int = 24_000
    seed: int = 0
    peak_decibels: tuple[float, float] = (-6.0, -1.0)
    mixture: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        legal = ("auto", *SOURCES)
        for name in (self.source, *self.mixture):
            if name not in legal:
                raise ConfigError(f"there is no data source '{name}'; choose one of "
                                  f"{', '.join(legal)}{nearest(name, legal)}")
        if self.segment < 1:
            raise ConfigError(f"data.segment is {self.segment}; give at least 1 sample")
        if not RATES[0] <= self.sample_rate <= RATES[1]:
            raise ConfigError(f"data.sample_rate is {self.sample_rate}; give {RATES[0]} to "
                              f"{RATES[1]} Hz")
        if self.seed < 0:
            raise ConfigError(f"data.seed is {self.seed}; give a whole number of 0 or more")
        low, high = self.peak_decibels
        if not -60.0 <= low <= high <= 0.0:
            raise ConfigError(f"data.peak_decibels is {low}, {high}; give two rising numbers from "
                              "-60 to 0")
        if self.source == "mixture" and not self.mixture:
            raise ConfigError("data.mixture is empty; give each source a share, for example "
                              "{speech: 0.7, music: 0.3}")
        if {"mixture", "auto"} & set(self.mixture) or any(s <= 0 for s in self.mixture.values()):
            raise ConfigError(f"data.mixture is {dict(self.mixture)}; give single sources, 'folder'"
                              " or 'list' instead of 'auto', and shares above 0")


def open_audio(config: AudioDataConfig, *, validation: bool = False) -> AudioSource:
    """Open what the config names.

    Args:
        validation: sounds for scores at fixed ids, cut the same way every time.

    Returns:
        A source for `tok_core.training.data_order.batches`; training sources are endless.

    Raises:
        ConfigError: nothing to read.

    Example::

        source = open_audio(AudioDataConfig(source="mixed"))
        source.item(0).shape  # (1, 72000)
    """
    name, path = _resolve(config)
    if validation:
        return _open_validation(config, name, path)
    if name == "mixture":
        parts = {part: _open_part(config, part, path) for part in config.mixture}
        return MixedSource(parts, config.mixture, seed=config.seed, version=VERSION)
    return _open_part(config, name, path)


def _resolve(config: AudioDataConfig) -> tuple[str, str]:
    """Return the source's name and its path ("" where it needs none); settles "auto"."""
    name, path = config.source, config.path
    stored = name in STORED or (name == "mixture" and bool(set(STORED) & set(config.mixture)))
    if path is None:
        if stored or name == "auto":
            raise ConfigError(f"data source '{name}' has no place to read from; pass --data with a "
                              f"folder, a list of files or one of {', '.join(KINDS)}")
        return name, ""
    if stored:
        return name, path
    if path == "procedural":
        return "mixed", ""
    return (path, "") if path in KINDS else (_kind_of(path), path)


def _kind_of(path: str) -> str:
    """Say whether a path names a folder of sounds or a list of files."""
    if Path(path).is_dir():
        return "folder"
    if not Path(path).is_file():
        raise ConfigError(f"'{path}' is neither a folder nor a list of files nor one of "
                          f"{', '.join(KINDS)}{nearest(path, KINDS)}")
    if Path(path).suffix.lower() in SUFFIXES:
        raise ConfigError(f"'{path}' is a single sound; give its folder, or a text file with one "
                          "path per line")
    return "list"


def _paths(kind: str, path: str) -> list[Path]:
    return find_sounds(path) if kind == "folder" else read_list(path)


def _open_part(config: AudioDataConfig, name: str, path: str) -> AudioSource:
    if name in STORED:
        return SoundFiles(_paths(name, path), config)
    if config.segment * SYNTHETIC_RATE > LONGEST_SYNTHETIC * config.sample_rate:
        raise ConfigError(f"data.segment is {config.segment} samples at {config.sample_rate} Hz; "
                          "synthetic sounds last at most 60 seconds")
    return SyntheticSound(name, config)


def _open_validation(config: AudioDataConfig, name: str, path: str) -> AudioSource:
    if config.validation_path is not None:
        paths = _paths(_kind_of(config.validation_path), config.validation_path)
        return FileBeginnings(paths, config.segment, config.sample_rate)
    if name == "mixture":
        largest = max(config.mixture, key=lambda part: config.mixture[part])
        return _open_validation(config, largest, path)
    if name in STORED:
        return FileBeginnings(_paths(name, path), config.segment, config.sample_rate)
    if name in ("speech", "mixed"):
        return HeldOutSpeech(config.segment, config.sample_rate)
    return UnheardSound(name, config.segment, config.sample_rate, config.seed + _VALIDATION_SEED)
