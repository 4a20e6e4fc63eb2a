"""Turn a finished run into a shipped model with its card.

    python -m vision_tok.model_card runs/one-d-piece-tiny assets/models/one-d-piece-tiny
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
| input | {size} x {size} pixels, any prefix of {tokens} tokens of {bits} bits |
| code hash | `{code_hash}` |
| trained on | {data} |
| steps | {steps} of {batch} pictures, {hours} on {machine} |
| licence | Apache-2.0; photographs as listed in `assets/images/LICENSES.md` |

Reproduce it (the run folder also keeps every metric):

    accelerate launch -m vision_tok.train --config assets/configs/{recipe} --out runs/{name}
    python -m vision_tok.model_card runs/{name} assets/models/{name}

## Held-out scores

Means over {tiles} whole {size} x {size} tiles, cut edge to edge from the photographs chelsea,
coffee and flower at their own resolution; none of the three was ever trained on. The best flat
colour per tile scores {flat:.2f} dB. The full budget uses {codes_used} of {codebook} codes.

| tokens | bytes | bits per pixel | PSNR (dB) | SSIM |
|---:|---:|---:|---:|---:|
{rows}

## Limits

It has seen a dozen photographs and procedural pictures: good enough to learn the suite with, to
test on and to compare techniques, not to compress pictures in earnest or to build a product on.
"""


def write_model_card(run: Path, target: Path, *, machine: str) -> dict[str, Any]:
    """Copy ``run/model`` to ``target``, score it on the held-out tiles and write its README.md.

    Args:
        run: a finished run folder of `vision_tok.train`.
        target: folder to fill; an old model there is replaced.
        machine: words for the table, such as ``2 CPU cores``.

    Returns:
        The scores, as written to ``target/scores.json``.

    Raises:
        TesseraError: the run has not finished.
    """
    import yaml

    from tok_core.loading import load
    from vision_tok.held_out import held_out_scores

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
    bits, size = model.spec.bits[0], scores["tile_size"]
    rows = [
        f"| {k} | {-(-int(k) * bits // 8)} | {int(k) * bits / size**2:.3f} | {v['psnr']:.2f} "
        f"| {v['ssim']:.3f} |"
        for k, v in scores["budgets"].items()
    ]
    train = config["train"]
    rates = [line["images_per_second"] for line in lines if "images_per_second" in line]
    seconds = train["steps"] * train["batch_size"] * sum(1 / r for r in rates) / len(rates)
    weights = sum(file.stat().st_size for file in target.glob("*.safetensors"))
    return CARD.format(
        name=config["name"], recipe=f"{config['name']}.yaml", kind=type(model).__name__,
        sentence="A small One-D-Piece with grid-seeded latents, for demonstrations and tests.",
        parameters=sum(p.numel() for p in model.parameters()) / 1e6, megabytes=weights / 1e6,
        dtype=config["export"]["dtype"], size=size, tokens=model.spec.axes[0].size, bits=bits,
        code_hash=model.code_hash()[:16], data=_data(config["data"]), steps=train["steps"],
        batch=train["batch_size"], hours=f"{seconds / 60:.0f} minutes", machine=machine,
        tiles=scores["tiles"], flat=scores["flat_colour_psnr"], codes_used=scores["codes_used"],
        codebook=model.spec.vocabulary[0], rows="\n".join(rows),
    )  # fmt: skip


def _data(data: dict[str, Any]) -> str:
    shares = data.get("mixture") or {data["source"]: 1.0}
    words = {"photographs": "crops of the packaged training photographs",
             "natural": "procedural pictures (`natural`)"}
    return ", ".join(f"{share:.0%} {words.get(name, name)}" for name, share in shares.items())


def _brief(line: dict[str, Any]) -> dict[str, Any]:
    """Keep losses, scores and speed, rounded; the card's folder travels in the package."""
    keep = ("step", "loss", "learning_rate", "images_per_second", "codebook/perplexity")
    return {
        key: round(value, 5) if isinstance(value, float) else value
        for key, value in line.items()
        if key in keep or key.startswith("validation/")
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: RUN TARGET."""
    parser = argparse.ArgumentParser(prog="vision_tok.model_card", description=__doc__)
    parser.add_argument("run", type=Path, help="finished run folder")
    parser.add_argument("target", type=Path, help="folder of the shipped model")
    parser.add_argument("--machine", default="2 CPU cores", help="words for the card's table")
    options = parser.parse_args(arguments)
    try:
        scores = write_model_card(options.run, options.target, machine=options.machine)
    except TesseraError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for budget, values in scores["budgets"].items():
        print(f"{budget:>4} tokens  {values['psnr']:.2f} dB  SSIM {values['ssim']:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
