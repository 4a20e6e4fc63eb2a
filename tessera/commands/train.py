"""``tessera train``: the training program of a sense, in this process."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
PROGRAMS = {
    "image": "vision_tok.train", "audio": "audio_tok.train", "tokens": "generators.train"
}  # fmt: skip


class Sense(StrEnum):
    """Which training program runs."""

    image = "image"
    audio = "audio"
    tokens = "tokens"


def train(
    context: typer.Context,
    modality: Annotated[Sense, typer.Option("--modality", help="What it models.")] = Sense.image,
) -> int:
    """Train a tokenizer or a generator: all options go to the training program.

    [bold]tessera train --config my_recipe.yaml --data photos/[/bold]; on several devices
    [bold]accelerate launch -m vision_tok.train ...[/bold]. Sound:
    [bold]tessera train --modality audio --config my_codec.yaml --data sounds/[/bold]
    A generator over tokens:
    [bold]tessera train --modality tokens --config my_generator.yaml --data tokens/[/bold]
    """
    import importlib
    import importlib.util

    from tok_core.errors import ConfigError

    if importlib.util.find_spec("accelerate") is None:
        raise ConfigError(
            "training needs the packages of the extra 'train'; install accelerate, tensorboard "
            "and webdataset into this environment."
        )
    program = importlib.import_module(PROGRAMS[modality.value])
    result = program.main(list(context.args))
    return result if isinstance(result, int) else 0
