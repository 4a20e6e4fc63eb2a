"""TokenBridge: latents after training quantized by dimension, and the head that draws them.

``levels`` judges the shipped continuous autoencoder at 1 to 8 bits on unseen pictures
(`benchmarks/dimension_wise_levels.py`; a seed is another set of pictures), ``heads`` trains a
generator with an autoregressive and with a parallel head (`benchmarks/token_bridge_heads.py`).

Estimate: levels 3 CPU minutes a row (the first is the benchmark's), heads 7; 2 x 3 + 6 x 7 = 48.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from claims.benchmark_scripts import benchmark, committed_result, holds_all, row_of, source
from claims.claim import Claim, Finding, Measured, Numbers, Place, Row
from claims.plots import Panel, by_name, draw
from claims.verdicts import both, by_seed, compared, exceeds, spread, within

BITS, DECIBELS, SHARE = 6, 0.1, 0.05  # equal: within so many dB and this share of the distance
FRECHET = "frechet/procedural-v1"
LEVELS, HEADS = "dimension_wise_levels", "token_bridge_heads"  # benchmarks
HEAD_SIZES = {"steps": 1200, "batch": 16, "judged": 300, "pictures": 4800}
SMALL_HEADS = {"steps": 2, "batch": 2, "judged": 4, "pictures": 12}


def rows(seeds: Sequence[int], small: bool) -> list[Row]:
    """Return the levels of every seed, then both heads of every seed."""
    script = benchmark(LEVELS)
    levels = {"part": "levels", "model": script.MODEL, "pictures": 6 if small else 600,
              "settings": script.settings()}  # fmt: skip
    found = [Row(seed=seed, config=levels) for seed in seeds]
    sizes = SMALL_HEADS if small else _head_sizes(seeds)
    return found + [
        Row(seed=seed, config={"part": "heads", "head": head, "sizes": sizes})
        for seed in seeds for head in benchmark(HEADS).HEADS
    ]  # fmt: skip


def _head_sizes(seeds: Sequence[int]) -> dict[str, Any]:
    script, found = benchmark(HEADS), committed_result(HEADS)
    if found and holds_all(found, "head", script.HEADS, seeds):
        return {name: found[name] for name in HEAD_SIZES}
    return dict(HEAD_SIZES)


def committed(row: Row) -> tuple[Numbers, str] | None:
    """Return a benchmark's numbers of a row at the same sizes."""
    config = row.config
    if config["part"] == "levels":
        found = committed_result(LEVELS)
        same = found and found["pictures"] == config["pictures"] and row.seed == 0
        if not same or [_setting(one) for one in found["rows"]] != config["settings"]:
            return None
        return {"rows": found["rows"]}, source(LEVELS)
    found = committed_result(HEADS)
    if not found or any(found.get(name) != value for name, value in config["sizes"].items()):
        return None
    one = row_of(found, head=config["head"], seed=row.seed)
    if one is None:
        return None
    return {k: v for k, v in one.items() if k not in ("head", "seed")}, source(HEADS)


def _setting(one: Any) -> dict[str, Any]:
    return {"bits": one["bits"], "range": one["range"]}


def measure(row: Row, place: Place) -> Numbers:
    """Judge all numbers of bits on a seed's pictures, or train one head."""
    config = row.config
    if config["part"] == "levels":
        count = config["pictures"]
        script = benchmark(LEVELS)
        return {"rows": script.measure(count, place.device, start=2 * count * row.seed)}
    script, sizes = benchmark(HEADS), config["sizes"]
    options = argparse.Namespace(
        **sizes, workers=0,
        tokens=script.tokenized(sizes["pictures"], sizes["judged"], place.data / HEADS),
    )  # fmt: skip
    model, scores = script.trained(config["head"], row.seed, options, place.scratch / "run")
    together = 100 if place.device == "cuda" else 30
    quality, _ = script.judged(model, options.tokens / "tokenizer", sizes["judged"], together)
    return {**scores, **quality}


def findings(found: Sequence[Measured]) -> list[Finding]:
    """Return equality from six bits on, the loss below, and the heads."""
    levels = [row for row in found if row.config["part"] == "levels"]
    heads = [row for row in found if row.config["part"] == "heads"]

    def of(head: str, key: str) -> dict[int, float]:
        return by_seed(heads, lambda row: row.config["head"] == head,
                       lambda row: float(row.numbers[key]))  # fmt: skip

    return [
        _equal(levels),
        _below(levels),
        *(compared(sentence, of("autoregressive", key), of("parallel", key), lower_is_better=True,
                   names=("autoregressive", "parallel"))
          for sentence, key in (
              ("the autoregressive head loses less than the parallel one (nats per code of unseen "
               "pictures, equal steps)", "loss"),
              (f"and draws better pictures ({FRECHET})", FRECHET),
          )),
    ]  # fmt: skip


def at(row: Measured, bits: int | None, key: str) -> float:
    """Return a number of a levels row at the calibrated range."""
    [value] = [one[key] for one in row.numbers["rows"]
               if one["bits"] == bits and one["range"] is None]  # fmt: skip
    return float(value)


def _equal(levels: Sequence[Measured]) -> Finding:
    lost = [at(row, None, "psnr") - at(row, BITS, "psnr") for row in levels]
    worse = [abs(at(row, BITS, "frechet") / at(row, None, "frechet") - 1) for row in levels]
    text = (
        f"{spread(at(row, BITS, 'psnr') for row in levels)} dB against "
        f"{spread(at(row, None, 'psnr') for row in levels)}, frechet "
        f"{spread(at(row, BITS, 'frechet') for row in levels)} against "
        f"{spread(at(row, None, 'frechet') for row in levels)}, {len(levels)} sets of pictures; "
        f"{BITS} bits lose {_lost(levels, BITS)} dB, {BITS + 1} bits {_lost(levels, BITS + 1)}"
    )
    sentence = (
        f"{BITS} bits equal the continuous latents (within {DECIBELS:g} dB and {SHARE:.0%} of the "
        "distance)"
    )
    return Finding(sentence=sentence, numbers=text if levels else "-",
                   holds=both(within(lost, DECIBELS), within(worse, SHARE)))  # fmt: skip


def _lost(levels: Sequence[Measured], bits: int) -> str:
    return ", ".join(f"{at(row, None, 'psnr') - at(row, bits, 'psnr'):.3f}" for row in levels)


def _below(levels: Sequence[Measured]) -> Finding:
    lost = [at(row, None, "psnr") - at(row, 3, "psnr") for row in levels]
    text = f"3 bits lose {spread(lost)} dB, 4 bits " + (
        f"{spread(at(row, None, 'psnr') - at(row, 4, 'psnr') for row in levels)} dB"
    )
    return Finding(sentence=f"3 bits do not (they lose more than {DECIBELS:g} dB)",
                   numbers=text if levels else "-", holds=exceeds(lost, DECIBELS))  # fmt: skip


def draw_plot(found: Sequence[Measured], path: Path) -> None:
    """Draw PSNR and distance over bits, and the heads."""
    levels = [row for row in found if row.config["part"] == "levels"]
    panels = []
    for key, title in (("psnr", "PSNR (dB)"), ("frechet", FRECHET)):
        bits = {float(b): [at(row, b, key) for row in levels] for b in range(1, 9)}
        flat = [at(row, None, key) for row in levels]
        panels.append(Panel(title=title, x="bits per dimension", lines={"quantized": bits},
                            flat={"continuous": fmean(flat)} if flat else None))  # fmt: skip
    heads = [(row.config["head"], row.numbers[FRECHET])
             for row in found if row.config["part"] == "heads"]  # fmt: skip
    if heads:
        panels.append(by_name(f"{FRECHET} of samples (lower is better)", heads, x="head"))
    draw(panels, path)


CLAIM = Claim(
    name="dimension_wise",
    paper="Wang et al. 2025, TokenBridge, arXiv 2503.16430",
    claim="Dimension-wise quantization after training equals the continuous latents from about 6 "
    "bits, and its tokens need an autoregressive head.",
    theirs="rFID 1.11 at 6 bits and continuous, 3.69 at 3 bits (table 1); gFID 1.94 autoregressive "
    "against 15.7 parallel (table 3)",
    setting="The shipped KL autoencoder of 64 x 64 pixels, 600 unseen pictures a set; the tiny "
    "TokenBridge generator with both heads on the same pictures of 32 x 32 in the same order, at 4 "
    "bits.",
    minutes=48, rows=rows, measure=measure, findings=findings, draw=draw_plot, committed=committed,
    remarks="The limit of 0.1 dB was set before anything was measured: 6 bits miss it by a hair on "
    "two of three sets of pictures, 7 bits lose a third of it. Tried before for the heads: 64 x 64 "
    "pixels at 6 bits, 300 steps of 16 (both heads a little better than counting codes), and 1,000 "
    "steps of 4 at 4 bits; the samples are coloured patches either way, so `far worse` shows in "
    "the loss and not yet to the eye.",
)  # fmt: skip
