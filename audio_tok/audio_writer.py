"""Write sound block by block in the format of the extension, whole or not at all.

Letters: C channels, n samples of a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from torch import Tensor

from audio_tok.block_resampler import BlockResampler
from tok_core.atomic_write import atomic_file, write_error
from tok_core.errors import ConfigError, MediaError

# libsndfile's Vorbis encoder puts a whole block on the stack.
_BLOCK = 1 << 14
_WAV_LIMIT = (1 << 32) - (1 << 16)  # bytes of samples that a plain wav header can count
_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)


class Format(NamedTuple):
    """A format that can be written: libsndfile's names, and what it can hold."""

    name: str
    subtype: str
    channels: int
    rates: tuple[int, ...] = ()  # () is any
    highest: int = 1_000_000
    options: tuple[tuple[str, Any], ...] = ()


WRITABLE: dict[str, Format] = {
    ".wav": Format("WAV", "PCM_16", 1024),
    ".flac": Format("FLAC", "PCM_16", 8, highest=655_350),
    ".ogg": Format("OGG", "VORBIS", 64, highest=192_000, options=(("compression_level", 0.4),)),
    ".opus": Format("OGG", "OPUS", 8, _OPUS_RATES, options=(("compression_level", 0.6),)),
    ".mp3": Format("MP3", "MPEG_LAYER_III", 2, _MP3_RATES),
    ".aiff": Format("AIFF", "PCM_16", 1024),
    ".aif": Format("AIFF", "PCM_16", 1024),
}


def write_blocks(
    path: Path, blocks: Iterator[Tensor], rate: int, channels: int, *, force: bool,
    samples: int | None = None,
) -> int:  # fmt: skip
    """Write blocks (C, n) as one file and return its bytes.

    Args:
        path: its extension, one of `WRITABLE`, decides the format.
        blocks: float in order, cut off at [-1, 1].
        rate: in Hz of the blocks; formats that cannot have it get the next rate that they can.
        channels: C.
        force: overwrite what exists.
        samples: how many come in all, where that is known: a wav beyond 4 GB becomes RF64.

    Raises:
        MediaError: no such format, or too many channels for it. TesseraError: exists, disk full.
        ConfigError: soundfile is not installed.
    """
    form = _format(path, channels)
    if form.name == "WAV" and 2 * channels * (samples or 0) > _WAV_LIMIT:
        form = form._replace(name="RF64")
    return _write_as(form, path, blocks, rate, channels, force=force)


def _write_as(
    form: Format, path: Path, blocks: Iterator[Tensor], rate: int, channels: int, *, force: bool
) -> int:  # fmt: skip
    target = _legal_rate(rate, form)
    resampler = BlockResampler(rate, target)
    with atomic_file(path, force=force) as file:
        guarded = _Guarded(file)
        try:
            with _sound_file(guarded, target, channels, form) as sound:
                for block in blocks:
                    _write(sound, guarded, resampler.push(block))
                _write(sound, guarded, resampler.finish())
        except RuntimeError as error:  # soundfile's errors are RuntimeErrors
            if guarded.error is None:
                raise MediaError(
                    f"{path}: {form.subtype} cannot hold {channels} channels at {target} Hz "
                    f"({error}); choose another format"
                ) from None
        if guarded.error is not None:
            raise write_error(path, guarded.error)
        file.flush()
        return file.seek(0, 2)


def write_opus(path: Path, samples: Tensor, rate: int, bits_per_second: int) -> int:
    """Write (C, T) as Opus at a bitrate and return the bytes; an older file is replaced.

    Args:
        bits_per_second: of all channels, from 6,000 for each; Opus itself decides how much it uses.
    """
    channels = len(samples)
    # libsndfile counts from 6 to 256 kbit/s for each channel, backwards.
    level = min(1.0, max(0.0, 1 - (bits_per_second / channels - 6000) / 250_000))
    form = WRITABLE[".opus"]._replace(options=(("compression_level", level),))
    return _write_as(form, path, iter([samples]), rate, channels, force=True)


def write_mp3(path: Path, samples: Tensor, rate: int, bits_per_second: int) -> int:
    """Write (C, T) as MP3 at a constant bitrate and return the bytes; an older file is replaced.

    Args:
        bits_per_second: the nearest that MPEG layer III offers at this rate: 32 to 320 kbit/s from
            32 kHz on, 8 to 160 below, 8 to 64 below 16 kHz.
    """
    form = WRITABLE[".mp3"]
    target = _legal_rate(rate, form)
    low, high = (32, 320) if target >= 32_000 else (8, 160) if target >= 16_000 else (8, 64)
    # libsndfile refuses the level 1 itself; 0.999 falls on the same bitrate.
    level = min(0.999, max(0.0, (high - bits_per_second / 1000) / (high - low)))
    options = (("bitrate_mode", "CONSTANT"), ("compression_level", level))
    form = form._replace(options=options)
    return _write_as(form, path, iter([samples]), rate, len(samples), force=True)


def _format(path: Path, channels: int) -> Format:
    form = WRITABLE.get(path.suffix.lower())
    if form is None:
        raise MediaError(
            f"{path}: sound is not written as '{path.suffix}'; legal are {' '.join(WRITABLE)}"
        )
    if channels > form.channels:
        raise MediaError(
            f"{path}: {path.suffix} holds at most {form.channels} channels but there are "
            f"{channels}; write .wav"
        )
    return form


def _legal_rate(rate: int, form: Format) -> int:
    if form.rates and rate not in form.rates:
        return next((legal for legal in form.rates if legal > rate), form.rates[-1])
    return min(rate, form.highest)


def _sound_file(file: _Guarded, rate: int, channels: int, form: Format) -> Any:
    try:
        import soundfile
    except (ImportError, OSError):
        raise ConfigError(
            "writing sound needs the package soundfile, which is not installed; install the extra "
            "'audio' (torchaudio, soundfile)"
        ) from None
    return soundfile.SoundFile(
        file, "w", rate, channels, form.subtype, format=form.name, **dict(form.options)
    )


def _write(sound: Any, file: _Guarded, block: Tensor) -> None:
    values = np.clip(block.detach().cpu().float().numpy().T, -1.0, 1.0)
    for start in range(0, len(values), _BLOCK):
        if file.error is None:
            sound.write(np.ascontiguousarray(values[start : start + _BLOCK]))


class _Guarded:
    """A binary file for soundfile's callbacks, from which no exception can come out.

    An exception in a callback would be printed with a traceback and forgotten; it is kept here.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        if self.error is not None:
            return 0
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            return 0

    def seek(self, place: int, whence: int = 0) -> int:
        try:
            return self.file.seek(place, whence)
        except OSError as error:
            self.error = self.error or error
            return 0

    def tell(self) -> int:
        return self.file.tell()

    def read(self, size: int = -1) -> bytes:
        return b""

    def readinto(self, buffer: Any) -> int:
        return 0

    def flush(self) -> None:
        return None
