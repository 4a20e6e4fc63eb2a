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

    accelerate launch -m audio_tok.train --config assets/configs/{recipe} --out runs/{name}
    python -m audio_tok.audio_model_card runs/{name} assets/models/{name}

## Held-out scores

Means over {sentences} sentences ({total:g} s), whole, spoken by espeak-ng; neither the sentences
nor the voices occur in training. They use {codes_used} of {codebook} codes.

| mel distance | SI-SDR (dB) | STOI | PESQ (wide band) |
|---:|---:|---:|---:|
| {mel_distance} | {si_sdr} | {stoi} | {pesq} |

## While it trained

The fixed validation clips; the adversarial terms {adversarial}.{stages}

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

    Args:
        run: a finished run folder of `audio_tok.train`.
        target: folder to fill; an old model there is replaced.
        machine: words for the table, such as ``2 CPU cores``.

    Returns:
        The scores, as written to ``target/scores.json``.

    Raises:
        TesseraError: the run has not finished.

    Example::

        write_model_card(Path("runs/mine"), Path("models/mine"), machine="2 CPU cores")
    """
    from audio_tok.held_out_speech import held_out_scores

    finished = ship_run(run, target, units="clips")
    scores = held_out_scores(finished.model)
    finished.finish(scores, _card(finished, scores, machine))
    return scores


def _card(finished: FinishedRun, scores: dict[str, Any], machine: str) -> str:
    model, data, lines = finished.model, finished.config["data"], finished.lines
    spec = model.spec
    return CARD.format(
        **finished.facts(), data=finished.data(SPOKEN), machine=machine,
        sentence="A small WavTokenizer, for demonstrations and tests.",
        rate=model.sample_rate, token_rate=spec.token_rate, bits=spec.bits[0],
        kbits=sum(spec.bits) * spec.token_rate / 1000,
        seconds=data["segment"] / data["sample_rate"], sentences=scores["sentences"],
        total=scores["seconds"], codes_used=scores["codes_used"], codebook=spec.vocabulary[0],
        adversarial=_adversarial(lines), stages=_stages(lines),
        rows="\n".join(_row(line) for line in lines if "validation/mel_distance" in line),
        **{name: _number(scores[name]) for name in FIGURES},
    )  # fmt: skip


def _adversarial(lines: list[dict[str, Any]]) -> str:
    """Say from which logged step on a discriminator was trained."""
    first = _first_judged(lines)
    return "were never switched on" if first is None else f"act from about step {first} on"


def _first_judged(lines: list[dict[str, Any]]) -> int | None:
    judged = [line for line in lines if any(key.startswith("discriminator/") for key in line)]
    return min((int(line["step"]) for line in judged), default=None)


def _stages(lines: list[dict[str, Any]]) -> str:
    """Compare the last scores before the adversarial stage with those at its end."""
    first = _first_judged(lines)
    scored = [line for line in lines if "validation/mel_distance" in line]
    before = [line for line in scored if first is not None and line["step"] < first]
    if not before or scored[-1] is before[-1]:
        return ""
    old, new = before[-1], scored[-1]
    parts = [
        f"{title} {_number(old.get(key))} before and {_number(new.get(key))} after"
        for title, key in (("mel distance", "validation/mel_distance"),
                           ("PESQ", "validation/pesq"), ("STOI", "validation/stoi"))
    ]
    return (
        f"\nBefore (step {old['step']}) and after it (step {new['step']}; the learning rate fell "
        f"as well):\n{', '.join(parts)}."
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
