"""Turn a finished run into a shipped model with its card.

    python -m vision_tok.model_card runs/one-d-piece-tiny assets/models/one-d-piece-tiny
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tok_core.token_spec import TokenSpec
from tok_core.training.model_card import FinishedRun, card_command, ship_run
from vision_tok.legal_lengths import legal_lengths, native_grid

CARD = """\
# {folder}

{sentence}

| | |
|---|---|
| class | `{kind}`, {parameters:.2f} M parameters, {megabytes:.1f} MB on disk ({dtype}) |
| input | {size} x {size} pixels, {tokens} of {bits} bits |
| code hash | `{code_hash}` |
| trained on | {data} |
| steps | {steps} of {batch} pictures, {hours} on {machine} |
| licence | Apache-2.0; photographs as listed in `assets/images/LICENSES.md` |

Reproduce it (the run folder also keeps every metric):

    accelerate launch -m vision_tok.train --config assets/configs/{recipe} --out runs/{name}
    python -m vision_tok.model_card runs/{name} assets/models/{folder}

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
SENTENCES = {
    "OneDPiece": "A small One-D-Piece with grid-seeded latents, for demonstrations and tests.",
    "TokenBridgeTokenizer": "A small KL autoencoder with TokenBridge's levels over its latents, "
    "calibrated on its training data, for demonstrations and tests.",
    "VQGAN": "A small VQGAN trained for PSNR, for demonstrations and tests.",
}
SHOWN = {"photographs": "crops of the packaged training photographs",
         "natural": "procedural pictures (`natural`)"}  # fmt: skip


def write_model_card(run: Path, target: Path, *, machine: str) -> dict[str, Any]:
    """Copy ``run/model`` to ``target``, score it on the held-out tiles and write its README.md.

    Of a continuous autoencoder the tokenizer over it is shipped, calibrated on the run's own data.

    Args:
        run: a finished run folder of `vision_tok.train`.
        target: folder to fill; an old model there is replaced.
        machine: words for the table, such as ``2 CPU cores``.

    Returns:
        The scores, as written to ``target/scores.json``.

    Raises:
        TesseraError: the run has not finished.
    """
    from tok_core.loading import load
    from tok_core.run_config import load_config
    from vision_tok.calibrate import picture_batches, save_as
    from vision_tok.held_out import held_out_scores
    from vision_tok.kl_autoencoder import KLAutoencoder
    from vision_tok.token_bridge import TokenBridgeTokenizer
    from vision_tok.train import ImageRun

    finished = ship_run(run, target, units="images")
    if isinstance(finished.model, KLAutoencoder):  # which has no tokens yet
        data = load_config(ImageRun, run / "config.yaml").data
        tokenizer = TokenBridgeTokenizer.calibrated(finished.model, picture_batches(data))
        save_as(tokenizer, target, finished.config["export"]["dtype"])
        finished = dataclasses.replace(finished, model=load(target))
    scores = held_out_scores(finished.model)
    finished.finish(scores, _card(finished, scores, machine))
    return scores


def _card(finished: FinishedRun, scores: dict[str, Any], machine: str) -> str:
    spec, size = finished.model.spec, scores["tile_size"]
    bits = spec.bits[0]
    rows = [
        f"| {k} | {-(-int(k) * bits // 8)} | {int(k) * bits / size**2:.3f} | {v['psnr']:.2f} "
        f"| {v['ssim']:.3f} |"
        for k, v in scores["budgets"].items()
    ]
    return CARD.format(
        **finished.facts(), folder=finished.target.name, data=finished.data(SHOWN), machine=machine,
        sentence=SENTENCES.get(
            kind := type(finished.model).__name__, f"A small {kind}, for demonstrations and tests."
        ),
        size=size, tokens=_tokens(spec), bits=bits,
        tiles=scores["tiles"], flat=scores["flat_colour_psnr"], codes_used=scores["codes_used"],
        codebook=spec.vocabulary[0], rows="\n".join(rows),
    )  # fmt: skip


def _tokens(spec: TokenSpec) -> str:
    """Return the tokens of one picture in words."""
    full = legal_lengths(spec)[-1]
    if spec.scales is not None:
        return f"{full} tokens on {len(spec.scales)} scales, of which the last may be left out,"
    if any(axis.name == "row" for axis in spec.axes):
        sides = [*native_grid(spec), *([spec.factors] if spec.factors > 1 else [])]
        return f"{' x '.join(map(str, sides))} tokens"
    return f"any prefix of {full} tokens"


def _show(scores: dict[str, Any]) -> str:
    return "\n".join(
        f"{budget:>4} tokens  {values['psnr']:.2f} dB  SSIM {values['ssim']:.3f}"
        for budget, values in scores["budgets"].items()
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: RUN TARGET."""
    return card_command("vision_tok.model_card", write_model_card, _show, arguments)


if __name__ == "__main__":
    sys.exit(main())
