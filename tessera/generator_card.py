"""Turn a finished training of a generator into a shipped model with its card.

    python -m tessera.generator_card runs/generator-llamagen-tiny \\
        assets/models/generator-llamagen-tiny --machine "one H200 GPU"

Its scores: validation loss, and how far what it draws is from what is real, by the tokenizer's
sense: pictures by class at several guidance scales, sounds at several temperatures.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tessera import generator_card_pictures, generator_card_sounds
from tok_core.training.model_card import FinishedRun, card_command, ship_run

CARD = """\
# {name}

{sentence}

| | |
|---|---|
| class | `{kind}`, {parameters:.2f} M parameters, {megabytes:.1f} MB on disk ({dtype}) |
| draws | {tokens} tokens of `{tokenizer}` (code hash `{code_hash}`): {result} |
| {condition} |
| trained on | {data} |
| steps | {steps} of {batch} {units}, {hours} on {machine} |
| licence | Apache-2.0 |

Reproduce it (the run folder also keeps every metric):

{commands}

## Scores

{loss:.3f} nats per token on {looked_at} ({accuracy:.1%} of tokens predicted). {comparison}

{table}

{speed}, on {here}.

## Limits

{limits}
"""
SENSES: dict[str, Any] = {"image": generator_card_pictures, "audio": generator_card_sounds}


def write_generator_card(run: Path, target: Path, *, machine: str) -> dict[str, Any]:
    """Copy ``run/model`` to ``target``, score what it draws and write its README.md.

    Args:
        run: a finished run folder of `generators.train`.
        target: folder to fill; an old model there is replaced.
        machine: words for the table, of the training.

    Returns:
        The scores, as written to ``target/scores.json``.

    Raises:
        TesseraError: the run has not finished.
    """
    from tessera.generator_pipeline import open_pipeline

    finished = ship_run(run, target, units="samples")
    pipe: Any = open_pipeline(str(target), tokenizer=_tokenizer(finished), device="auto")
    pipe.set_progress_bar_config(disable=True)
    sense = SENSES[pipe.modality]
    scores = _validation(finished) | sense.scored(pipe)
    facts = _facts(finished, scores, pipe) | {"machine": machine}
    finished.finish(scores, CARD.format(**facts, **sense.words(scores, pipe, facts)))
    return scores


def _tokenizer(finished: FinishedRun) -> str:
    return Path(finished.config["data"]["tokenizer"]).name


def _validation(finished: FinishedRun) -> dict[str, float]:
    lines = [line for line in finished.lines if "validation/loss" in line]
    return {
        key.removeprefix("validation/"): value
        for key, value in (lines[-1] if lines else {}).items()
        if key in ("validation/loss", "validation/accuracy")
    }


def _facts(finished: FinishedRun, scores: dict[str, Any], pipe: Any) -> dict[str, Any]:
    """Return the words of a card that do not depend on the sense."""
    from assets import asset_path

    data = finished.config["data"]
    header = asset_path(f"configs/{finished.facts()['recipe']}").read_text().splitlines()
    return finished.facts() | {
        "tokenizer": _tokenizer(finished), "from_shards": not data.get("signals"),
        "tokens": " x ".join(str(size) for size in pipe.generator.sizes if size > 1),
        "looked_at": "unseen samples" if data.get("validation_path") or data.get("signals")
        else "samples of the training shards",
        "commands": "\n".join("  " + line[1:] for line in header if line.startswith("#   ")),
        "loss": scores["loss"], "accuracy": scores["accuracy"], "here": _machine(pipe),
    }  # fmt: skip


def _machine(pipe: Any) -> str:
    """Return where samples were drawn, in words."""
    import torch

    if pipe.device.type == "cuda":
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f"{threads} CPU core{'s' * (threads > 1)}"


def _show(scores: dict[str, Any]) -> str:
    return "\n".join(f"{name:>14}  {values}" for name, values in scores["scores"].items())


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: RUN TARGET."""
    return card_command("tessera.generator_card", write_generator_card, _show, arguments)


if __name__ == "__main__":
    sys.exit(main())
