"""What the commands need from a sense (images, sound), and where each sense keeps it."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tok_core.errors import ConfigError, TesseraError

if TYPE_CHECKING:
    from tok_core.contract import Tokenizer
    from tok_core.token_file import TokenFile

CODECS = {
    "image": "vision_tok.image_codec:ImageCodec",
    "audio": "audio_tok.audio_codec:AudioCodec",
}
# Options of the command line that a codec may not know, as the user writes them.
OPTIONS = {
    "policy": "--policy", "tokens": "--tokens", "target_bytes": "--target-bytes",
    "target_psnr": "--target-psnr", "channels": "--channels",
}  # fmt: skip


class Encoded(Protocol):
    """One encoded signal: the token file and facts for the table."""

    @property
    def file(self) -> TokenFile: ...
    @property
    def facts(self) -> dict[str, Any]: ...


class MediaCodec(Protocol):
    """Files to signals to token files and back, for the signals of one sense.

    ``read`` and ``write`` run in threads; ``encode`` and ``decode`` run the network.
    """

    readable: frozenset[str]
    writable: frozenset[str]
    default_suffix: str
    ahead: int | None

    def read(self, path: Path) -> Any:
        """Read and prepare one file; MediaError for a bad one."""
        ...

    def weight(self, signal: Any) -> int:
        """Return how many network inputs a signal is."""
        ...

    def encode(self, signals: list[Any]) -> list[Encoded | TesseraError]:
        """Turn signals into token files."""
        ...

    def decode_weight(self, file: TokenFile) -> int:
        """Return how many network inputs a token file is."""
        ...

    def check(self, file: TokenFile) -> None:
        """Raise TokenError unless the tokens belong to this model."""
        ...

    def decode(self, files: list[TokenFile]) -> list[Any | TesseraError]:
        """Turn token files into signals of the original size."""
        ...

    def write(self, path: Path, signal: Any, *, force: bool) -> int:
        """Write a decoded signal in the format of the extension; return its bytes."""
        ...

    def compare(self, original: Any, decoded: Any) -> dict[str, float]:
        """Return quality figures by name, such as ``psnr`` and ``ssim``."""
        ...

    def rate(self, file: TokenFile, size: int) -> dict[str, Any]:
        """Return the figures of a token file of ``size`` bytes: tokens, bytes, bits per pixel."""
        ...


def codec_class(sense: str) -> Any:
    """Return the codec class of a sense, a key of `CODECS`."""
    module, name = CODECS[sense].split(":")
    return getattr(importlib.import_module(module), name)


def open_codec(model: Tokenizer, **options: Any) -> MediaCodec:
    """Return the codec of the model's sense.

    Args:
        model: a loaded tokenizer.
        options: policy, channels, budget and batch size; None is left to the codec, which checks
            the others.

    Raises:
        ConfigError: no command-line support for this sense, or an illegal option.
    """
    modality = model.spec.modality
    if modality not in CODECS:
        raise ConfigError(f"the commands know {', '.join(CODECS)}, not '{modality}'.")
    codec = codec_class(modality)
    given = {name: value for name, value in options.items() if value is not None}
    known = inspect.signature(codec).parameters
    for name in given:
        if name not in known:
            legal = ", ".join(OPTIONS[other] for other in OPTIONS if other in known)
            raise ConfigError(
                f"{OPTIONS.get(name, name)} does not apply to {modality} files; legal here are "
                f"{legal}."
            )
    return codec(model, **given)
