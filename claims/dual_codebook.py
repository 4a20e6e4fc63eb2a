"""TokenFlow: two codebooks under one index know more of a picture at the same number of bits.

Rows are the runs of `benchmarks/dual_codebook_probe.py`: tiny tokenizers of 16 x 16 pixels, the
linear probe on the mean of their tokens.

Estimate: 4 to 5 CPU minutes a row; the benchmark has committed eleven of the twelve.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from claims.benchmark_scripts import benchmark, committed_result, source
from claims.claim import Claim, Finding, Measured, Numbers, Place, Row
from claims.plots import by_name, draw
from claims.training import once
from claims.verdicts import by_seed, compared, spread, within

NAME = "dual_codebook_probe"
DECIBELS = 0.5  # of reconstruction that count as similar
SMALLER = {"codes": 32, "width": 32, "steps": 10, "batch": 8, "painted": 40, "probed": 240}


def rows(seeds: Sequence[int], small: bool) -> list[Row]:
    """Return every kind of every seed."""
    script = benchmark(NAME)
    sizes = script.FULL | (SMALLER if small else {})
    kinds = ("pixel", "descriptors") if small else script.KINDS
    return [
        Row(seed=seed, config={"kind": kind, "sizes": sizes}) for seed in seeds for kind in kinds
    ]


def committed(row: Row) -> tuple[Numbers, str] | None:
    """Return the benchmark's numbers of a row at the same sizes."""
    found = committed_result(NAME)
    if not found or found["sizes"] != row.config["sizes"]:
        return None
    for one in found["runs"]:
        if (one["kind"], one["seed"]) == (row.config["kind"], row.seed):
            return {"psnr": one["psnr"], "accuracy": one["accuracy"]}, source(NAME)
    return None


def measure(row: Row, place: Place) -> Numbers:
    """Train one tokenizer and probe its tokens."""
    script, sizes = benchmark(NAME), row.config["sizes"]
    data = once(
        place.data / f"dual-{row.seed}-{sizes['painted']}",
        lambda folder: script.painted(row.seed, sizes["painted"], folder),
    )
    found = script.run(row.config["kind"], row.seed, sizes, data, place.scratch)
    return {"psnr": found["psnr"], "accuracy": found["accuracy"]}


def findings(found: Sequence[Measured]) -> list[Finding]:
    """Return accuracy against the pixel codebook alone and without a teacher, and its price."""

    def of(kind: str, key: str) -> dict[int, float]:
        def number(row: Measured) -> float:
            return float(
                row.numbers["psnr"] if key == "psnr" else 100 * row.numbers["accuracy"][key]
            )

        return by_seed(found, lambda row: row.config["kind"] == kind, number)

    taught, pixel, names = of("descriptors", "all"), of("pixel", "all"), ("dual", "pixel only")
    ours, theirs = of("descriptors", "psnr"), of("pixel", "psnr")
    seeds = sorted(ours.keys() & theirs.keys())
    lost = [theirs[seed] - ours[seed] for seed in seeds]
    return [
        compared("the probe names more from dual tokens than from pixel tokens (label-free "
                 "teacher)", taught, pixel, unit=" %", names=names, digits=1),
        Finding(
            sentence=f"at similar reconstruction (within {DECIBELS:g} dB)",
            numbers=f"{spread(lost)} dB lost, {len(seeds)} seeds" if seeds else "-",
            holds=within(lost, DECIBELS),
        ),
        compared("the teacher makes the difference, not the second codebook", taught,
                 of("untaught", "all"), unit=" %", names=("taught", "untaught"), digits=1),
        compared("a teacher that has seen labels (the packaged classifier) tells more",
                 of("classifier", "all"), pixel, unit=" %", names=names, digits=1),
    ]  # fmt: skip


def draw_plot(found: Sequence[Measured], path: Path) -> None:
    """Draw accuracy and PSNR by kind."""
    both = [(row.config["kind"], row.numbers) for row in found]
    draw([
        by_name("probe accuracy, all streams", [(kind, n["accuracy"]["all"]) for kind, n in both]),
        by_name("PSNR (dB)", [(kind, n["psnr"]) for kind, n in both]),
    ], path)  # fmt: skip


CLAIM = Claim(
    name="dual_codebook",
    paper="Qu et al. 2024, TokenFlow, arXiv 2412.03069",
    claim="At the same number of indices, dual codebooks understand more than a pixel codebook at "
    "similar reconstruction.",
    theirs="understanding average 64.0 against 62.9 of LLaVA-1.5-13B with continuous features "
    "(TokenFlow-XL, a transcription of the paper's tables)",
    setting="16 tokens of 9 bits from 16 x 16 pixels; a VQGAN (pixel), a TokenFlow without a "
    "teacher (untaught), with oriented gradients (descriptors) and with the packaged classifier; "
    "a linear probe of twelve procedural classes, chance 8.3 %.",
    minutes=5, rows=rows, measure=measure, findings=findings, draw=draw_plot,
    committed=committed,
)  # fmt: skip
