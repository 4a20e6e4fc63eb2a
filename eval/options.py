"""Options that several verbs share, each declared once.  Light imports only."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer

# Options that take several words: ``--tokenizer A B C`` is what typer knows as three options.
SEVERAL = (
    "--tokenizer", "-t", "--metrics", "-m", "--budgets", "-b", "--qualities", "--bitrates",
    "--allow", "--columns", "--alphas", "--deltas", "--samples-of", "-s", "--stream",
    "--where",
)  # fmt: skip


class Policy(StrEnum):
    """What happens to a picture that is not of a network's size."""

    tile = "tile"
    resize = "resize"


class Format(StrEnum):
    """How a table is printed."""

    rich = "rich"
    csv = "csv"
    markdown = "markdown"
    latex = "latex"


def several(
    help: str, *names: str, metavar: str, default: str | bool = False
) -> typer.models.OptionInfo:
    """Return an option that takes several words, or one of them with commas."""
    return typer.Option(*names, metavar=metavar, help=help, show_default=default)


Tokenizers = Annotated[
    list[str],
    several(
        "Contestants: a shipped model, a model folder or hub id, jpeg, webp, avif, jpeg2000, opus, "
        "mp3, encodec:PATH, dac:PATH, mimi:PATH, vqmodel:PATH, kl:PATH, folder:DIR, "
        "MODULE:FUNCTION; LABEL=NAME for another name.",
        "--tokenizer", "-t", metavar="NAME...",
    ),
]  # fmt: skip
Data = Annotated[
    str, typer.Option("--data", "-d", metavar="DIR|GLOB|LIST.txt", help="The originals.")
]
Metrics = Annotated[
    list[str] | None,
    several(
        "Metrics by name; eval metrics lists them.", "--metrics", "-m", metavar="NAME...",
        default="the usual ones",
    ),
]  # fmt: skip
Budgets = Annotated[
    list[str] | None,
    several(
        "Tokens of each picture (of sound: codebooks), for contestants that can.",
        "--budgets", "-b", metavar="N...", default="all tokens",
    ),
]  # fmt: skip
Qualities = Annotated[
    list[str] | None,
    several(
        "Quality settings of picture codecs.", "--qualities", metavar="N...",
        default="three each",
    ),
]  # fmt: skip
Bitrates = Annotated[
    list[str] | None,
    several(
        "kbit/s of sound codecs.", "--bitrates", metavar="N...", default="three each"
    ),
]  # fmt: skip
ProtocolName = Annotated[
    str | None, typer.Option("--protocol", "-p", metavar="NAME|FILE", help="How to measure.")
]
Crop = Annotated[
    str | None, typer.Option("--crop", help="Instead of the protocol's.", show_default=False)
]
Size = Annotated[
    int | None,
    typer.Option("--size", min=1, metavar="PIXELS", help="Instead of the protocol's.",
                 show_default=False),
]  # fmt: skip
Grid = Annotated[
    str | None, typer.Option("--grid", metavar="NAME", help="Preset of settings.")
]
Alphas = Annotated[
    list[str] | None,
    several("Shares of codes that move, for a grid of your own.", "--alphas", metavar="A..."),
]
Deltas = Annotated[
    list[str] | None,
    several("Sizes of the neighbourhood, for a grid of your own.", "--deltas", metavar="N..."),
]
Neighbourhood = Annotated[
    str, typer.Option("--neighbourhood", metavar="code|latent", help="Around what codes move.")
]
SampleRate = Annotated[
    int | None,
    typer.Option("--sample-rate", min=1, metavar="HZ", help="Instead of the protocol's.",
                 show_default=False),
]  # fmt: skip
Reference = Annotated[
    str | None,
    typer.Option("--reference", metavar="FILE.npz", show_default="the originals",
                 help="Statistics that distances compare with."),
]  # fmt: skip
Out = Annotated[
    str | None,
    typer.Option("--out", "-o", metavar="FILE.json", help="Write all scores, with protocol.",
                 show_default=False),
]  # fmt: skip
Count = Annotated[
    int | None,
    typer.Option("--count", "-n", min=1, metavar="N", help="Only the first N items.",
                 show_default="all"),
]  # fmt: skip
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave damaged and unpaired items out, and count them.")
]
Require = Annotated[
    bool, typer.Option("--require", help="Exit with 3 when a metric could not be had.")
]
PolicyOption = Annotated[
    Policy, typer.Option("--policy", help="For pictures of another size than a network's.")
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Items per call.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]
Seed = Annotated[int, typer.Option("--seed", help="Of every random draw.")]
Speed = Annotated[bool, typer.Option("--speed", help="Add speed, memory and parameters.")]
NoTruth = Annotated[
    bool, typer.Option("--no-ground-truth", help="Leave out the row of the originals.")
]
SaveEvery = Annotated[
    float,
    typer.Option("--save-every", min=0, metavar="SECONDS", help="How much a kill may cost."),
]  # fmt: skip
FormatOption = Annotated[Format, typer.Option("--format", help="Of the printed table.")]
Force = Annotated[bool, typer.Option("--force", "-f", help="Overwrite what exists.")]
Samples = Annotated[
    int,
    typer.Option("--samples", min=0, metavar="N",
                 help="Keep the first N items beside --out, for eval report."),
]  # fmt: skip
Columns = Annotated[
    list[str] | None,
    several("Metrics in this order, or 'dates'.", "--columns", metavar="NAME...", default="all"),
]


def spread_words(arguments: Sequence[str]) -> list[str]:
    """Turn ``--tokenizer A B`` into ``--tokenizer A --tokenizer B``.

    Example:
        >>> spread_words(["recon", "-t", "A", "B", "--out", "x.json"])
        ['recon', '-t', 'A', '-t', 'B', '--out', 'x.json']
    """
    result: list[str] = []
    option, taken = "", 0
    for word in arguments:
        if word.startswith("-") and len(word) > 1 and not word[1:].replace(".", "").isdigit():
            option, taken = (word if word in SEVERAL else ""), 0
            result.append(word)
        elif option and taken:
            result += [option, word]
        else:
            result.append(word)
            taken = 1
    return result


def numbers(texts: Sequence[str] | None, option: str) -> list[float] | None:
    """Return the numbers of ``32,64 128``, each once, in order.

    Raises:
        ConfigError: a word that is no number above 0.
    """
    if texts is None:
        return None
    from eval.registry import words
    from tok_core.errors import ConfigError

    found = []
    for word in [part for text in words(texts) for part in text.split()]:
        try:
            value = float(word)
        except ValueError:
            value = -1.0
        if not 0 < value < float("inf"):
            raise ConfigError(f"{option} '{word}' is no number above 0; write {option} 32,64,128.")
        found.append(value)
    return list(dict.fromkeys(found))


def listed(texts: Sequence[str] | None) -> list[str] | None:
    """Return the words of ``a,b c``; None stays None."""
    if texts is None:
        return None
    from eval.registry import words

    return words(texts)


def globbed(paths: Sequence[str]) -> list[str]:
    """Return the paths with globs expanded, for shells that leave them alone."""
    from glob import glob

    return [one for path in paths for one in (sorted(glob(path)) or [path])]


def dates_metrics() -> list[str]:
    """Return the metrics of the DATES table that exist here."""
    from eval.registry import DATES, entries

    return [name for name in DATES if name in entries()]
