"""One photograph of the image demo: what each codec makes of it, as a row of the table."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from eval import picture_codecs
from tessera.pipeline import Row
from tok_core.errors import TesseraError
from tok_core.token_file import read_token_file, write_token_file

if TYPE_CHECKING:
    from PIL.Image import Image

    from tok_core.contract import Tokenizer

T = TypeVar("T")


@dataclass
class Photograph:
    """One photograph with everything that was made of it, in the order of the grid."""

    name: str
    original: Image
    shown: list[tuple[Row, Image]] = field(default_factory=list)


def encoded(codec: Any, signal: Any) -> tuple[Any, float]:
    """Return what a codec makes of one signal, and the milliseconds that took."""
    [whole], encode_ms = timed(partial(codec.encode, [signal]))
    if isinstance(whole, TesseraError):
        raise whole
    return whole, encode_ms


def token_row(
    codec: Any, signal: Any, tokens: Any, output: Path, name: str, facts: Row
) -> tuple[Row, Image]:
    """Write tokens as a file, decode that, write the picture; return the row and the picture.

    Args:
        codec: an open `vision_tok.image_codec.ImageCodec`. signal: what it read.
        tokens: the token file to write. output: folder with ``tokens/`` and ``pictures/``.
        name: of the two files without endings. facts: first columns of the row.
    """
    path = output / "tokens" / f"{name}.tok"
    size = write_token_file(path, tokens, force=True)
    file = read_token_file(path, expect_code_hash=codec.model.code_hash())
    [decoded], decode_ms = timed(partial(codec.decode, [file]))
    codec.write(output / "pictures" / f"{name}.png", decoded, force=True)
    row: Row = {**facts, **codec.rate(file, size), **codec.compare(signal, decoded)}
    return row | {"decode_ms": decode_ms}, codec.picture(decoded)


def classic_row(original: Image, kind: str, size: int, label: str) -> tuple[Row, Image]:
    """Return row and picture of a classic codec at the whole-file size nearest to ``size``."""
    coded = picture_codecs.nearest_size(original, kind, size)
    _, encode_ms = timed(lambda: picture_codecs.encode(original, kind, coded.quality))
    picture, decode_ms = timed(lambda: picture_codecs.decode(coded.data))
    row = {"budget": label, "quality": coded.quality, **rate(original, len(coded.data))}
    row |= distance(original, picture) | {"encode_ms": encode_ms, "decode_ms": decode_ms}
    return row, picture


def rate(original: Image, size: int) -> Row:
    """Return bytes and bits per pixel."""
    return {"bytes": size, "bits_per_pixel": 8 * size / (original.width * original.height)}


def distance(original: Image, picture: Image) -> Row:
    """Return PSNR in decibels and SSIM of two pictures of one size."""
    from tok_core.image_measures import psnr, ssim

    a, b = (_bytes(image) for image in (picture, original))
    return {"psnr": float(psnr(a, b)), "ssim": float(ssim(a, b))}


def _bytes(picture: Image) -> Any:
    import numpy as np
    import torch

    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)[None]


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """Return a result and the milliseconds it took."""
    start = time.perf_counter()
    result = work()
    return result, 1000 * (time.perf_counter() - start)


def warm_up(tokenizer: Tokenizer, batch_size: int) -> None:
    """Run one batch unmeasured: the first call chooses kernels and takes memory."""
    import torch

    height, width = tokenizer.spec.image_size or (64, 64)
    inputs = torch.zeros(batch_size, 3, height, width, device=tokenizer.device)
    tokenizer.decode(tokenizer.encode(inputs))
