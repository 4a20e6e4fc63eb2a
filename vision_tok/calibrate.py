"""Make a tokenizer of a KL autoencoder: measure scale, range and channel order on pictures.

    python -m vision_tok.calibrate runs/kl-autoencoder-tiny/model models/mine --data photos/
    python -m vision_tok.calibrate kl16.ckpt models/kl16 --data imagenet.tar --size 256 --bits 5

OUT holds the autoencoder, the levels and what was measured, ready for `tok_core.load`.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tok_core.errors import ConfigError, MediaError, TesseraError
from tok_core.model import Model
from vision_tok.image_data import ImageDataConfig, open_images
from vision_tok.token_bridge import TokenBridgeTokenizer, as_autoencoder

COUNT = 1024  # pictures; at 8 x 8 positions the 99.99th percentile still has a hundred beyond it
BATCH = 16


def picture_batches(
    data: ImageDataConfig, *, count: int = COUNT, batch: int = BATCH
) -> Iterator[Tensor]:
    """Yield batches (B, 3, S, S) in [-1, 1] of the first pictures that a data config means.

    Args:
        data: as in a recipe. count: of pictures, or all there are. batch: B.

    Raises:
        MediaError: no picture can be read.
    """
    source = open_images(data)
    total = count if source.length is None else min(count, source.length)
    kept: list[Tensor] = []
    found, problem = 0, "there are none"
    for index in range(total):
        try:
            kept.append(source.item(index))
        except MediaError as error:
            problem = str(error)
            continue
        found += 1
        if len(kept) == batch:
            yield torch.stack(kept)
            kept = []
    if kept:
        yield torch.stack(kept)
    if not found:
        raise MediaError(f"no picture to calibrate on can be read: {problem}")


def save_as(model: Model, folder: Path, dtype: str) -> None:
    """Save a model with its numbers stored in ``dtype``; loading makes them float32 again."""
    stored: Any = copy.deepcopy(model).to(getattr(torch, dtype))
    stored.save_pretrained(folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: return 0, or 2 for a user's mistake (one sentence)."""
    options = _parser().parse_args(arguments)
    try:
        if options.out.exists() and not options.force:
            raise ConfigError(f"'{options.out}' exists; nothing is overwritten without --force.")
        source = as_autoencoder(options.model)
        size = options.size or source.config["image_size"]
        if size is None:
            raise ConfigError("this autoencoder states no size of pictures; give --size.")
        data = ImageDataConfig(path=options.data, size=size, flip=False)
        tokenizer = TokenBridgeTokenizer.calibrated(
            source, picture_batches(data, count=options.count), bits=options.bits,
            patch_size=options.patch_size, per_channel=options.per_channel,
            percentile=options.percentile, image_size=size,
        )  # fmt: skip
        save_as(tokenizer, options.out, options.dtype)
    except TesseraError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    quantization = tokenizer.quantizer.config
    print(
        f"scale {quantization.scale}, shift {quantization.shift}, range {quantization.low:.4g} to "
        f"{quantization.high:.4g}, channel order {list(quantization.channel_order or ())}"
    )
    print(f"model written to {options.out}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vision_tok.calibrate",
        description="Make a tokenizer of a KL autoencoder by measuring its latents on pictures.",
    )
    parser.add_argument("model", help="folder, file or hub id of the autoencoder")
    parser.add_argument("out", type=Path, help="folder of the tokenizer")
    parser.add_argument("--data", required=True, help="image folder, tar shards or 'procedural'")
    parser.add_argument("--size", type=int, help="side in pixels; default the autoencoder's")
    parser.add_argument("--count", type=int, default=COUNT, help=f"pictures, default {COUNT}")
    parser.add_argument("--bits", type=int, default=6, help="per dimension, default 6")
    parser.add_argument("--patch-size", type=int, default=1, help="cells per side of a position")
    parser.add_argument("--per-channel", action="store_true", help="a scale for each channel")
    parser.add_argument("--percentile", type=float, default=99.99, help="that the range holds")
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32")
    parser.add_argument("--force", action="store_true", help="replace OUT")
    return parser


if __name__ == "__main__":
    sys.exit(main())
