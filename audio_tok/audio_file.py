"""Sound files: read in blocks, checked, with a note for everything a user should know.

    file --header checked--> blocks (n, C) float32 --finite, within full scale--> samples

soundfile decodes; what it would pass over in silence (a file that ends before its header says, NaN,
values beyond full scale) is settled here.

Letters: C channels, T samples of a file, n samples of a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from audio_tok.audio_truncation import lacks_its_end
from audio_tok.audio_writer import WRITABLE, write_blocks
from tok_core.errors import ConfigError, MediaError
from tok_core.resample import RATES

READABLE = frozenset(
    ".wav .wave .flac .ogg .oga .opus .mp3 .aif .aiff .aifc .au .snd .caf .w64 .rf64".split()
)
MAX_SECONDS = 24 * 3600.0
MAX_CHANNELS = 64
_BLOCK_VALUES = 1 << 20  # float32 values read at once: 4 MB
_FULL_SCALE = 0.999
_CLIPPED_SHARE = 0.01  # of samples that repeat full scale; a full-scale sine stays far below
_FLOATS = ("FLOAT", "DOUBLE")
# Decoders of these count whole frames, so the length they promise may be off by one or two.
_UNSURE_FRAMES = {"MPEG_LAYER_I": 2304, "MPEG_LAYER_II": 2304, "MPEG_LAYER_III": 2304}

__all__ = [
    "MAX_CHANNELS", "MAX_SECONDS", "READABLE", "WRITABLE", "AudioFile", "ReadAudio", "read_audio",
    "write_audio",
]  # fmt: skip


class ReadAudio(NamedTuple):
    """A decoded sound.

    Attributes:
        samples: float32 (C, T) in [-1, 1].
        rate: in Hz.
        notes: what a user should know, e.g. "silent: every sample is 0".
    """

    samples: Tensor
    rate: int
    notes: tuple[str, ...]


class AudioFile:
    """An open sound file that gives its samples block by block.

    Args:
        path: of any format that soundfile reads: wav, flac, ogg (Vorbis, Opus), mp3, aiff, ...
        max_seconds: longest sound that is read; None takes `MAX_SECONDS`.

    Attributes:
        rate: in Hz. channels: C. frames: T as the header promises it.

    Raises:
        MediaError: missing, empty, truncated, no sound file, too long, too many channels.
        ConfigError: soundfile is not installed.

    Example::

        with AudioFile("speech.flac") as file:
            total = sum(len(block) for block in file.blocks())
    """

    def __init__(self, path: str | Path, *, max_seconds: float | None = None) -> None:
        self.path = Path(path)
        self.most = MAX_SECONDS if max_seconds is None else max_seconds
        self._file: Any = None
        self._file = _open(self.path)
        try:
            self._check_header()
        except MediaError:
            self.close()
            raise
        self.read = 0  # samples so far
        self._silent, self._beyond, self._flat = True, 0.0, 0

    @property
    def rate(self) -> int:
        """Samples per second."""
        return int(self._file.samplerate)

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self._file.channels)

    @property
    def frames(self) -> int:
        """Samples per channel that the header promises."""
        return int(self._file.frames)

    def _check_header(self) -> None:
        if lacks_its_end(self.path) or (self._file.format == "OGG" and not self.frames):
            raise _damaged(self.path, "it ends before its header says")
        if not RATES[0] <= self.rate <= RATES[1]:
            raise MediaError(
                f"{self.path} has a sample rate of {self.rate} Hz; legal are {RATES[0]} to "
                f"{RATES[1]} Hz: convert it first"
            )
        if self.channels > MAX_CHANNELS:
            raise MediaError(
                f"{self.path} has {self.channels} channels; up to {MAX_CHANNELS} are read: split it"
            )
        if not self.frames:
            raise MediaError(f"{self.path} holds no samples; give a sound of at least one sample")
        self._check_length(self.frames)

    def _check_length(self, samples: int) -> None:
        if samples > self.most * self.rate:
            raise MediaError(
                f"{self.path} lasts {samples / self.rate:,.0f} seconds; up to {self.most:,.0f} are "
                "read: cut it into parts"
            )

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield the samples in order, float32 (n, C) in [-1, 1]; once.

        Raises:
            MediaError: truncated, damaged, or with samples that are NaN or infinite.
        """
        size = max(1, _BLOCK_VALUES // self.channels)
        while len(block := self._block(size)):
            self.read += len(block)
            self._check_length(self.read)
            yield self._inspected(block)
        missing = self.frames - self.read
        if missing > _UNSURE_FRAMES.get(self._file.subtype, 0):
            raise _damaged(self.path, f"{missing} of {self.frames} samples are missing")
        if not self.read:
            raise MediaError(f"{self.path} holds no samples; give a sound of at least one sample")

    def _block(self, size: int) -> np.ndarray:
        try:
            return self._file.read(size, dtype="float32", always_2d=True)
        except Exception as error:  # a decoder may raise anything on a damaged file
            raise _damaged(self.path, _reason(error)) from None

    def _inspected(self, block: np.ndarray) -> np.ndarray:
        """Check one block and return it within full scale."""
        size = np.abs(block)
        peak = float(size.max())  # NaN where there is one
        if not np.isfinite(peak):
            raise MediaError(
                f"{self.path} holds samples that are NaN or infinite; repair or export it again"
            )
        self._silent = self._silent and peak == 0.0
        if peak > 1.0:
            self._beyond = max(self._beyond, peak)
            block = block.clip(-1.0, 1.0)
        if peak >= _FULL_SCALE:
            same = block[1:] == block[:-1]
            self._flat += int((same & (size[1:] >= _FULL_SCALE)).sum())
        return block

    @property
    def notes(self) -> tuple[str, ...]:
        """What the samples read so far tell: silence, clipping, values beyond full scale."""
        found = []
        if self._silent and self.read:
            found.append("silent: every sample is 0")
        if self._beyond and self._file.subtype in _FLOATS:
            found.append(f"values up to {self._beyond:.3g} lie beyond full scale: cut off at 1")
        share = self._flat / max(1, self.read * self.channels)
        if share > _CLIPPED_SHARE:
            found.append(f"clipped: {100 * share:.0f} % of the samples are held at full scale")
        return tuple(found)

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> AudioFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close()


def read_audio(path: str | Path, *, max_seconds: float | None = None) -> ReadAudio:
    """Read a whole sound file into memory.

    Args:
        path: wav, flac, ogg (Vorbis, Opus), mp3, aiff, ...; 8 to 32 bits or float, 100 Hz to 1 MHz,
            up to 64 channels.
        max_seconds: longest sound that is read; None takes 24 hours.

    Raises:
        MediaError, ConfigError: as `AudioFile` and its ``blocks``.

    Example::

        sound = read_audio("speech.flac")
        sound.samples.shape, sound.rate  # (1, 72000), 24000
    """
    with AudioFile(path, max_seconds=max_seconds) as file:
        whole = np.concatenate([np.ascontiguousarray(block.T) for block in file.blocks()], axis=1)
        return ReadAudio(torch.from_numpy(whole), file.rate, file.notes)


def write_audio(path: str | Path, samples: Tensor, rate: int, *, force: bool = False) -> int:
    """Write a sound in the format of the extension, whole or not at all.

    Args:
        path: .wav, .flac, .ogg (Vorbis), .opus, .mp3 and more, see `WRITABLE`.
        samples: float (C, T), cut off at [-1, 1]; T at least 1.
        rate: in Hz. A format that cannot have it (Opus, MP3) gets the next one that it can.
        force: overwrite what exists.

    Returns:
        bytes of the file.

    Raises:
        MediaError: more channels than the format holds. TesseraError: the file exists, the disk is
            full.

    Example::

        write_audio("out.flac", torch.zeros(1, 24000), 24000)
    """
    return write_blocks(Path(path), iter([samples]), rate, len(samples), force=force)


def _open(path: Path) -> Any:
    try:
        import soundfile
    except (ImportError, OSError):
        raise ConfigError(
            "reading sound needs the package soundfile, which is not installed; install the extra "
            "'audio' (torchaudio, soundfile)"
        ) from None
    try:
        # A named pipe would wait for a writer for ever, and soundfile cannot seek in one.
        if path.exists() and not path.is_file():
            raise MediaError(f"{path} is no regular file; give a sound file")
        if path.stat().st_size == 0:
            raise MediaError(f"{path} is empty (0 bytes); give a whole sound file")
        with open(path, "rb"):
            pass
    except (OSError, ValueError) as error:
        if isinstance(error, MediaError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise MediaError(f"{path} cannot be opened ({reason}); give an existing file") from None
    try:
        return soundfile.SoundFile(path)
    except Exception as error:
        if "not recognised" in str(error).lower() or isinstance(error, TypeError):
            raise MediaError(
                f"{path} is no sound in a known format, or its beginning is damaged; give a wav, "
                "flac, ogg, opus, mp3 or aiff file"
            ) from None
        raise _damaged(path, _reason(error)) from None


def _damaged(path: Path, reason: str) -> MediaError:
    return MediaError(f"{path} is damaged or truncated ({reason}); get a whole copy")


def _reason(error: Exception) -> str:
    text = " ".join(str(getattr(error, "error_string", error)).split())
    return text.removeprefix("Error : ").rstrip(".") or type(error).__name__
