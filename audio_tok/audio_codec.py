"""Sound files to token files and back with one audio tokenizer: what the commands run.

    file --blocks, channels, rate--> sound --encode (chunks)--> tokens --> .tok
    .tok --> tokens --decode (chunks)--> sound --rate--> file of the same length and rate

Nothing holds a whole long sound: `SampleStore` puts it on the disk.

Letters: C channels that are coded (1 unless they are streams), Q levels, F frames, T samples of the
file, n samples of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from audio_tok.audio_file import MAX_CHANNELS, MAX_SECONDS, READABLE, WRITABLE, AudioFile
from audio_tok.audio_writer import write_blocks
from audio_tok.block_resampler import BlockResampler, length_after
from audio_tok.chunked import (
    WHOLE_MINUTE,
    Chunks,
    decode_chunked,
    encode_chunked,
    samples_per_frame,
)
from audio_tok.sample_store import SampleStore
from audio_tok.sound_quality import sound_quality
from tok_core.contract import Tokenizer, Tokens
from tok_core.errors import ConfigError, TesseraError, TokenError
from tok_core.resample import RATES
from tok_core.token_file import TokenFile, token_file_size

CHANNELS = ("downmix", "streams")
UNIT_SECONDS = 10.0  # of sound that count as one network input of a batch
_WRITE_BLOCK = 1 << 18  # samples written at once
T = TypeVar("T")


@dataclass(frozen=True)
class Sound:
    """One sound as read: samples at the model's rate and where they came from.

    Attributes:
        store: (C, samples at the model's rate).
        rate: of the file, in Hz. length: T of the file.
        notes: for the user.
    """

    store: SampleStore
    rate: int
    length: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class EncodedSound:
    """The token file of one sound, and notes."""

    file: TokenFile
    facts: dict[str, Any]


@dataclass(frozen=True)
class DecodedSound:
    """A decoded sound at the model's rate, to become ``length`` samples at ``rate``."""

    store: SampleStore
    rate: int
    length: int


class AudioCodec:
    """The sound part of encode, decode and reconstruct.

    Args:
        model: an audio tokenizer with one rate for input and output.
        channels: ``downmix`` (the mean of all channels, one set of tokens) or ``streams`` (one set
            of tokens for each channel).
        tokens: codebook levels kept, tokens per frame; at most one of the two budgets.
        target_bytes: most bytes of the whole token file: the most levels that fit.
        batch_size: network inputs per call; 10 seconds of a channel count as one.
        keep_original: for `compare`; the prepared sound is always there.
        chunks: how long sound is cut.

    Raises:
        ConfigError: two budgets, one outside what the model can do, unknown ``channels``.

    Example:
        >>> codec = AudioCodec(tokenizer, channels="streams")               # doctest: +SKIP
        >>> encoded = codec.encode([codec.read(Path("speech.flac"))])[0]    # doctest: +SKIP
    """

    readable = READABLE
    writable = frozenset(WRITABLE)
    default_suffix = ".wav"
    ahead: int | None = None

    def __init__(
        self,
        model: Tokenizer,
        *,
        channels: str = "downmix",
        tokens: int | None = None,
        target_bytes: int | None = None,
        batch_size: int = 16,
        keep_original: bool = False,
        chunks: Chunks = WHOLE_MINUTE,
    ) -> None:
        if channels not in CHANNELS:
            raise ConfigError(f"channels '{channels}' is unknown; legal are {', '.join(CHANNELS)}.")
        if tokens is not None and target_bytes is not None:
            raise ConfigError("give one budget: tokens or target bytes.")
        self.model, self.channels, self.chunks = model, channels, chunks
        self.tokens, self.target_bytes, self.batch_size = tokens, target_bytes, batch_size
        self.hop = samples_per_frame(model)
        self.rate_in = int(model.spec.input_rate or 0)
        axis = model.spec.axes[0]
        self.full, self.least = axis.size or 1, axis.minimum
        if tokens is not None and not self.least <= tokens <= self.full:
            raise ConfigError(
                f"{tokens} tokens per frame are not possible; this model has codebooks for "
                f"{self.least} to {self.full}."
            )

    # -- sound in ------------------------------------------------------------------------------

    def read(self, path: Path) -> Sound:
        """Read one file block by block at the model's rate; MediaError for a bad one."""
        with AudioFile(path) as file:
            mixed = self.channels == "downmix"
            store = SampleStore(1 if mixed else file.channels)
            resampler = BlockResampler(file.rate, self.rate_in)
            for block in file.blocks():
                part = block.mean(axis=1, keepdims=True) if mixed else block
                store.append(resampler.push(torch.from_numpy(np.ascontiguousarray(part.T))))
            store.append(resampler.finish())
            notes = list(file.notes)
            if mixed and file.channels > 1:
                notes.append(
                    f"{file.channels} channels: mixed down to one (--channels streams keeps them)"
                )
            return Sound(store, file.rate, file.read, tuple(notes))

    def weight(self, sound: Sound) -> int:
        """Return the number of network inputs of a sound: tens of seconds times channels."""
        return self._units(sound.store.channels, sound.store.length)

    def _units(self, channels: int, samples: int) -> int:
        return max(1, round(channels * samples / (UNIT_SECONDS * self.rate_in)))

    @torch.inference_mode()
    def encode(self, sounds: Sequence[Sound]) -> list[EncodedSound | TesseraError]:
        """Turn sounds into token files; those of equal length share a call of the network."""
        results: list[EncodedSound | TesseraError] = [TesseraError("")] * len(sounds)
        for group in self._groups(sounds, lambda sound: (sound.store.length,), self._samples_of):
            try:
                codes = self._encode_group([sounds[i] for i in group])
            except TesseraError as error:
                for i in group:
                    results[i] = error
                continue
            for i, part in zip(group, codes, strict=True):
                try:
                    results[i] = self._within_budget(sounds[i], part)
                except TesseraError as error:
                    results[i] = error
        return results

    def _samples_of(self, sound: Sound) -> int:
        return sound.store.channels * sound.store.length

    def _encode_group(self, sounds: Sequence[Sound]) -> list[Tensor]:
        """Return codes (C, q, F) of sounds of equal length."""

        def read(start: int, stop: int) -> Tensor:
            return torch.cat([sound.store.read(start, stop) for sound in sounds])[:, None]

        codes = encode_chunked(
            self.model, read, sounds[0].store.length, num_tokens=self.tokens, chunks=self.chunks
        )
        return list(codes.split([sound.store.channels for sound in sounds]))

    def _within_budget(self, sound: Sound, codes: Tensor) -> EncodedSound:
        if self.target_bytes is not None:
            sizes = [self._file_size(sound, codes, q) for q in range(self.least, self.full + 1)]
            fitting = sum(size <= self.target_bytes for size in sizes)
            if not fitting:
                raise TokenError(
                    f"{self.target_bytes} bytes are not enough for this sound; the smallest token "
                    f"file of this model takes {sizes[0]} bytes."
                )
            codes = codes[:, : self.least + fitting - 1]
        stored = codes if len(codes) > 1 else codes[0]
        file = TokenFile(
            stored.numpy(), (max(self.model.spec.bits),), self.model.code_hash(),
            (sound.length,), sample_rate=sound.rate,
        )  # fmt: skip
        return EncodedSound(file, {"notes": list(sound.notes)} if sound.notes else {})

    def _file_size(self, sound: Sound, codes: Tensor, levels: int) -> int:
        shape = (levels, codes.shape[-1])
        return token_file_size(
            shape if len(codes) == 1 else (len(codes), *shape), max(self.model.spec.bits),
            extent=(sound.length,), sample_rate=sound.rate,
        )  # fmt: skip

    # -- tokens back ---------------------------------------------------------------------------

    def check(self, file: TokenFile) -> None:
        """Raise TokenError unless codes, length and rate of a token file fit this model."""
        if len(file.extent) != 1 or file.policy != "none" or file.lengths is not None:
            raise TokenError(
                f"these tokens hold no sound (size {file.extent}, policy '{file.policy}'); decode "
                "them with the tokenizer that encoded them."
            )
        rate, samples = self._rate(file), file.extent[0]
        if not RATES[0] <= rate <= RATES[1] or samples > MAX_SECONDS * rate:
            raise TokenError(
                f"the sound would be {samples} samples at {rate} Hz; legal are {RATES[0]} to "
                f"{RATES[1]} Hz and {MAX_SECONDS / 3600:.0f} hours."
            )
        shape = file.codes.shape
        if len(shape) not in (2, 3) or (len(shape) == 3 and shape[0] > MAX_CHANNELS):
            raise TokenError(
                f"codes of shape {tuple(shape)} hold no sound; legal are (levels, frames) and "
                f"(channels, levels, frames) with up to {MAX_CHANNELS} channels."
            )
        frames = -(-self._model_length(file) // self.hop)
        if shape[-1] != frames:
            raise TokenError(
                f"{shape[-1]} frames do not fit {samples} samples at {rate} Hz, which take "
                f"{frames} frames of this model."
            )
        self.model.spec.check(_codes(file))

    def _rate(self, file: TokenFile) -> int:
        return file.sample_rate or self.rate_in

    def _model_length(self, file: TokenFile) -> int:
        return length_after(file.extent[0], self._rate(file), self.rate_in)

    def decode_weight(self, file: TokenFile) -> int:
        """Return the number of network inputs of a token file."""
        return self._units(len(_codes(file)), self._model_length(file))

    @torch.inference_mode()
    def decode(self, files: Sequence[TokenFile]) -> list[DecodedSound | TesseraError]:
        """Turn checked token files into sounds; those of equal shape share a call."""
        results: list[DecodedSound | TesseraError] = [TesseraError("")] * len(files)
        shape = lambda file: _codes(file).shape[1:]  # noqa: E731
        samples = lambda file: len(_codes(file)) * self._model_length(file)  # noqa: E731
        for group in self._groups(files, shape, samples):
            try:
                sounds = self._decode_group([files[i] for i in group])
            except TesseraError as error:
                for i in group:
                    results[i] = error
                continue
            for i, sound in zip(group, sounds, strict=True):
                results[i] = sound
        return results

    def _decode_group(self, files: Sequence[TokenFile]) -> list[DecodedSound]:
        codes = [_codes(file) for file in files]
        lengths = [self._model_length(file) for file in files]
        stores = [SampleStore(len(part)) for part in codes]
        for sound in self._decoded(torch.cat(codes), lengths, [len(part) for part in codes]):
            parts = sound[:, 0].split([len(part) for part in codes])
            for store, part, length in zip(stores, parts, lengths, strict=True):
                store.append(part[:, : length - store.length])
        return [
            DecodedSound(store, self._rate(file), file.extent[0])
            for store, file in zip(stores, files, strict=True)
        ]

    def _decoded(
        self, codes: Tensor, lengths: Sequence[int], rows: Sequence[int]
    ) -> Iterator[Tensor]:
        """Yield (rows, 1, n): one file in chunks, or several short ones at once."""
        if len(lengths) == 1:
            yield from decode_chunked(self.model, codes, lengths[0], chunks=self.chunks)
            return
        extent = torch.tensor(lengths).repeat_interleave(torch.tensor(rows))[:, None]
        device = self.model.device
        yield self.model.decode(Tokens(codes.to(device), None, extent.to(device))).float().cpu()

    def _groups(
        self, items: Sequence[T], key: Callable[[T], tuple[int, ...]], size: Callable[[T], int]
    ) -> list[list[int]]:
        """Return indices of items that may share a call: equal keys, a minute in all."""
        most = int(min(self.chunks.call, self.chunks.whole) * self.rate_in)
        open_groups: dict[tuple[int, ...], tuple[list[int], int]] = {}
        groups: list[list[int]] = []
        for i, item in enumerate(items):
            name, samples = key(item), size(item)
            group, total = open_groups.get(name, ([], most))
            if total + samples > most:
                group, total = [], 0
                groups.append(group)
            group.append(i)
            open_groups[name] = (group, total + samples)
        return groups

    # -- sound out -----------------------------------------------------------------------------

    def blocks(self, sound: Sound | DecodedSound, rate: int, length: int) -> Iterator[Tensor]:
        """Yield (C, n), ``length`` samples in all, of a sound at another rate."""
        resampler = BlockResampler(self.rate_in, rate)
        out = 0
        for start in range(0, sound.store.length, _WRITE_BLOCK):
            part = resampler.push(sound.store.read(start, start + _WRITE_BLOCK))
            part = part[:, : length - out]
            out += part.shape[-1]
            yield part
        part = resampler.finish()[:, : length - out]
        if part.shape[-1] or out < length:
            # A ratio of rates that was rounded may lack some samples at the end.
            rest = torch.zeros(sound.store.channels, length - out)
            rest[:, : part.shape[-1]] = part
            yield rest

    def write(self, path: Path, signal: DecodedSound, *, force: bool) -> int:
        """Write a decoded sound at the rate and length of the original; return its bytes."""
        blocks = self.blocks(signal, signal.rate, signal.length)
        channels = signal.store.channels
        return write_blocks(
            path, blocks, signal.rate, channels, force=force, samples=signal.length
        )

    def compare(self, original: Sound, decoded: DecodedSound) -> dict[str, float]:
        """Return SI-SDR (dB), mel distance and, where the packages are there, STOI and PESQ.

        Both sounds are taken at the lower of the file's and the model's rate.
        """
        low = min(self.rate_in, original.rate)
        return sound_quality(original.store, decoded.store, self.rate_in, low)

    def rate(self, file: TokenFile, size: int) -> dict[str, Any]:
        """Return length, tokens, bytes and rates of a token file of ``size`` bytes."""
        rate = self._rate(file)
        seconds = file.extent[0] / rate
        channels = len(_codes(file))
        return {
            "size": f"{seconds:.2f} s at {rate} Hz",
            "seconds": seconds,
            "channels": channels,
            "tokens": file.num_codes,
            "bytes": size,
            "tokens_per_second": float(self.model.spec.token_rate or 0)
            * file.num_codes / _codes(file).shape[-1],
            "kbit_per_second": 8e-3 * size / seconds,
        }  # fmt: skip


def _codes(file: TokenFile) -> Tensor:
    """Return (C, q, F)."""
    codes = torch.from_numpy(file.codes)
    return codes[None] if codes.ndim == 2 else codes
