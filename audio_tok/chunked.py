"""Long sound in bounded memory: chunks with context on both sides, joined by a short cross-fade.

    | context | chunk | context |        only the chunk's frames are kept
              | context | chunk | ...    decoded chunks overlap by one frame, faded over

A frame of a convolutional codec depends on its neighbours alone: with enough context every kept
code and sample is what the whole sound gives. An LSTM forgets within the context, nearly exact.
Attention and norms over all frames see the chunk instead of the sound: close, not equal.

Letters: B batch (channels of one sound), Q levels, F frames, T samples, h samples per frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tok_core.contract import Tokenizer, Tokens
from tok_core.errors import ConfigError

Read = Callable[[int, int], Tensor]  # samples start to stop -> (B, 1, stop - start)


@dataclass(frozen=True, kw_only=True)
class Chunks:
    """How long sound is cut, in seconds.

    Attributes:
        whole: sound up to this long is coded at once.
        chunk: length of a part of longer sound.
        context: what a part sees on both sides of itself and does not keep.
        call: most of all channels together in one call of the network; at least one channel.

    Raises:
        ConfigError: a chunk of no length, a negative context.
    """

    whole: float = 60.0
    chunk: float = 30.0
    context: float = 2.0
    call: float = 60.0

    def __post_init__(self) -> None:
        if self.chunk <= 0 or min(self.context, self.whole, self.call) < 0:
            raise ConfigError(
                f"chunks of {self.chunk} s with {self.context} s of context, whole up to "
                f"{self.whole} s, are not possible; give a chunk above 0 and the others from 0."
            )


WHOLE_MINUTE = Chunks()


def samples_per_frame(model: Tokenizer) -> int:
    """Return h of an audio tokenizer.

    Raises:
        ConfigError: its spec states no rates, or they do not divide.
    """
    rate, frames = model.spec.input_rate, model.spec.token_rate
    if not rate or not frames or model.spec.output_rate != rate:
        raise ConfigError(
            f"{type(model).__name__} states input rate {rate}, output rate "
            f"{model.spec.output_rate} and {frames} frames per second; the commands need one rate "
            "for input and output, and the frames."
        )
    return round(rate / frames)


def encode_chunked(
    model: Tokenizer, read: Read, samples: int, *, num_tokens: int | None = None,
    chunks: Chunks = WHOLE_MINUTE,
) -> Tensor:  # fmt: skip
    """Encode a sound of any length, holding one chunk at a time.

    Args:
        model: an audio tokenizer.
        read: gives samples start to stop as (B, 1, stop - start) in [-1, 1].
        samples: T.
        num_tokens: levels kept of every frame; None keeps all.
        chunks: sizes.

    Returns:
        codes int64 (B, q, F) on the CPU, F = ceil(T / h).

    Example:
        >>> codes = encode_chunked(model, lambda a, b: x[..., a:b], x.shape[-1])  # doctest: +SKIP
    """
    hop = samples_per_frame(model)
    frames = -(-samples // hop)
    parts = []
    for first, last, low, high in _parts(model, frames, samples, hop, chunks):
        x = read(low * hop, min(high * hop, samples)).to(model.device)
        codes = torch.cat([
            model.encode(some, num_tokens=num_tokens).codes.cpu()
            for some in x.split(_rows(model, x.shape[-1], chunks))
        ])  # fmt: skip
        parts.append(codes[..., first - low : last - low])
    return torch.cat(parts, -1)


def decode_chunked(
    model: Tokenizer, codes: Tensor, samples: int, *, chunks: Chunks = WHOLE_MINUTE
) -> Iterator[Tensor]:
    """Decode codes of any length, yielding the sound part by part.

    Args:
        model: an audio tokenizer.
        codes: int64 (B, q, F).
        samples: T, of what was encoded.
        chunks: sizes.

    Yields:
        (B, 1, n) in [-1, 1] on the CPU, T samples in all.

    Example:
        >>> sound = torch.cat([*decode_chunked(model, codes, 24000)], -1)  # doctest: +SKIP
    """
    hop = samples_per_frame(model)
    frames = codes.shape[-1]
    rising = (torch.arange(hop) + 0.5) / hop
    tail: Tensor | None = None
    for first, last, low, high in _parts(model, frames, samples, hop, chunks):
        length = min(high * hop, samples) - low * hop
        rows = codes[..., low:high].to(model.device).split(_rows(model, length, chunks))
        sound = torch.cat([_decode(model, some, length) for some in rows])
        kept = sound[..., (first - low) * hop : (last - low) * hop]
        if tail is not None:
            n = min(hop, kept.shape[-1], tail.shape[-1])
            faded = torch.lerp(tail[..., :n], kept[..., :n], rising[:n])
            kept = torch.cat((faded, kept[..., n:]), -1)
        # One frame beyond the chunk, for the fade into the next one.
        after = slice((last - low) * hop, (last - low + 1) * hop)
        tail = sound[..., after].clone() if high > last else None
        yield kept


def _decode(model: Tokenizer, codes: Tensor, samples: int) -> Tensor:
    extent = torch.full((len(codes), 1), samples, device=codes.device)
    return model.decode(Tokens(codes, None, extent)).float().cpu()


def _rows(model: Tokenizer, samples: int, chunks: Chunks) -> int:
    """Return how many channels of ``samples`` each go through the network at once."""
    return max(1, int(chunks.call * (model.spec.input_rate or 1) / samples))


def _parts(
    model: Tokenizer, frames: int, samples: int, hop: int, chunks: Chunks
) -> Iterator[tuple[int, int, int, int]]:
    """Yield (first, last) frames of each chunk and (low, high) of what it sees."""
    rate = model.spec.input_rate or 1
    if samples <= chunks.whole * rate:
        yield 0, frames, 0, frames
        return
    size = max(1, round(chunks.chunk * rate / hop))
    context = -(-round(chunks.context * rate) // hop)
    for first in range(0, frames, size):
        last = min(first + size, frames)
        yield first, last, max(0, first - context), min(frames, last + context)
