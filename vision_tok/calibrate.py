"""Make a tokenizer of a KL autoencoder: measure scale, range and channel order on pictures.

    tessera calibrate runs/kl-autoencoder-tiny/model -o models/mine --data photos/
    tessera calibrate kl16.ckpt -o models/kl16 --data imagenet.tar --size 256 --bits 5
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from tok_core.calibration_batches import BATCH, signal_batches, stored_in
from tok_core.errors import ConfigError
from tok_core.model import Model
from vision_tok.image_data import ImageDataConfig, open_images
from vision_tok.token_bridge import TokenBridgeTokenizer, as_autoencoder

# Classes of model folders that this program takes, beside diffusers' AutoencoderKL and files.
TAKES = ("KLAutoencoder", "TokenBridgeTokenizer")
COUNT = 1024  # pictures; at 8 x 8 positions the 99.99th percentile still has a hundred beyond it


def calibrate_pictures(
    model: Any, data: str, *, size: int | None = None, count: int = COUNT, patch_size: int = 1,
    device: str = "cpu", progress: Callable[[int], None] = lambda pictures: None, **settings: Any,
) -> TokenBridgeTokenizer:  # fmt: skip
    """Make a tokenizer of an autoencoder by measuring its latents on pictures.

    Args:
        model: an autoencoder as `vision_tok.token_bridge.as_autoencoder` takes it: folder, file,
            hub id or object, or the tokenizer over one.
        data: image folder, tar shards, or a synthetic source such as ``natural``.
        size: side in pixels of what is cut out of pictures; None is the autoencoder's own.
        count: of pictures, or all there are. patch_size: cells per side of a position.
        device: that measures; the tokenizer comes back on the CPU.
        progress: told how many more pictures are measured.
        settings: as `tok_core.dimension_calibration.calibrate` takes them, such as ``bits``.

    Raises:
        ConfigError: no autoencoder, no size anywhere, illegal settings. WeightsError: no model
            there. MediaError: no pictures.

    Example:
        >>> calibrate_pictures("runs/mine/model", "photos/", bits=5)  # doctest: +SKIP
    """
    source = as_autoencoder(model)
    side = size or source.config["image_size"]
    if side is None:
        raise ConfigError("this autoencoder states no size of pictures; give one with --size.")
    images = open_images(ImageDataConfig(path=data, size=side, flip=False))
    batches = signal_batches(images, count=count, what="picture", progress=progress)
    tokenizer = TokenBridgeTokenizer.calibrated(
        source.to(device), batches, patch_size=patch_size, image_size=side, **settings
    )
    return tokenizer.to("cpu")


def picture_batches(
    data: ImageDataConfig, *, count: int = COUNT, batch: int = BATCH
) -> Iterator[Tensor]:
    """Yield batches (B, 3, S, S) in [-1, 1] of the first pictures that a data config means.

    Args:
        data: as in a recipe. count: of pictures, or all there are. batch: B.

    Raises:
        MediaError: no picture can be read.
    """
    return signal_batches(open_images(data), count=count, batch=batch, what="picture")


def save_as(model: Model, folder: Path, dtype: str) -> None:
    """Save a model with its numbers stored in ``dtype``; loading makes them float32 again."""
    stored_in(model, dtype).save_pretrained(folder)
