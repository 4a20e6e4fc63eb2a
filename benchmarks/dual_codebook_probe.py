"""Do the tokens of a dual codebook understand more? Paired runs, with and without a teacher.

    python benchmarks/dual_codebook_probe.py                    # what is missing, then the table
    python benchmarks/dual_codebook_probe.py --seeds 3,4        # further pairs
    python benchmarks/dual_codebook_probe.py --table            # the table of what is there

For every seed each kind of tokenizer sees the same pictures (without labels) in the same order for
the same number of steps, with the same convolutional autoencoder, grid, number of codes, kind of
quantizer (unit vectors) and rate of learning, so the same number of bits per picture:

    pixel        a VQGAN: pictures alone
    untaught     a TokenFlow without a teacher: the second stream is there and learns nothing
    descriptors  a TokenFlow taught oriented gradients (`gradient_teacher`), which know no labels
    classifier   a TokenFlow taught by the packaged classifier, trained on labels of these classes

Each kind has one setting, the same in everything they share; nothing is chosen by the probe's
pictures, which have a seed of their own.  `eval probe` trains a linear classifier on the mean of
the token features, stream by stream.  Every finished run is kept in
benchmarks/results/dual_codebook_probe.json, so a stopped benchmark goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
RESULTS = Path(__file__).parent / "results" / "dual_codebook_probe.json"
KINDS = ("pixel", "untaught", "descriptors", "classifier")
STREAMS = ("semantic", "pixel", "all")
TRAINING_SEED, PROBE_SEED = 1000, 9000  # of the pictures; the classifier's own were of seed 0
SIDE, GRID = 16, 4
FULL: dict[str, Any] = {
    "channels": 8, "multipliers": [1, 1, 2], "codes": 512, "width": 64, "steps": 500, "batch": 32,
    "painted": 4000, "probed": 2400,
}  # fmt: skip
CLASSIFIER: dict[str, Any] = {
    "kind": "classifier", "weights": "assets/classifiers/procedural-v1",
    "strides": [2, 1, 2, 2, 1], "taps": [4], "side": 64,
}  # fmt: skip


def gradient_teacher(folder: Path, angles: int = 8) -> dict[str, Any]:
    """Write a teacher that was never trained: strengths of oriented gradients, as HOG counts them.

        picture --Gabor pairs of 2 scales--> +-responses --1x1 sum--> |response|, averaged per cell

    Returns:
        The options of a `vision_tok.semantic_teacher.TeacherOptions`.

    Source: Dalal and Triggs 2005, Histograms of Oriented Gradients for Human Detection.
    """
    import torch
    from safetensors.torch import save_file

    reach = torch.arange(-5, 6.0)
    y, x = torch.meshgrid(reach, reach, indexing="ij")
    filters = []
    for wavelength in (4.0, 8.0):
        for angle in torch.arange(angles) * (math.pi / angles):
            along = x * angle.cos() + y * angle.sin()
            envelope = torch.exp(-(x.square() + y.square()) / (2 * (wavelength / 2) ** 2))
            for phase in (0.0, math.pi / 2):
                wave = envelope * torch.cos(2 * math.pi * along / wavelength + phase)
                wave = wave - envelope * (wave.sum() / envelope.sum())  # blind to plain light
                filters.append(wave / wave.abs().sum())
    bank = torch.stack(filters)
    grey = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    both = torch.cat([bank, -bank])[:, None] * grey
    count = len(bank)
    save_file({
        "convolutions.0.weight": both.contiguous(), "convolutions.0.bias": torch.zeros(2 * count),
        "convolutions.1.weight": torch.eye(count).repeat(1, 2)[..., None, None].contiguous(),
        "convolutions.1.bias": torch.zeros(count),
    }, folder / "model.safetensors")  # fmt: skip
    return {"kind": "classifier", "weights": str(folder), "strides": [1, 1], "side": SIDE}


def teacher_of(kind: str, folder: Path) -> dict[str, Any] | None:
    """Return the options of a kind's teacher, None for kinds without one."""
    if kind == "classifier":
        return CLASSIFIER
    if kind != "descriptors":
        return None
    folder.mkdir(parents=True, exist_ok=True)
    return gradient_teacher(folder)


def recipe(
    kind: str, seed: int, sizes: dict[str, Any], data: Path, teacher: dict[str, Any] | None
) -> dict[str, Any]:
    """Return the run config of one tokenizer as a plain mapping."""
    steps, width = sizes["steps"], sizes["width"]
    quantizer: dict[str, Any] = {"kmeans_start": True, "dead_code_every": 10}
    shared: dict[str, Any] = {
        "encoder_sizes": {"channels": sizes["channels"], "multipliers": sizes["multipliers"],
                          "res_blocks": 1},
        "z_channels": 32, "norm_groups": 8, "codebook_size": sizes["codes"], "image_size": SIDE,
    }  # fmt: skip
    model: dict[str, Any] = {"class": "VQGAN", "config": shared | {
        "code_dim": 8, "l2_normalize": True, "quantizer_options": quantizer,
    }}  # fmt: skip
    objective: dict[str, Any] = {"picture_range": "signed", "l2_weight": 1.0}
    if kind != "pixel":
        tower = {"patch_size": SIDE // GRID, "grid": GRID, "width": width, "layers": 2, "heads": 4,
                 "mlp_width": 2 * width, "pre_norm": True}  # fmt: skip
        model = {"class": "TokenFlow", "config": shared | {
            "scales": [GRID], "semantic_dim": 32, "pixel_dim": 8,
            "semantic_encoder": {"sizes": tower},
            "semantic_decoder": {"width": width, "target_dim": 128 if kind == "classifier" else 32,
                                 "depth": 1, "heads": 4},
            "quantizer_options": quantizer,
        }}  # fmt: skip
    if teacher is not None:
        objective |= {"semantic_weight": 1.0, "semantic_teacher": teacher}
    return {
        "name": f"{kind}-{seed}", "model": model, "objective": objective,
        "data": {"source": "folder", "path": str(data), "size": SIDE, "seed": seed},
        "optimizer": {"lr": 1e-3, "betas": [0.9, 0.95], "weight_decay": 1e-4},
        "schedule": {"warmup": 30, "end_lr": 1e-4},
        "train": {"steps": steps, "batch_size": sizes["batch"], "seed": seed, "ema_decay": 0.0},
        "log": {"every": max(1, steps // 10), "validate_every": 0, "pictures_every": 0,
                "save_every": 0, "tracker": "none"},
        "validation_images": 0,
    }  # fmt: skip


def painted(seed: int, count: int, folder: Path) -> Path:
    """Paint the training pictures of a seed as PNG files without their labels."""
    from PIL import Image

    from tok_core.procedural_images import ProceduralClasses

    folder.mkdir(parents=True, exist_ok=True)
    source = ProceduralClasses(SIDE, TRAINING_SEED + seed)
    for index in range(count):
        Image.fromarray(source.pixels(index)[0]).save(folder / f"{index:05d}.png")
    return folder


def run(kind: str, seed: int, sizes: dict[str, Any], data: Path, place: Path) -> dict[str, Any]:
    """Train one tokenizer and judge it on pictures that nothing was trained or tuned on."""
    from tok_core.run_config import from_mapping
    from vision_tok.train import ImageRun, train

    start = time.perf_counter()
    teacher = teacher_of(kind, place / "teacher")
    config = from_mapping(ImageRun, recipe(kind, seed, sizes, data, teacher))
    model = train(config, place / f"{kind}-{seed}")
    assert model is not None
    seconds = time.perf_counter() - start
    return {
        "kind": kind, "seed": seed, "psnr": psnr(model), "seconds": round(seconds, 1),
        "accuracy": probed(model, sizes, place / f"{kind}-{seed}.json"),
    }  # fmt: skip


def probed(model: Path, sizes: dict[str, Any], out: Path) -> dict[str, float]:
    """Run ``eval probe``; return the accuracy by stream."""
    from eval.cli import run as judge

    words = ["probe", "--tokenizer", f"it={model}", "--data", "procedural", "--size", str(SIDE),
             "--count", str(sizes["probed"]), "--test-share", "0.5", "--seed", str(PROBE_SEED),
             "--out", str(out), "--force", "--batch-size", "100"]  # fmt: skip
    code = judge(words)
    if code:
        raise SystemExit(code)
    scores = json.loads(out.read_text())["scores"]
    return {s["metric"].removeprefix("probe/"): s["value"] for s in scores}


def psnr(folder: Path, count: int = 200) -> float:
    """Return the mean PSNR in dB of a model on pictures of the probe's seed."""
    import torch

    from tok_core.image_measures import psnr as decibels
    from tok_core.loading import load
    from tok_core.procedural_images import ProceduralClasses

    model, source = load(folder), ProceduralClasses(SIDE, PROBE_SEED)
    x = torch.stack([source[i][0] for i in range(count)])
    with torch.inference_mode():
        made = torch.cat([model.decode(model.encode(part)) for part in x.split(50)])
    return float(decibels(made, x).double().mean())


def table(runs: list[dict[str, Any]]) -> str:
    """Return the table: mean over the seeds and, behind +-, the standard deviation."""
    lines = ["| tokenizer | seeds | semantic | pixel | all | PSNR dB |", "|---" + "|---:" * 5 + "|"]
    for kind in KINDS:
        own = [one for one in runs if one["kind"] == kind]
        if own:
            cells = [_cell([100 * one["accuracy"].get(s, math.nan) for one in own], "%")
                     for s in STREAMS]  # fmt: skip
            cells.append(_cell([one["psnr"] for one in own], ""))
            lines.append(f"| {kind} | {len(own)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(values: list[float], unit: str) -> str:
    if math.isnan(values[0]):
        return "-"
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{unit}{spread}"


def main() -> None:
    """Run what is missing, keep each result at once, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0,1,2", help="of the pairs")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--table", action="store_true", help="print the table and run nothing")
    options = parser.parse_args()
    found: dict[str, Any] = {"sizes": FULL, "grid": GRID, "side": SIDE, "classes": 12}
    if RESULTS.exists():
        found = json.loads(RESULTS.read_text())
        if found["sizes"] != FULL:
            raise SystemExit(f"{RESULTS} holds runs of other sizes; move it away to start anew.")
    runs = found.setdefault("runs", [])
    done = {(one["kind"], one["seed"]) for one in runs}
    for seed in [] if options.table else map(int, options.seeds.split(",")):
        missing = [kind for kind in options.kinds.split(",") if (kind, seed) not in done]
        if not missing:
            continue
        with tempfile.TemporaryDirectory() as place:
            data = painted(seed, FULL["painted"], Path(place) / "pictures")
            for kind in missing:
                runs.append(run(kind, seed, FULL, data, Path(place)))
                RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(table(runs))


if __name__ == "__main__":
    main()
