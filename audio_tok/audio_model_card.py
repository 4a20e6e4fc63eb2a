"""Turn a finished run into a shipped codec with its card.

    python -m audio_tok.audio_model_card runs/wavtokenizer-tiny assets/models/wavtokenizer-tiny
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tok_core.errors import TesseraError

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
MEASURES = ("mel_distance", "si_sdr", "stoi", "pesq")
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
    import yaml

    from audio_tok.held_out_speech import held_out_scores
    from tok_core.loading import load

    if not (run / "model" / "config.json").is_file():
        raise TesseraError(f"{run} holds no finished model; train to the last step first.")
    target.mkdir(parents=True, exist_ok=True)
    for file in (run / "model").iterdir():
        shutil.copyfile(file, target / file.name)
    shutil.copyfile(run / "config.yaml", target / "run.yaml")
    config = yaml.safe_load((run / "config.yaml").read_text())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (target / "training.jsonl").write_text("".join(json.dumps(_brief(x)) + "\n" for x in lines))
    model: Any = load(target)
    scores = held_out_scores(model)
    (target / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")
    card = _card(target, config, lines, model, scores, machine)
    (target / "README.md").write_text(card)
    return scores


def _card(
    target: Path, config: dict[str, Any], lines: list[dict[str, Any]], model: Any,
    scores: dict[str, Any], machine: str,
) -> str:  # fmt: skip
    spec, train, data = model.spec, config["train"], config["data"]
    rates = [line["clips_per_second"] for line in lines if "clips_per_second" in line]
    clips = train["steps"] * train["batch_size"] * train["accumulation"]
    seconds = clips * sum(1 / rate for rate in rates) / max(1, len(rates))
    weights = sum(file.stat().st_size for file in target.glob("*.safetensors"))
    return CARD.format(
        name=config["name"], recipe=f"{config['name']}.yaml", kind=type(model).__name__,
        sentence="A small WavTokenizer, for demonstrations and tests.",
        parameters=sum(p.numel() for p in model.parameters()) / 1e6, megabytes=weights / 1e6,
        dtype=config["export"]["dtype"], rate=model.sample_rate, token_rate=spec.token_rate,
        bits=spec.bits[0], kbits=sum(spec.bits) * spec.token_rate / 1000,
        code_hash=model.code_hash()[:16], data=_data(data), steps=train["steps"],
        batch=train["batch_size"] * train["accumulation"],
        seconds=data["segment"] / data["sample_rate"], hours=f"{seconds / 60:.0f} minutes",
        machine=machine, sentences=scores["sentences"], total=scores["seconds"],
        codes_used=scores["codes_used"], codebook=spec.vocabulary[0],
        adversarial=_adversarial(lines), stages=_stages(lines),
        rows="\n".join(_row(line) for line in lines if "validation/mel_distance" in line),
        **{name: _number(scores[name]) for name in MEASURES},
    )  # fmt: skip


def _adversarial(lines: list[dict[str, Any]]) -> str:
    """Say from which logged step on a discriminator was trained."""
    steps = [line["step"] for line in lines
             if any(key.startswith("discriminator/") for key in line)]
    return f"act from about step {min(steps)} on" if steps else "were never switched on"


def _stages(lines: list[dict[str, Any]]) -> str:
    """Compare the last scores before the adversarial stage with those at its end."""
    first = min((line["step"] for line in lines
                 if any(key.startswith("discriminator/") for key in line)), default=None)
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
    cells = " | ".join(_number(line.get(f"validation/{name}")) for name in MEASURES)
    return f"| {line['step']} | {cells} |"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _data(data: dict[str, Any]) -> str:
    shares = data.get("mixture") or {data["source"]: 1.0}
    total = sum(shares.values())
    return ", ".join(f"{share / total:.0%} {SPOKEN.get(name, name)}"
                     for name, share in shares.items())


def _brief(line: dict[str, Any]) -> dict[str, Any]:
    """Keep losses, scores and speed, rounded; the card's folder travels in the package."""
    keep = ("step", "loss", "learning_rate", "clips_per_second", "codebook/perplexity")
    return {
        key: round(value, 5) if isinstance(value, float) else value
        for key, value in line.items()
        if key in keep or key.startswith("validation/")
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: RUN TARGET."""
    parser = argparse.ArgumentParser(prog="audio_tok.audio_model_card", description=__doc__)
    parser.add_argument("run", type=Path, help="finished run folder")
    parser.add_argument("target", type=Path, help="folder of the shipped model")
    parser.add_argument("--machine", default="2 CPU cores", help="words for the card's table")
    options = parser.parse_args(arguments)
    try:
        scores = write_model_card(options.run, options.target, machine=options.machine)
    except TesseraError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("  ".join(f"{name} {_number(scores[name])}" for name in MEASURES))
    return 0


if __name__ == "__main__":
    sys.exit(main())
