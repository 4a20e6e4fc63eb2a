"""The other shipped image tokenizers in the demo, each at its own budget.

Beside each stands JPEG 2000 at the size nearest to the tokens' file, where this Pillow has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval import picture_codecs
from tessera.demo_rows import Photograph, classic_row, encoded, token_row, warm_up
from tessera.modality import open_codec
from tok_core.errors import ConfigError
from tok_core.shipped_models import shipped_models

COMPANIONS = ("vqgan-tiny", "token-flow-tiny")
CLASSIC = "JPEG 2000"


def shipped_companions() -> dict[str, Path]:
    """Return the folders of those that this installation ships, by name."""
    shipped = shipped_models()
    return {name: shipped[name] for name in COMPANIONS if name in shipped}


def show_companions(
    photographs: Sequence[Photograph], sources: Sequence[Path], models: Mapping[str, Path],
    options: Mapping[str, Any], output: Path, device: str,
) -> None:  # fmt: skip
    """Take every photograph through every model, all its tokens, and append the rows.

    Args:
        photographs: to append to. sources: their files, in the same order.
        models: folders by name. options: of the codec. output: of the demo. device: of the models.
    """
    from tessera.models import load_tokenizer

    for name, folder in models.items():
        tokenizer = load_tokenizer(str(folder), device=device)
        codec: Any = open_codec(tokenizer, **options)
        warm_up(tokenizer, codec.batch_size)
        for photograph, source in zip(photographs, sources, strict=True):
            signal = codec.read(source)
            whole, encode_ms = encoded(codec, signal)
            facts = {"budget": f"{name}, {codec.full} tokens", "model": name}
            row, picture = token_row(
                codec, signal, whole.file, output, f"{source.stem}_{name}", facts
            )
            photograph.shown.append((row | {"encode_ms": encode_ms}, picture))
            if has_classic():
                label = f"{CLASSIC} beside {name}"
                photograph.shown.append(
                    classic_row(photograph.original, CLASSIC, row["bytes"], label)
                )


def has_classic() -> bool:
    """Return whether this Pillow was built with JPEG 2000."""
    try:
        picture_codecs.check_codec(CLASSIC)
    except ConfigError:
        return False
    return True
