"""Turn a finished training of a class-conditional generator into a shipped model with its card.

    python -m tessera.generator_card runs/generator-llamagen-tiny \\
        assets/models/generator-llamagen-tiny --machine "one H200 GPU"

Its scores: validation loss, and at several guidance scales how far generated pictures are from
unseen real ones and how many are seen as what was asked for.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tok_core.training.model_card import FinishedRun, card_command, ship_run

PER_CLASS = 50
GUIDANCE = (1.0, 2.0, 4.0)
CARD = """\
# {name}

A small class-conditional {kind} over the tokens of `{tokenizer}`, for demonstrations and tests.

| | |
|---|---|
| class | `{kind}`, {parameters:.2f} M parameters, {megabytes:.1f} MB on disk ({dtype}) |
| draws | {tokens} tokens of `{tokenizer}` (code hash `{code_hash}`): pictures of {size} pixels |
| classes | {classes} |
| trained on | {data} |
| steps | {steps} of {batch} pictures, {hours} on {machine} |
| licence | Apache-2.0 |

Reproduce it (the run folder also keeps every metric):

{commands}

## Scores

{loss:.3f} nats per token on {looked_at} ({accuracy:.1%} of tokens predicted). {count} generated
pictures, {per_class} of each class, against {count} unseen real ones: frechet/procedural-v1 (lower
is better; see docs/procedural_distance.md for what it can tell) and the share that the shipped
classifier sees as what was asked for.

| | frechet/procedural-v1 | recognised |
|---|---:|---:|
{rows}

{speed:.2f} s per picture with guidance, {per_class} at a time, on {here}.

## Limits

It knows twelve shapes and textures: good enough to learn the suite with and to test on.
"""


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
    scores = _validation(finished) | scored(pipe)
    finished.finish(scores, _card(finished, scores, pipe, machine))
    return scores


def scored(pipe: Any, per_class: int = PER_CLASS) -> dict[str, Any]:
    """Return the scores of generated pictures by guidance scale, of real ones, and the time."""
    import torch

    from eval.labelled_pictures import class_scores, real_pictures, seen
    from tok_core.image_measures import to_uint8

    pipe.set_progress_bar_config(disable=True)
    labels = torch.arange(pipe.generator.classes).repeat_interleave(per_class)
    side, count = _side(pipe), len(labels)
    reference = seen(real_pictures(side, count)[0])
    others, theirs = real_pictures(side, count, start=count)
    with torch.inference_mode():
        x = others.to(pipe.device).float().div(127.5).sub(1.0).split(per_class)
        again = torch.cat([to_uint8(pipe.tokenizer.decode(pipe.tokenizer.encode(p))) for p in x])
    rows = {
        "real": class_scores(seen(others), theirs, reference),
        "reconstructed": class_scores(seen(again), theirs, reference),
    }
    for scale in GUIDANCE:
        began = time.perf_counter()
        made = [
            pipe(part.tolist(), guidance_scale=scale, output_type="pt",
                 generator=[torch.Generator().manual_seed(int(n)) for n in numbers]).images
            for part, numbers in zip(
                labels.split(per_class), torch.arange(count).split(per_class), strict=True
            )
        ]  # fmt: skip
        seconds = (time.perf_counter() - began) / count
        rows[f"{scale:g}"] = class_scores(seen(to_uint8(torch.cat(made))), labels, reference)
    return {"pictures": count, "seconds_per_picture": seconds, "scores": rows}


def _side(pipe: Any) -> int:
    """Return the side of the pictures of one generation."""
    rows, _ = pipe.generator.spec.grid
    size, native = pipe.tokenizer.spec.image_size, pipe.tokenizer.spec.grid
    return int(size[0] * rows // native[0])


def _tokenizer(finished: FinishedRun) -> str:
    return Path(finished.config["data"]["tokenizer"]).name


def _validation(finished: FinishedRun) -> dict[str, float]:
    lines = [line for line in finished.lines if "validation/loss" in line]
    return {
        key.removeprefix("validation/"): value
        for key, value in (lines[-1] if lines else {}).items()
        if key in ("validation/loss", "validation/accuracy")
    }


def _card(finished: FinishedRun, scores: dict[str, Any], pipe: Any, machine: str) -> str:
    from assets import asset_path
    from eval.labelled_pictures import RECOGNISED
    from eval.procedural_distance import NAME
    from tok_core.procedural_classes import CLASS_NAMES

    names = {"real": "other real pictures", "reconstructed": "their reconstructions"}
    rows = [
        f"| {names.get(key, f'guidance {key}')} | {value[NAME]:.2f} | {value[RECOGNISED]:.1%} |"
        for key, value in scores["scores"].items()
    ]
    recipe = (finished.target / "run.yaml").read_text()
    header = asset_path(f"configs/{finished.facts()['recipe']}").read_text().splitlines()
    commands = "\n".join("  " + line[1:] for line in header if line.startswith("#   "))
    return CARD.format(
        **finished.facts(), tokenizer=_tokenizer(finished), classes=", ".join(CLASS_NAMES),
        tokens=" x ".join(str(size) for size in pipe.generator.sizes), size=_side(pipe),
        data="token shards of labelled procedural pictures" if "signals: null" in recipe
        else "labelled procedural pictures, tokenized on the fly",
        looked_at="unseen samples" if finished.config["data"].get("validation_path")
        or finished.config["data"].get("signals") else "samples of the training shards",
        machine=machine, commands=commands, loss=scores["loss"], accuracy=scores["accuracy"],
        count=scores["pictures"], per_class=PER_CLASS, rows="\n".join(rows),
        speed=scores["seconds_per_picture"], here=_machine(pipe),
    )  # fmt: skip


def _machine(pipe: Any) -> str:
    """Return where pictures were drawn, in words."""
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
