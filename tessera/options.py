"""Options that several commands share, each declared once.  Light imports only."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Policy(StrEnum):
    """What happens to a picture that is not of the network's size."""

    resize = "resize"
    crop = "crop"
    tile = "tile"


class Channels(StrEnum):
    """What happens to the channels of a sound."""

    downmix = "downmix"
    streams = "streams"


Inputs = Annotated[
    list[str], typer.Argument(metavar="IN...", help="Files, folders or globs.", show_default=False)
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", metavar="M", show_default="the shipped one",
        help="A shipped model's name, a model folder, or a hub id.",
    ),
]  # fmt: skip
Tokens = Annotated[
    int | None,
    typer.Option(
        "--tokens", "-t", metavar="N",
        help="Tokens per network input of a picture; of sound, per frame (codebook levels).",
    ),
]  # fmt: skip
TargetBytes = Annotated[
    int | None,
    typer.Option("--target-bytes", metavar="N", help="Most bytes of the whole .tok file."),
]
TargetPsnr = Annotated[
    float | None,
    typer.Option(
        "--target-psnr", metavar="DB", help="Fewest tokens that reach this PSNR (pictures)."
    ),
]
PolicyOption = Annotated[
    Policy | None,
    typer.Option(
        "--policy", "-p", show_default="resize",
        help="For pictures of another size than the network's.",
    ),
]  # fmt: skip
ChannelsOption = Annotated[
    Channels | None,
    typer.Option(
        "--channels", "-c", show_default="downmix",
        help="For sound: one set of tokens, or one for each channel.",
    ),
]  # fmt: skip
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]
BatchSize = Annotated[
    int, typer.Option("--batch-size", "-b", min=1, help="Network inputs per call.")
]
ModelFolder = Annotated[
    Path, typer.Option("--output", "-o", metavar="DIR", help="New model folder.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Force = Annotated[bool, typer.Option("--force", "-f", help="Overwrite what exists.")]
Format = Annotated[
    str | None,
    typer.Option("--format", metavar="EXT", help="Extension of the files in an output folder."),
]


def chosen_format(text: str | None, legal: Collection[str], default: str) -> str:
    """Return the extension, with its dot, for the files in an output folder."""
    from tok_core.errors import ConfigError, nearest

    suffix = default if text is None else "." + text.lower().lstrip(".")
    if suffix not in legal:
        names = sorted(name[1:] for name in legal)
        raise ConfigError(
            f"--format '{text}' cannot be written; legal are {' '.join(names)}"
            f"{nearest(suffix[1:], names)}"
        )
    return suffix
