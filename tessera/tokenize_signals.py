"""Files to tokens for shards, one class per sense, in the two halves that let a GPU run ahead.

    source --read (threads)--> signal --start--> codes on the device --finish--> token files

Letters: B pictures of one call, V views of a picture, S side of the network's input.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from tessera.tokenize_sources import Source
from tok_core.crop_views import VIEWS, crop_views
from tok_core.errors import ConfigError, MediaError, TesseraError
from tok_core.token_file import TokenFile
from tok_core.token_shards import stored_codes

if TYPE_CHECKING:
    from tok_core.contract import Tokenizer

_PART_CALLS = 8  # calls of the network in one part: what a kill can cost
_MOST_RIBBON = 64  # longest long side of a picture, in units of its short side


class Signals(Protocol):
    """Reads and tokenizes the signals of one sense."""

    readable: frozenset[str]
    views: tuple[str, ...]
    batch_size: int
    part_size: int

    def read(self, source: Source) -> Any:
        """Read one source, in a thread; TesseraError for one that cannot be used."""
        ...

    def weight(self, signal: Any) -> int:
        """Return how much of ``batch_size`` a signal fills."""
        ...

    def amount(self, signal: Any) -> float:
        """Return how much a signal is, for rates: pictures or seconds."""
        ...

    def start(self, signals: list[Any]) -> Any:
        """Run the network on a batch; on a GPU this returns before it is done."""
        ...

    def finish(self, signals: list[Any], started: Any) -> Sequence[TokenFile | TesseraError]:
        """Wait for a batch and return one token file (or one error) per signal."""
        ...


def open_signals(
    model: Tokenizer, *, views: str | None, batch_size: int, size: int | None = None
) -> Signals:
    """Return the signals of the model's sense.

    Args:
        views: recipe of `tok_core.crop_views.VIEWS` for pictures; None is the default.
        batch_size: network inputs per call.
        size: side of the pictures in pixels; None is the network's own.

    Raises:
        ConfigError: views or a size of something other than pictures, a size that the network does
            not take.
    """
    if model.spec.modality == "image":
        return PictureSignals(model, views=views or "centre", batch_size=batch_size, size=size)
    if size is not None:
        raise ConfigError(f"--size cuts pictures but this model takes {model.spec.modality}; "
                          "leave it out")
    if views is not None:
        raise ConfigError(f"--{views} makes views of pictures but this model takes "
                          f"{model.spec.modality}; leave it out")
    return SoundSignals(model, batch_size=batch_size)


class Views(NamedTuple):
    """The views of one picture, uint8 (V, 3, S, S), and the picture's height and width."""

    pixels: Tensor
    extent: tuple[int, int]


class PictureSignals:
    """Pictures as centre crops, mirrored or ten crops of the network's size.

    A call of the network takes whole pictures with all their views, as many as fit the batch size.
    """

    def __init__(
        self, model: Tokenizer, *, views: str, batch_size: int, size: int | None = None
    ) -> None:
        from vision_tok.image_codec import READABLE

        native = model.spec.image_size
        if native is None or native[0] != native[1]:
            raise ConfigError(f"{type(model).__name__} has no native square size to prepare for.")
        if size is not None and size != native[0]:
            _check_size(model, size, native[0])
        self.readable = READABLE
        self.model, self.size, self.recipe = model, size or native[0], views
        self.views = VIEWS[views]
        self.batch_size = max(1, batch_size // len(self.views))
        self.part_size = _PART_CALLS * self.batch_size
        self._bits, self._code_hash = model.spec.bits, model.code_hash()

    def read(self, source: Source) -> Views:
        """Read one picture and cut its views."""
        from vision_tok.image_file import read_image

        data = Path(source.path) if source.offset is None else member_bytes(source)
        image = read_image(data, str(source)).pixels
        width, height = image.size
        # Scaled until its short side fills the crop, a ribbon would fill the memory.
        if max(width, height) > _MOST_RIBBON * min(width, height):
            raise MediaError(f"{source} is {width} x {height} pixels; pictures of up to "
                             f"{_MOST_RIBBON} times their short side are read, so crop it first")
        pixels = np.stack([np.asarray(v) for v in crop_views(image, self.size, self.recipe)])
        # As bytes they take a quarter of the room here and on the way to a GPU.
        return Views(torch.from_numpy(pixels).permute(0, 3, 1, 2), (height, width))

    def weight(self, signal: Views) -> int:
        """One: the batch size counts pictures."""
        return 1

    def amount(self, signal: Views) -> float:
        """One picture."""
        return 1.0

    def start(self, signals: list[Views]) -> Tensor:
        """Return codes (B * V, *axes) on the model's device."""
        pixels = torch.cat([signal.pixels for signal in signals]).to(self.model.device)
        return self.model.encode(pixels.float().div_(127.5).sub_(1.0)).codes

    def finish(self, signals: list[Views], started: Tensor) -> list[TokenFile | TesseraError]:
        """Return the token files; several views stand on an axis before the codes."""
        codes = stored_codes(started, self.model.spec)
        views = len(self.views)
        return [
            self._file(codes[i * views : (i + 1) * views], signal.extent)
            for i, signal in enumerate(signals)
        ]

    def _file(self, codes: np.ndarray, extent: tuple[int, int]) -> TokenFile:
        if len(self.views) > 1:
            return TokenFile(codes, self._bits, self._code_hash, extent)
        side = min(extent)  # of the central square, which is what the tokens show
        return TokenFile(codes[0], self._bits, self._code_hash, (side, side), "crop")


def _check_size(model: Tokenizer, size: int, native: int) -> None:
    """Refuse a side that the network does not take, by whole strides."""
    spec = model.spec
    free = any(axis.name == "row" and axis.size is None for axis in spec.axes)
    if not free or spec.grid is None:
        raise ConfigError(f"--size is {size} but this {type(model).__name__} takes pictures of "
                          f"{native} x {native} alone; leave it out")
    stride = native // spec.grid[0]
    if size < stride or size % stride:
        raise ConfigError(f"--size is {size}; give a multiple of {stride} pixels, the stride of "
                          f"this {type(model).__name__}")


class SoundSignals:
    """Whole sounds, mixed down to one channel, as `tessera encode` codes them."""

    views: tuple[str, ...] = ("whole",)

    def __init__(self, model: Tokenizer, *, batch_size: int) -> None:
        from audio_tok.audio_codec import READABLE, AudioCodec

        self.readable = READABLE
        self.batch_size = self.part_size = batch_size
        self.codec = AudioCodec(model, batch_size=batch_size)

    def read(self, source: Source) -> Any:
        """Read one sound; one in a tar shard goes through a temporary file."""
        if source.offset is None:
            return self.codec.read(Path(source.path))
        with tempfile.NamedTemporaryFile(suffix=os.path.splitext(source.name)[1]) as file:
            file.write(member_bytes(source))
            file.flush()
            try:
                return self.codec.read(Path(file.name))
            except TesseraError as error:
                raise type(error)(str(error).replace(file.name, str(source))) from None

    def weight(self, signal: Any) -> int:
        """Tens of seconds."""
        return self.codec.weight(signal)

    def amount(self, signal: Any) -> float:
        """Seconds."""
        return signal.store.length / self.codec.rate_in

    def start(self, signals: list[Any]) -> Any:
        """Return the encoded sounds."""
        return self.codec.encode(signals)

    def finish(self, signals: list[Any], started: Any) -> list[TokenFile | TesseraError]:
        """Return the token files."""
        return [item if isinstance(item, TesseraError) else item.file for item in started]


def member_bytes(source: Source) -> bytes:
    """Return the bytes of a member of a tar shard.

    Raises:
        MediaError: the shard is gone or cut off.
    """
    size = source.size or 0
    try:
        with open(source.path, "rb") as file:
            file.seek(source.offset or 0)
            data = file.read(size)
    except OSError as error:
        raise MediaError(
            f"{source} cannot be read ({error.strerror}); copy the shard again"
        ) from None
    if len(data) != size:
        raise MediaError(f"{source} is cut off; copy the shard again")
    return data
