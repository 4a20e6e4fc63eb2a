"""Originals as a protocol wants them: pictures cropped to bytes, sounds mixed down and resampled.

Letters: H W pixels, T samples.
"""

from __future__ import annotations

from pathlib import Path

import torch
from PIL.Image import Image
from torch import Tensor

from eval.contestant import Signal
from eval.item_list import Item, ItemList
from eval.protocol import Protocol
from tok_core.errors import MediaError
from tok_core.evaluation_crop import evaluation_crop, image_bytes
from tok_core.resample import resample


def read_picture(path: Path) -> Image:
    """Return a picture as RGB; MediaError for a bad one."""
    from vision_tok.image_file import read_image

    return read_image(path).pixels


def read_sound(path: Path) -> tuple[Tensor, int]:
    """Return (1, T) in [-1, 1], all channels mixed down, and the rate; MediaError for a bad one."""
    from audio_tok.audio_file import read_audio

    sound = read_audio(path)
    return sound.samples.mean(0, keepdim=True), sound.rate


def read_original(item: Item, index: int, protocol: Protocol) -> Signal:
    """Read one item as the protocol wants it.

    Args:
        item: its file. index: its place in the run. protocol: with a sample rate, for sound
            (`with_rate` gives it one).

    Raises:
        MediaError: the file is damaged, or a picture is smaller than the crop can fill.
    """
    if protocol.sense == "audio":
        sound, rate = read_sound(item.path)
        wanted = protocol.sample_rate or rate
        return Signal(resample(sound, rate, wanted), item.name, index, wanted)
    picture = evaluation_crop(read_picture(item.path), protocol.crop, protocol.size)
    return Signal(image_bytes(picture), item.name, index)


def with_rate(protocol: Protocol, items: ItemList) -> tuple[Protocol, str | None]:
    """Give a protocol of sound its sample rate where it leaves that to the files.

    Returns:
        the protocol at the lowest rate among the files, and a sentence where they differ.
    """
    if protocol.sense != "audio" or protocol.sample_rate is not None:
        return protocol, None
    rates = sorted({rate for item in items.items if (rate := _rate_of(item.path))})
    if not rates:
        return protocol, None
    sentence = None
    if len(rates) > 1:
        sentence = (
            f"the files have rates of {', '.join(map(str, rates))} Hz; all were compared at "
            f"{rates[0]} Hz"
        )
    return protocol.changed(sample_rate=rates[0]), sentence


def _rate_of(path: Path) -> int | None:
    from audio_tok.audio_file import AudioFile

    try:
        with AudioFile(path) as file:
            return file.rate
    except MediaError:
        return None


def fitted(test: Tensor, reference: Tensor, trim: str) -> tuple[Tensor, Tensor]:
    """Bring two sounds (1, T), (1, T') to one length by the protocol's rule.

    Args:
        trim: ``shorter`` cuts both to the shorter; ``original`` cuts or pads the test sound.
    """
    if trim == "shorter":
        length = min(test.shape[-1], reference.shape[-1])
        return test[..., :length], reference[..., :length]
    missing = reference.shape[-1] - test.shape[-1]
    if missing > 0:
        test = torch.nn.functional.pad(test, (0, missing))
    return test[..., : reference.shape[-1]], reference


def through_pcm16(sound: Tensor) -> Tensor:
    """Return what is left of samples in [-1, 1] after a 16-bit file."""
    return (sound.clamp(-1, 1) * 32767).round() / 32768
