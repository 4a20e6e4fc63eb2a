"""Where training sounds come from, each as ``item(index)``: files, synthetic sound, mixtures.

All of them are endless: every pass over stored files is a new order with new segments, and what an
index gives depends on the config and the index alone.

Letters: T samples of a segment.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from tok_core.errors import ConfigError, MediaError
from tok_core.procedural_audio import ProceduralAudio
from tok_core.procedural_draws import Draws, item_draws
from tok_core.resample import RATES, resample
from tok_core.training.data_order import shuffled

if TYPE_CHECKING:
    from audio_tok.audio_data import AudioDataConfig

VERSION = 1  # of the random streams below
SUFFIXES = frozenset(".wav .flac .ogg .oga .opus .mp3 .aif .aiff .aifc .au .caf .w64 .rf64".split())
_MARGIN = 64  # file samples read on both sides of a segment, for the resampler's kernel


class AudioSource(Protocol):
    """Sounds by index; what `tok_core.training.data_order.batches` takes."""

    @property
    def length(self) -> int | None:
        """Number of distinct samples; None = endless."""

    def item(self, index: int) -> Tensor:
        """Return (1, T) float32 in [-1, 1]; MediaError for an unreadable file."""

    def label(self, index: int) -> int | None:
        """Return the class of the sample, or None where there is none."""


def find_sounds(folder: str | Path) -> list[Path]:
    """Return every sound file below ``folder``, sorted; hidden ones are left out.

    Raises:
        ConfigError: no such folder, or no sound in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ConfigError(f"'{folder}' is no folder; give a folder of sounds or a list of files")
    found = sorted(_walk(folder))
    if not found:
        raise ConfigError(f"folder '{folder}' holds no sound ({', '.join(sorted(SUFFIXES))}); give "
                          "one that does")
    return found


def read_list(path: str | Path) -> list[Path]:
    """Return the files that a text file names, one per line; relative ones lie beside the list.

    Raises:
        ConfigError: no such text file, or it names nothing.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"'{path}' is no text file; give a list of sound files, one path per "
                          "line") from None
    found = [path.parent / line.strip() for line in lines if line.strip()]
    if not found:
        raise ConfigError(f"the list '{path}' names no file; write one path per line")
    return found


def _walk(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                yield Path(place, name)


def read_segment(path: Path, samples: int, rate: int, at: float) -> Tensor:
    """Read one segment of a file, decoding only what it needs.

    Args:
        path: any file that soundfile reads.
        samples: T. rate: in Hz, what comes out; the file may have another.
        at: where in the file, 0 (its beginning) to below 1.

    Returns:
        (1, T) float32, channels averaged, shorter files repeated.

    Raises:
        MediaError: empty, unreadable, or with NaN or Inf.

    Example::

        read_segment(Path("speech.flac"), 72000, 24000, at=0.5)
    """
    import soundfile

    try:
        with soundfile.SoundFile(path) as file:
            found, lead = _around(file, samples, rate, at)
            there = file.samplerate
    except (soundfile.SoundFileError, OSError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, MediaError):
            raise
        raise MediaError(f"{path} cannot be read as sound ({_reason(error)}); convert it to wav or "
                         "flac, or remove it") from None
    if not len(found):
        raise MediaError(f"{path} holds no samples; remove it")
    mono = torch.from_numpy(found.mean(axis=1))
    if not mono.isfinite().all():
        raise MediaError(f"{path} holds samples that are NaN or infinite; repair or remove it")
    sound = resample(mono, there, rate)
    if lead:
        sound = sound[round(lead * rate / there) :]
    if len(sound) < samples:
        sound = sound.repeat(-(-samples // len(sound)))
    return sound[None, :samples].contiguous()


def _around(file: Any, samples: int, rate: int, at: float) -> tuple[np.ndarray, int]:
    """Return (samples of the file, channels) and how many of them come before the segment."""
    there, frames = file.samplerate, file.frames
    if not RATES[0] <= there <= RATES[1]:
        raise ValueError(f"its sample rate is {there} Hz")
    needed = -(-samples * there // rate)
    start = int(at * max(0, frames - needed + 1))
    lead = min(start, _MARGIN) if there != rate else 0
    if start - lead > 0:
        file.seek(start - lead)
    return file.read(lead + needed + _MARGIN, dtype="float32", always_2d=True), lead


def _reason(error: Exception) -> str:
    text = " ".join(str(getattr(error, "error_string", error)).split()).rstrip(".")
    return text or type(error).__name__


def normalise_peak(sound: Tensor, decibels: float) -> Tensor:
    """Scale a sound so that its peak is at ``decibels`` below full scale; silence stays silent."""
    peak = float(sound.abs().max()) if sound.numel() else 0.0
    if peak < 1e-6:  # quieter than the last of 20 bits: nothing but noise would be made of it
        return sound
    return (sound * (10.0 ** (decibels / 20.0) / peak)).clamp(-1.0, 1.0)


class SoundFiles:
    """Random segments of stored sounds at random peak levels."""

    length = None

    def __init__(self, paths: list[Path], config: AudioDataConfig) -> None:
        self.paths, self.config = paths, config

    def item(self, index: int) -> Tensor:
        """Return (1, T) float32 in [-1, 1]; MediaError for a file that cannot be used."""
        config = self.config
        draws = item_draws("segments", version=VERSION, seed=config.seed, index=index)
        path = self.paths[shuffled(index, len(self.paths), config.seed)]
        sound = read_segment(path, config.segment, config.sample_rate, draws.uniform())
        return normalise_peak(sound, _level(draws, config))

    def label(self, index: int) -> int | None:
        """Return None: sounds carry no labels."""
        return None


class SyntheticSound:
    """Procedural sound at random peak levels."""

    length = None

    def __init__(self, kind: str, config: AudioDataConfig) -> None:
        self.config = config
        self.sounds = ProceduralAudio(kind, _here(config), config.seed)

    def item(self, index: int) -> Tensor:
        """Return (1, T) float32 in [-1, 1]."""
        config = self.config
        draws = item_draws("levels", version=VERSION, seed=config.seed, index=index)
        sound = resample(self.sounds[index], self.sounds.rate, config.sample_rate)
        return normalise_peak(sound[:, : config.segment], _level(draws, config))

    def label(self, index: int) -> int | None:
        """Return None: sounds carry no labels."""
        return None


def _level(draws: Draws, config: AudioDataConfig) -> float:
    low, high = config.peak_decibels
    return draws.uniform(low, high) if high > low else low


def _here(config: AudioDataConfig) -> int:
    """Samples at the synthesisers' rate that make a segment at the config's rate."""
    return -(-config.segment * ProceduralAudio.rate // config.sample_rate)
