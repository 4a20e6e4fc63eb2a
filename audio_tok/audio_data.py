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
from tok_core.data_config import VALIDATION_SEED, DataSources, largest_part, opened
from tok_core.errors import ConfigError
from tok_core.procedural_audio import KINDS
from tok_core.procedural_audio import LONGEST as LONGEST_SYNTHETIC
from tok_core.procedural_speech import RATE as SYNTHETIC_RATE
from tok_core.resample import RATES

SOUNDS = DataSources(
    stored=("folder", "list"), places=("a folder", "a list of files"), without_files=KINDS,
    procedural="mixed", example="{speech: 0.7, music: 0.3}",
)  # fmt: skip


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
        SOUNDS.check(self)
        if self.segment < 1:
            raise ConfigError(f"data.segment is {self.segment}; give at least 1 sample")
        if not RATES[0] <= self.sample_rate <= RATES[1]:
            raise ConfigError(f"data.sample_rate is {self.sample_rate}; give {RATES[0]} to "
                              f"{RATES[1]} Hz")
        low, high = self.peak_decibels
        if not -60.0 <= low <= high <= 0.0:
            raise ConfigError(f"data.peak_decibels is {low}, {high}; give two rising numbers from "
                              "-60 to 0")


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
    name, path = SOUNDS.resolved(config, _kind_of)
    if validation:
        return _open_validation(config, name, path)
    return opened(config, name, lambda part: _open_part(config, part, path), version=VERSION)


def _kind_of(path: str) -> str:
    """Say whether a path names a folder of sounds or a list of files."""
    if Path(path).is_dir():
        return "folder"
    if not Path(path).is_file():
        raise SOUNDS.not_a_place(path)
    if Path(path).suffix.lower() in SUFFIXES:
        raise ConfigError(f"'{path}' is a single sound; give its folder, or a text file with one "
                          "path per line")
    return "list"


def _paths(kind: str, path: str) -> list[Path]:
    return find_sounds(path) if kind == "folder" else read_list(path)


def _open_part(config: AudioDataConfig, name: str, path: str) -> AudioSource:
    if name in SOUNDS.stored:
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
        return _open_validation(config, largest_part(config.mixture), path)
    if name in SOUNDS.stored:
        return FileBeginnings(_paths(name, path), config.segment, config.sample_rate)
    if name in ("speech", "mixed"):
        return HeldOutSpeech(config.segment, config.sample_rate)
    return UnheardSound(name, config.segment, config.sample_rate, config.seed + VALIDATION_SEED)
