"""Turn a finished run into a shipped codec with its card.

    python -m audio_tok.audio_model_card runs/wavtokenizer-tiny assets/models/wavtokenizer-tiny
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from audio_tok.sound_figures import FIGURES
from tok_core.training.model_card import FinishedRun, card_command, ship_run

CARD = """\
# {name}

{sentence}

| | |
|---|---|
| class | `{kind}`, {parameters:.2f} M parameters, {megabytes:.1f} MB on disk ({dtype}) |
| input | {rate} Hz mono, {token_rate:g} tokens a second of {bits} bits, {kbits:.2f} kbit/s |
| code hash | `{code_hash}` |
| trained on | {data} |
| steps | {steps} of {batch} clips of {seconds:g} s, {hours} on {machine} |
| licence | Apache-2.0 |

Reproduce it (the run folder also keeps every metric):

    accelerate launch -m audio_tok.train --config assets/configs/{recipe} --out runs/{name}{workers}
    python -m audio_tok.audio_model_card runs/{name} assets/models/{name}

## Held-out scores

Means over {sentences} sentences ({total:g} s), whole, spoken by espeak-ng; neither the sentences
nor the voices occur in training. They use {codes_used} of {codebook} codes.

| | mel distance | SI-SDR (dB) | STOI | PESQ (wide band) |
|---|---:|---:|---:|---:|
{scores}

{stages}## While it trained

The fixed validation clips; the adversarial terms {adversarial}.

| step | mel distance | SI-SDR (dB) | STOI | PESQ |
|---:|---:|---:|---:|---:|
{rows}

## Limits

It has heard synthetic speech, plain oscillators and noise: good enough to learn the suite with, to
test on and to compare techniques, not to carry real voices or music in earnest.
"""
SPOKEN = {"speech": "synthetic speech (espeak-ng, many voices and languages)",
          "music": "synthetic music", "noise": "coloured noise",
          "mixed": "synthetic speech, music and noise", "folder": "sound files",
          "list": "sound files"}  # fmt: skip


def write_model_card(run: Path, target: Path, *, machine: str) -> dict[str, Any]:
    """Copy ``run/model`` to ``target``, score it on the held-out speech and write its README.md.

    Where the run trained discriminators and still has a checkpoint from before they began, that one
    is scored as well, so that the card shows what the adversarial stage did.

    Args:
        run: a finished run folder of `audio_tok.train`.
        target: folder to fill; an old model there is replaced.
        machine: words for the table, such as ``2 CPU cores``.

    Returns:
        The scores, as written to ``target/scores.json``; those before the adversarial stage, with
        their ``step``, under ``before``.

    Raises:
        TesseraError: the run has not finished.

    Example::

        write_model_card(Path("runs/mine"), Path("models/mine"), machine="2 CPU cores")
    """
    from audio_tok.held_out_speech import held_out_scores

    finished = ship_run(run, target, units="clips")
    scores = held_out_scores(finished.model)
    before = _scores_before(run, target, _adversarial_start(finished.config))
    if before is not None:
        scores["before"] = before
    finished.finish(scores, _card(finished, scores, machine))
    return scores


def _card(finished: FinishedRun, scores: dict[str, Any], machine: str) -> str:
    model, data, lines = finished.model, finished.config["data"], finished.lines
    spec, workers = model.spec, finished.config["train"]["workers"]
    start = _adversarial_start(finished.config)
    return CARD.format(
        **finished.facts(), data=finished.data(SPOKEN), machine=machine,
        sentence="A small WavTokenizer, for demonstrations and tests.",
        workers=f" \\\n        --set train.workers={workers}" if workers else "",
        rate=model.sample_rate, token_rate=spec.token_rate, bits=spec.bits[0],
        kbits=sum(spec.bits) * spec.token_rate / 1000,
        seconds=data["segment"] / data["sample_rate"], sentences=scores["sentences"],
        total=scores["seconds"], codes_used=scores["codes_used"], codebook=spec.vocabulary[0],
        adversarial="were never on" if start is None else f"act from step {start} on",
        scores="\n".join(_scored(scores)), stages=_stages(scores),
        rows="\n".join(_row(line) for line in lines if "validation/mel_distance" in line),
    )  # fmt: skip


def _adversarial_start(config: dict[str, Any]) -> int | None:
    """Return the step at which the first discriminator enters, None where none does."""
    judges = [config["objective"].get(name) for name in ("period", "resolution", "dac")]
    starts = [judge["start"] for judge in judges if judge and judge.get("enabled", True)]
    return min((x for x in starts if x < config["train"]["steps"]), default=None)


def _scores_before(run: Path, target: Path, start: int | None) -> dict[str, Any] | None:
    """Score the averaged weights of the last checkpoint without a discriminator, if it is there."""
    from audio_tok.held_out_speech import held_out_scores
    from tok_core.loading import load
    from tok_core.training.checkpoint import checkpoints, load_module

    if start is None:
        return None
    for folder in reversed(checkpoints(run / "checkpoints")):
        step = int(folder.name.rpartition("_")[2])
        if step <= start and (folder / "ema.safetensors").is_file():
            model = load(target)
            load_module(model, folder / "ema.safetensors")
            return {"step": step, **held_out_scores(model)}
    return None


def _scored(scores: dict[str, Any]) -> list[str]:
    rows = [("the shipped weights", scores)]
    if "before" in scores:
        rows.insert(0, (f"step {scores['before']['step']}, log mel alone", scores["before"]))
    return [f"| {title} | " + " | ".join(_number(row[name]) for name in FIGURES) + " |"
            for title, row in rows]  # fmt: skip


def _stages(scores: dict[str, Any]) -> str:
    """Say what the rows of the held-out table compare."""
    if "before" not in scores:
        return ""
    return (
        "The first row is the model as the adversarial stage found it, the last what came out; the "
        "learning\nrate fell as well.\n\n"
    )


def _row(line: dict[str, Any]) -> str:
    cells = " | ".join(_number(line.get(f"validation/{name}")) for name in FIGURES)
    return f"| {line['step']} | {cells} |"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _show(scores: dict[str, Any]) -> str:
    return "  ".join(f"{name} {_number(scores[name])}" for name in FIGURES)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: RUN TARGET."""
    return card_command("audio_tok.audio_model_card", write_model_card, _show, arguments)


if __name__ == "__main__":
    sys.exit(main())
