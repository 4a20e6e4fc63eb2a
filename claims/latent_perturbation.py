"""Robust Latent Matters: training with perturbed latents, and what ranks generated pictures.

``rank`` trains six small tokenizers that differ in codebook, objective and perturbation, and one
generator on the tokens of each, and asks whether the perturbed or the clean reconstruction score
orders the generated ones.  ``pair`` shows what `benchmarks/perturbation_experiment.py` has measured
of longer trainings (2,000 steps on other pictures) for the seeds that it holds; nothing is trained.

A guess scaled from 0.48 CPU seconds a step timed at 24 channels: 5 CPU minutes a row; 18 x 5 = 90.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from claims.benchmark_scripts import benchmark, committed_result, source
from claims.claim import Claim, Finding, Measured, Numbers, Place, Row
from claims.plots import Panel, draw
from claims.small_generators import decoded, drawn, encoded, generator_over
from claims.training import loaded, once, train_tokenizer
from claims.verdicts import by_seed, compared, exceeds, rank_correlation, spread, within

NAME, KINDS = "perturbation_experiment", ("plain", "perturbed")
PERTURBED = {"alpha": 1.0, "beta": 0.5}
COST = 1.5  # of the clean distance, that counts as small: within this share of the plain one
# Codes, objective, perturbed or not: what the six tokenizers differ in.
TOKENIZERS: dict[str, tuple[int, str, bool]] = {
    "plain": (1024, "adversary", False),
    "perturbed": (1024, "adversary", True),
    "256 codes": (256, "adversary", False),
    "4096 codes": (4096, "adversary", False),
    "no adversary": (1024, "structure", False),
    "no adversary, perturbed": (1024, "structure", True),
}
RANK: dict[str, Any] = {
    "side": 32, "channels": 16, "multipliers": [1, 2, 4], "code_dim": 8, "steps": 600, "batch": 32,
    "pictures": 4000, "judged": 500, "alphas": [0.5, 0.9], "deltas": [25, 100],
    "generator": {
        "network": {"width": 96, "layers": 4, "heads": 4, "dropout": 0.0}, "classes": 12,
        "steps": 250, "batch": 64, "warmup": 50, "lr": 1e-3, "ema_decay": 0.99,
    },
}  # fmt: skip
SMALL_RANK = RANK | {
    "side": 16, "channels": 8, "multipliers": [1, 1, 1], "steps": 4, "batch": 4, "pictures": 12,
    "judged": 12, "generator": RANK["generator"] | {
        "network": {"width": 32, "layers": 1, "heads": 2, "dropout": 0.0}, "steps": 2, "batch": 4,
        "warmup": 1,
    },
}  # fmt: skip


def rows(seeds: Sequence[int], small: bool) -> list[Row]:
    """Return the tokenizers of the ranking, then the pairs that the benchmark has measured."""
    names = list(TOKENIZERS)[:3] if small else list(TOKENIZERS)
    found = [
        Row(seed=seed, config=_rank_config(name, small)) for seed in seeds for name in names
    ]
    own = committed_result(NAME).get("senses", {}).get("image")
    if small or own is None:
        return found
    lines = {"plain": None, "perturbed": own["perturbation"]}
    pairs = [
        Row(seed=seed, config={"part": "pair", "kind": kind, "sizes": own["sizes"],
                               "perturbation": lines[kind]})
        for seed in seeds for kind in KINDS
    ]  # fmt: skip
    return found + [row for row in pairs if committed(row) is not None]


def _rank_config(name: str, small: bool) -> dict[str, Any]:
    codes, objective, perturbed = TOKENIZERS[name]
    if small:
        codes = codes // 16
    line = {**PERTURBED, "delta": max(2, round(0.1 * codes))} if perturbed else None
    sizes = (SMALL_RANK if small else RANK) | {"codes": codes, "objective": objective}
    return {"part": "rank", "tokenizer": name, "sizes": sizes, "perturbation": line}


def committed(row: Row) -> tuple[Numbers, str] | None:
    """Return what the benchmark measured of a pair's row."""
    config = row.config
    if config["part"] != "pair":
        return None
    for one in committed_result(NAME)["rows"]:
        if (one["sense"], one["kind"], one["seed"]) == ("image", config["kind"], row.seed):
            return {"scores": one["scores"]}, source(NAME)
    return None


# -- measuring -----------------------------------------------------------------------------------


def measure(row: Row, place: Place) -> Numbers:
    """Train and judge one tokenizer and a generator on its tokens."""
    sizes, line = row.config["sizes"], row.config["perturbation"]
    script = benchmark(NAME)
    pictures, labels = labelled(sizes, place.data)
    values = script.recipe("image", sizes, row.seed, line, _files(sizes, place.data))
    model = loaded(train_tokenizer("image", values, place.scratch / "run"), place.device)
    x = pictures.float().div(127.5).sub(1.0)
    codes = encoded(model, x)
    generator = generator_over(
        model, codes, labels.to(codes.device), sizes["generator"], row.seed
    )
    return _reconstructed(model, sizes) | _generated(model, generator, sizes, row.seed)


def labelled(sizes: Mapping[str, Any], data: Path) -> tuple[Any, Any]:
    """Return training pictures of twelve classes, uint8 (N, 3, S, S), and their labels (N,)."""
    from safetensors.torch import load_file, save_file

    script = benchmark("_labelled_tokens")

    def make(folder: Path) -> None:
        folder.mkdir()
        pixels, labels = script.paintings(sizes["side"], script.TRAIN_SEED, sizes["pictures"])
        save_file({"pixels": pixels, "labels": labels}, folder / "pictures.safetensors")

    folder = once(data / f"classes-{sizes['side']}-{sizes['pictures']}", make)
    found = load_file(folder / "pictures.safetensors")
    return found["pixels"], found["labels"]


def _files(sizes: Mapping[str, Any], data: Path) -> Path:
    """Return a folder of the same pictures as PNG files, for the tokenizer's training."""
    from PIL import Image

    def make(folder: Path) -> None:
        folder.mkdir()
        for index, pixels in enumerate(labelled(sizes, data)[0].permute(0, 2, 3, 1).numpy()):
            Image.fromarray(pixels).save(folder / f"{index:05d}.png", compress_level=1)

    return once(data / f"class-files-{sizes['side']}-{sizes['pictures']}", make)


def _reconstructed(model: Any, sizes: Mapping[str, Any]) -> Numbers:
    """Return the distance of clean and of perturbed decodings (mean over the grid), and PSNR."""
    import torch

    from eval.labelled_pictures import class_scores, real_pictures, seen
    from eval.perturbed_decoding import CLEAN, PerturbationGrid, PerturbedDecoder
    from eval.procedural_distance import NAME
    from tok_core.image_measures import psnr, to_uint8

    codes = sizes["codes"]
    deltas = sorted({max(2, round(delta * codes / 1024)) for delta in sizes["deltas"]})
    grid = PerturbationGrid.product("claims", sizes["alphas"], deltas)
    decoder = PerturbedDecoder(tokenizer=model, grid=grid)
    pictures, labels = real_pictures(sizes["side"], sizes["judged"])
    x = pictures.float().div(127.5).sub(1.0)
    made: dict[str, list[Any]] = {}
    with torch.inference_mode():
        for indices in torch.arange(len(x)).split(50):
            part = x[indices].to(model.device)
            for batch in decoder.decodings(part, indices.tolist()):
                made.setdefault(batch.label, []).append(batch.decoded.cpu())
    reference = seen(pictures)
    distances = {
        label: class_scores(seen(to_uint8(torch.cat(parts))), labels, reference)[NAME]
        for label, parts in made.items()
    }
    clean = distances.pop(CLEAN)
    return {
        "reconstructed": clean, "perturbed": sum(distances.values()) / len(distances),
        "psnr": float(psnr(torch.cat(made[CLEAN]).clamp(-1, 1), x).double().mean()),
    }  # fmt: skip


def _generated(model: Any, generator: Any, sizes: Mapping[str, Any], seed: int) -> Numbers:
    from eval.labelled_pictures import RECOGNISED, class_scores, real_pictures, seen
    from eval.procedural_distance import NAME
    from tok_core.image_measures import to_uint8

    codes, labels = drawn(generator, sizes["judged"], 1.0, seed)
    reference = seen(real_pictures(sizes["side"], sizes["judged"])[0])
    scores = class_scores(seen(to_uint8(decoded(model, codes))), labels, reference)
    return {"generated": scores[NAME], "recognised": scores[RECOGNISED]}


# -- findings ------------------------------------------------------------------------------------


def findings(found: Sequence[Measured]) -> list[Finding]:
    """Return the perturbed score, its cost, the generated score, the benchmark, the ranking."""
    pairs = [row for row in found if row.config["part"] == "pair"]
    rank = [row for row in found if row.config["part"] == "rank"]

    def of(name: str, key: str) -> dict[int, float]:
        return by_seed(rank, lambda row: row.config["tokenizer"] == name,
                       lambda row: float(row.numbers[key]))  # fmt: skip

    def benched(kind: str) -> dict[int, float]:
        return by_seed(pairs, lambda row: row.config["kind"] == kind,
                       lambda row: _distance(row, False))  # fmt: skip

    result = [
        compared(sentence, of("perturbed", key), of("plain", key), lower_is_better=True)
        for sentence, key in (
            ("perturbation training lowers the perturbed score (frechet/procedural-v1)",
             "perturbed"),
            ("it improves the generated score (same generator, same steps)", "generated"),
        )
    ]  # fmt: skip
    result.insert(1, _cost(of("perturbed", "reconstructed"), of("plain", "reconstructed")))
    result.append(compared(
        "the perturbed score of the benchmark's longer trainings falls, too",
        benched("perturbed"), benched("plain"), lower_is_better=True,
    ))  # fmt: skip
    return [*result, _ranking(rank)]


def _distance(row: Measured, clean: bool) -> float:
    scores = row.numbers["scores"]
    own = [v["frechet"] for label, v in scores.items() if (label == "clean") == clean]
    return float(sum(own) / len(own))


def _cost(perturbed: Mapping[int, float], plain: Mapping[int, float]) -> Finding:
    seeds = sorted(perturbed.keys() & plain.keys())
    ratios = [perturbed[seed] / plain[seed] for seed in seeds]
    text = f"clean distance {spread(perturbed[s] for s in seeds)} against " + (
        f"{spread(plain[s] for s in seeds)}, {len(seeds)} seeds"
    )
    return Finding(
        sentence=f"at a small cost of its own codes (at most {COST:g} times the clean distance)",
        numbers=text if seeds else "-", holds=within(ratios, COST),
    )  # fmt: skip


def correlations(rank: Sequence[Measured]) -> dict[int, tuple[float, float]]:
    """Return, by seed with all tokenizers, the correlations of perturbed and clean score."""
    result = {}
    for seed in sorted({row.seed for row in rank}):
        mine = [row.numbers for row in rank if row.seed == seed]
        if len(mine) < len(TOKENIZERS):
            continue
        generated = [row["generated"] for row in mine]
        result[seed] = (
            rank_correlation([row["perturbed"] for row in mine], generated),
            rank_correlation([row["reconstructed"] for row in mine], generated),
        )
    return result


def _ranking(rank: Sequence[Measured]) -> Finding:
    both = [pair for pair in correlations(rank).values() if not any(map(math.isnan, pair))]
    text = (
        f"rank correlation with the generated score {spread(p for p, _ in both)} (perturbed) and "
        f"{spread(c for _, c in both)} (clean), {len(TOKENIZERS)} tokenizers, {len(both)} seeds"
    )
    return Finding(
        sentence="the perturbed score ranks generated pictures better than the clean one",
        numbers=text if both else "-", holds=exceeds([p - c for p, c in both]),
    )  # fmt: skip


def draw_plot(found: Sequence[Measured], path: Path) -> None:
    """Draw the pairs over the settings, and the generated score over both others."""
    pairs = [row for row in found if row.config["part"] == "pair"]
    rank = [row for row in found if row.config["part"] == "rank"]
    labels = list(pairs[0].numbers["scores"]) if pairs else []
    kinds = {
        kind: {float(i): [row.numbers["scores"][label]["frechet"] for row in pairs
                          if row.config["kind"] == kind] for i, label in enumerate(labels)}
        for kind in KINDS
    }  # fmt: skip
    panels = [Panel(title="frechet/procedural-v1 (lower is better)", x="", lines=kinds,
                    ticks={float(i): label for i, label in enumerate(labels)})]  # fmt: skip
    for key in ("perturbed", "reconstructed"):
        points: dict[str, list[tuple[float, float]]] = {}
        for row in rank:
            points.setdefault(row.config["tokenizer"], []).append(
                (row.numbers[key], row.numbers["generated"])
            )
        panels.append(Panel(title="generated score", x=f"{key} score", points=points))
    draw(panels, path)


CLAIM = Claim(
    name="latent_perturbation",
    paper="Qiu et al. 2025, Robust Latent Matters, arXiv 2503.08354",
    claim="Training with perturbed latents lowers the perturbed score (pFID) and improves "
    "generation at a small cost of reconstruction, and pFID ranks generation better than rFID.",
    theirs="RobustTok rFID 1.02, pFID 2.28 (tables of the released repository)",
    setting="Small VQGANs of 32 x 32 pixels with 64 tokens, half of a batch perturbed among a "
    "tenth of the codebook; six tokenizers (three codebook sizes, with and without an adversary, "
    "plain and perturbed) with a small LlamaGen each; 500 pictures judged.",
    minutes=90, rows=rows, measure=measure, findings=findings, draw=draw_plot,
    committed=committed,
    remarks="What was tried: the longer trainings are the benchmark's (2,000 steps). There the "
    "perturbed decoder is better under every setting of seeds 0 and 1; seed 2 has a plain one so "
    "good that it gains under heavy errors alone (nine of ten codes wrong among 100: 6.03 to 4.58) "
    "and loses under light ones, so the mean over all settings does not improve at every seed. "
    "Without an adversary the distance does not improve (`benchmarks/perturbation_scan.py`). The "
    "short trainings here (600 steps, the last 450 with the adversary) have not learnt enough for "
    "a gain: perturbing lowers what errors cost (perturbed minus clean distance, 1.2 on average "
    "against 2.8), but costs more of the clean distance than that. The ranking is of six "
    "tokenizers whose generated scores lie close together, under generators that train for 250 "
    "steps: at every seed the perturbed score orders them better than the clean one, neither well.",
)  # fmt: skip
