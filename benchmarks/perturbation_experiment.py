r"""Does training with latent perturbation make a decoder bear wrong codes, and what does it cost?

    python benchmarks/perturbation_experiment.py             # table, JSON and plot in results/
    python benchmarks/perturbation_experiment.py --sense audio --seeds 0 1 2 3
    python benchmarks/perturbation_experiment.py --small     # a try, nothing is written

The same small tokenizer is trained twice per seed, on the same data in the same order for the same
steps, with and without one line in its recipe.  Then both are judged on unseen data, decoding their
own codes and codes of which a share alpha was drawn anew among the delta nearest:

    pictures   a VQGAN with an adversary; frechet/procedural-v1 (lower is better) and PSNR
    sound      a WavTokenizer; mel distance (lower is better) and STOI

Half of the pictures of a batch are perturbed, a quarter of the sounds, among a tenth of the
codebook.  `perturbation_scan.py` shows what other strengths and losses do, and why the pictures
need an adversary.

Expected: clean reconstructions slightly worse, perturbed ones clearly better.  Every judged model
is kept in the JSON at once; a second call goes on where the first was stopped, as long as sizes and
strengths are the same (--force begins again).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from _measure import keep

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
RESULTS = Path(__file__).parent / "results" / "perturbation_experiment.json"
KINDS = ("plain", "perturbed")
TRAINING_SEED = 7  # of the data; what judges has seed 0
FULL: dict[str, dict[str, Any]] = {
    "image": {
        "side": 32, "channels": 32, "multipliers": [1, 2, 4], "code_dim": 8, "codes": 1024,
        "steps": 2000, "batch": 32, "judged": 600, "pictures": 12000, "objective": "adversary",
    },
    "audio": {
        "rate": 16000, "strides": [5, 4, 4, 2], "encoder_width": 16, "latent_dim": 16,
        "codes": 1024, "width": 160, "hidden": 480, "layers": 4, "segment": 8000,
        "steps": 800, "batch": 16, "judged": 24, "sentences": 400,
    },
}  # fmt: skip
SMALL: dict[str, dict[str, Any]] = {
    "image": FULL["image"] | {
        "side": 16, "channels": 8, "multipliers": [1, 1, 1], "codes": 64, "steps": 4, "batch": 10,
        "judged": 130, "pictures": 40,
    },
    "audio": FULL["audio"] | {
        "encoder_width": 4, "codes": 64, "width": 16, "hidden": 16, "layers": 1, "segment": 4000,
        "steps": 4, "batch": 10, "judged": 2, "sentences": 4,
    },
}  # fmt: skip
BETAS = {"image": 0.5, "audio": 0.25}
OBJECTIVES = ("pixels", "structure", "adversary")
# Shares of replaced codes and neighbours that judge; delta counts per 1024 codes.
ALPHAS, DELTAS = (0.25, 0.5, 0.9), (25, 100)
MEASURES = {"image": ("frechet", "psnr"), "audio": ("mel_distance", "stoi")}
BETTER = {"frechet": "lower", "psnr": "higher", "mel_distance": "lower", "stoi": "higher"}


# -- training ------------------------------------------------------------------------------------


def painted(sizes: Mapping[str, Any], folder: Path) -> str:
    """Paint the training pictures into files; painting would take longer than every step."""
    from PIL import Image

    from tok_core.image_measures import to_uint8
    from tok_core.procedural_images import ProceduralImages

    if folder.is_dir():
        return str(folder)
    folder.mkdir()
    source = ProceduralImages("natural", sizes["side"], TRAINING_SEED)
    for index in range(sizes["pictures"]):
        pixels = to_uint8(source[index][None])[0].permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"{index:05d}.png", compress_level=1)
    return str(folder)


def spoken(sizes: Mapping[str, Any], folder: Path) -> str:
    """Speak the training sentences into files; the engine would take half of every step."""
    from audio_tok.audio_data import AudioDataConfig, open_audio
    from audio_tok.audio_writer import write_blocks

    if folder.is_dir():
        return str(folder)
    folder.mkdir()
    rate = sizes["rate"]
    data = AudioDataConfig(source="speech", segment=4 * rate, sample_rate=rate, seed=TRAINING_SEED)
    source = open_audio(data)
    for index in range(sizes["sentences"]):
        sound = source.item(index)
        write_blocks(folder / f"{index:04d}.wav", iter([sound]), rate, 1, force=False)
    return str(folder)


def recipe(
    sense: str, sizes: Mapping[str, Any], seed: int, perturbation: Mapping[str, Any] | None,
    place: Path,
) -> dict[str, Any]:  # fmt: skip
    """Return the run config of one training as a plain mapping; speech goes to ``place``."""
    parts = _image_parts(sizes, place) if sense == "image" else _audio_parts(sizes, place)
    steps = sizes["steps"]
    shared: dict[str, Any] = {
        "name": f"{sense}-{seed}",
        "schedule": {"warmup": min(50, steps - 1), "end_lr": 1e-4},
        "train": {"steps": steps, "batch_size": sizes["batch"], "seed": seed, "ema_decay": 0.99},
        "log": {"every": max(1, steps // 10), "validate_every": 0, "pictures_every": 0,
                "save_every": 0, "tracker": "none"},
    }  # fmt: skip
    return parts | shared | ({} if perturbation is None else {"perturbation": dict(perturbation)})


def _codebook(sizes: Mapping[str, Any]) -> dict[str, Any]:
    # k-means needs latents that already mean something.
    early = max(1, sizes["steps"] // 10)
    return {"quantize_after_steps": early, "kmeans_start": True, "dead_code_every": 50}


def objective_of(sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the picture losses: pixels; pixels and structure; both and an adversary."""
    found: dict[str, Any] = {"picture_range": "signed", "l1_weight": 0.5, "l2_weight": 4.0}
    if sizes["objective"] != "pixels":
        found |= {"perceptual": "weightless", "perceptual_weight": 0.5}
    if sizes["objective"] == "adversary":
        found |= {
            "discriminator": True, "discriminator_kind": "patchgan", "discriminator_channels": 32,
            "discriminator_stages": 2, "discriminator_start": sizes["steps"] // 4,
            "discriminator_head_start": sizes["steps"] // 20, "discriminator_weight": 0.1,
            "lecam_weight": 0.0,
        }  # fmt: skip
    return found


def _image_parts(sizes: Mapping[str, Any], place: Path) -> dict[str, Any]:
    network = {
        "channels": sizes["channels"], "multipliers": sizes["multipliers"], "res_blocks": 1,
        "attention": [],
    }  # fmt: skip
    model = {
        "encoder_sizes": network, "decoder_sizes": network, "z_channels": 32, "norm_groups": 8,
        "code_dim": sizes["code_dim"], "codebook_size": sizes["codes"],
        "image_size": sizes["side"], "quantizer_options": _codebook(sizes),
    }  # fmt: skip
    return {
        "model": {"class": "VQGAN", "config": model},
        "objective": objective_of(sizes),
        "data": {"source": "folder", "path": painted(sizes, place), "size": sizes["side"],
                 "seed": TRAINING_SEED},
        "optimizer": {"lr": 1e-3, "betas": [0.9, 0.99], "weight_decay": 1e-4},
        "validation_images": 0,
    }


def _audio_parts(sizes: Mapping[str, Any], place: Path) -> dict[str, Any]:
    from tok_core.run_config import read_recipe

    given = read_recipe(ROOT / "assets" / "configs" / "wavtokenizer-tiny.yaml")
    options = {"update": "ema", "ema_decay": 0.99, "l2_normalize": True} | _codebook(sizes)
    own = ("strides", "encoder_width", "latent_dim", "width", "hidden", "layers")
    model = given["model"]["config"] | {name: sizes[name] for name in own} | {
        "sample_rate": sizes["rate"], "codebook_size": sizes["codes"], "quantizer": options,
    }  # fmt: skip
    later = {"start": sizes["steps"] + 1}  # no discriminators
    objective = given["objective"] | {
        part: given["objective"][part] | later for part in ("period", "resolution")
    }
    return {
        "model": {"class": "WavTokenizer", "config": model},
        "objective": objective | {"sample_rate": sizes["rate"]},
        "data": {"source": "folder", "path": spoken(sizes, place), "segment": sizes["segment"],
                 "sample_rate": sizes["rate"], "seed": TRAINING_SEED},
        "optimizer": {"lr": 1e-3, "betas": [0.8, 0.99], "weight_decay": 1e-2},
        "validation_sounds": 0,
    }  # fmt: skip


def trained(sense: str, values: Mapping[str, Any], folder: Path) -> Any:
    """Train one tokenizer and return it in eval mode, on a GPU where there is one."""
    import torch

    from tok_core.loading import load
    from tok_core.run_config import from_mapping

    if sense == "image":
        from vision_tok.train import ImageRun as Run
        from vision_tok.train import train
    else:
        from audio_tok.train import AudioRun as Run  # type: ignore[assignment]
        from audio_tok.train import train  # type: ignore[assignment]
    model = train(from_mapping(Run, values), folder)
    if model is None:
        raise SystemExit("interrupted; what is finished is kept, run the command again to go on")
    found = load(model)
    return found.cuda() if torch.cuda.is_available() else found


# -- judging -------------------------------------------------------------------------------------


def judged(sense: str, model: Any, sizes: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return every measure by setting, ``clean`` first, and the share of codes that changed."""
    import torch

    from eval.perturbed_decoding import PerturbationGrid

    deltas = [max(2, round(delta * sizes["codes"] / 1024)) for delta in DELTAS]
    grid = PerturbationGrid.product("experiment", ALPHAS, deltas)
    with torch.inference_mode():
        judge = _judged_pictures if sense == "image" else _judged_sounds
        return judge(model, grid, sizes)


def _judged_pictures(
    model: Any, grid: Any, sizes: Mapping[str, Any]
) -> dict[str, dict[str, float]]:
    import torch

    from eval.perturbed_decoding import CLEAN, PerturbedDecoder
    from eval.procedural_distance import NAME, ProceduralDistance
    from tok_core.image_measures import to_uint8
    from tok_core.procedural_images import ProceduralImages

    source = ProceduralImages("natural", sizes["side"], 0)
    decoder = PerturbedDecoder(tokenizer=model, grid=grid)
    labels = (CLEAN, *decoder.labels)
    distances = {label: ProceduralDistance().to(model.device) for label in labels}
    sums: dict[str, dict[str, float]] = {label: {"psnr": 0.0, "changed": 0.0} for label in labels}
    for indices in torch.arange(sizes["judged"]).split(50):
        x = torch.stack([source[i] for i in indices.tolist()]).to(model.device)
        for batch in decoder.decodings(x, indices.tolist()):
            distances[batch.label].update(to_uint8(x), real=True)
            distances[batch.label].update(to_uint8(batch.decoded), real=False)
            error = ((batch.decoded - x) / 2).square().mean((1, 2, 3)).clamp(min=1e-10)
            sums[batch.label]["psnr"] += float((-10 * error.log10()).sum())
            sums[batch.label]["changed"] += float(batch.changed.sum())
    return {
        label: {"frechet": float(distances[label].compute()[NAME])}
        | {name: value / sizes["judged"] for name, value in sums[label].items()}
        for label in labels
    }


def _judged_sounds(
    model: Any, grid: Any, sizes: Mapping[str, Any]
) -> dict[str, dict[str, float]]:
    import torch

    from audio_tok.held_out_speech import HeldOutSpeech
    from eval.perturbed_decoding import CLEAN
    from eval.perturbed_sound import PerturbedSound
    from eval.registry import entry_named

    speech = HeldOutSpeech(3 * sizes["rate"], sizes["rate"])
    metric = PerturbedSound(
        model, [entry_named(name) for name in MEASURES["audio"]], grid=grid, decode_batch=8
    )
    for indices in torch.arange(min(sizes["judged"], speech.length)).split(8):
        sounds = torch.stack([speech.item(i) for i in indices.tolist()]).to(model.device)
        metric.update(sounds, indices)
    found = {name: float(value) for name, value in metric.compute().items()}
    return {
        label: {name: found[f"perturbed/{name}/{label}"] for name in MEASURES["audio"]}
        | {"changed": found.get(f"perturbed/changed/{label}", 0.0)}
        for label in (CLEAN, *metric.decoder.labels)
    }


# -- what came out -------------------------------------------------------------------------------


def summary(rows: Sequence[Mapping[str, Any]], sense: str) -> dict[str, Any]:
    """Return mean and standard deviation over seeds, by measure, setting and kind of training."""
    import statistics

    found: dict[str, Any] = {}
    mine = [row for row in rows if row["sense"] == sense]
    for label in mine[0]["scores"] if mine else ():
        for name in (*MEASURES[sense], "changed"):
            for kind in KINDS:
                values = [row["scores"][label][name] for row in mine if row["kind"] == kind]
                if values:
                    spread = statistics.stdev(values) if len(values) > 1 else 0.0
                    place = found.setdefault(name, {}).setdefault(label, {})
                    place[kind] = {"mean": statistics.fmean(values), "deviation": spread}
    return found


def show(result: Mapping[str, Any]) -> None:
    """Print one table per sense: means over seeds, plain against perturbed training."""
    for sense, measures in result["summary"].items():
        seeds = sorted({row["seed"] for row in result["rows"] if row["sense"] == sense})
        print(f"\n{sense}, {len(seeds)} seeds: mean (deviation) of plain | perturbed training")
        head = [f"{name} ({BETTER[name]} is better)" for name in MEASURES[sense]]
        print(f"{'judged codes':22s}{'changed':>9s}" + "".join(f"{text:>38s}" for text in head))
        for label in measures["changed"]:
            share = next(iter(measures["changed"][label].values()))["mean"]
            cells = ""
            for name in MEASURES[sense]:
                both = measures[name][label]
                texts = [
                    f"{both[kind]['mean']:.3f} ({both[kind]['deviation']:.3f})"
                    if kind in both else "-" for kind in KINDS
                ]  # fmt: skip
                cells += f"{' | '.join(texts):>38s}"
            print(f"{label:22s}{share:>9.1%}{cells}")


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draw every measure over the settings, plain against perturbed training."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = [(sense, name) for sense in result["summary"] for name in MEASURES[sense]]
    figure, axes = pyplot.subplots(1, len(panels), figsize=(4.2 * len(panels), 4), squeeze=False)
    for axis, (sense, name) in zip(axes[0], panels, strict=True):
        by_label = result["summary"][sense][name]
        for kind, colour in zip(KINDS, ("tab:grey", "tab:blue"), strict=True):
            points = [(i, both[kind]) for i, both in enumerate(by_label.values()) if kind in both]
            axis.errorbar(
                [i for i, _ in points], [p["mean"] for _, p in points],
                [p["deviation"] for _, p in points], label=f"{kind} training", color=colour,
                marker="o", capsize=3,
            )  # fmt: skip
        axis.set_xticks(range(len(by_label)), by_label, rotation=60, ha="right", fontsize=7)
        axis.set_title(f"{sense}: {name} ({BETTER[name]} is better)", fontsize=9)
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


# -- the run -------------------------------------------------------------------------------------


def begun(path: Path, facts: dict[str, Any], force: bool) -> dict[str, Any]:
    """Return the result so far, empty where there is none; refuse one of other sizes."""
    if not path.is_file() or force:
        return facts | {"rows": [], "summary": {}}
    result: dict[str, Any] = json.loads(path.read_text())
    same = all(result[name] == facts[name] for name in facts if name != "senses")
    for sense, own in facts["senses"].items():
        if not same or result["senses"].setdefault(sense, own) != own:
            raise SystemExit(
                f"{path} holds results of other sizes or strengths ({sense}); give --out another "
                "file, or --force to begin again"
            )
    return result


def experiment(
    senses: Mapping[str, Any], seeds: Sequence[int], path: Path, *, force: bool = False
) -> dict[str, Any]:
    """Train and judge what the file does not hold yet; return the whole result."""
    facts = json.loads(json.dumps({"alphas": ALPHAS, "deltas_per_1024": DELTAS, "senses": senses}))
    result = begun(path, facts, force)
    done = {(row["sense"], row["kind"], row["seed"]) for row in result["rows"]}
    wanted = [
        (sense, kind, seed) for seed in seeds for sense in senses for kind in KINDS
        if (sense, kind, seed) not in done
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        for sense, kind, seed in wanted:
            setting = senses[sense]
            line = setting["perturbation"] if kind == "perturbed" else None
            scores = trained_and_judged(sense, setting["sizes"], seed, line, Path(place))
            result["rows"].append({"sense": sense, "kind": kind, "seed": seed, "scores": scores})
            result["summary"][sense] = summary(result["rows"], sense)
            keep(result, path)
    return result


def trained_and_judged(
    sense: str, sizes: Mapping[str, Any], seed: int, perturbation: Mapping[str, Any] | None,
    place: Path,
) -> dict[str, dict[str, float]]:  # fmt: skip
    """Train one tokenizer and return its scores; ``place`` keeps the data of all trainings."""
    values = recipe(sense, sizes, seed, perturbation, place / sense)
    with tempfile.TemporaryDirectory() as folder:
        return judged(sense, trained(sense, values, Path(folder) / "run"), sizes)


def main() -> None:
    """Train, judge, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sense", choices=("image", "audio", "both"), default="both")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="of every training")
    parser.add_argument("--codes", type=int, help="size of the codebook")
    parser.add_argument("--alpha", type=float, default=1.0, help="of training")
    parser.add_argument("--beta", type=float, help="of training; a half, of sounds a quarter")
    parser.add_argument("--objective", choices=OBJECTIVES, help="of pictures")
    parser.add_argument("--delta", type=int, help="of training; a tenth of the codes")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON; the plot lies beside it")
    parser.add_argument("--force", action="store_true", help="forget the results of --out")
    parser.add_argument("--small", action="store_true", help="tiny networks, nothing is kept")
    options = parser.parse_args()
    senses = {}
    for sense in ("image", "audio") if options.sense == "both" else (options.sense,):
        sizes = dict((SMALL if options.small else FULL)[sense])
        sizes |= {n: v for n in ("steps", "codes") if (v := getattr(options, n)) is not None}
        if sense == "image" and options.objective:
            sizes["objective"] = options.objective
        delta = options.delta or max(2, round(0.1 * sizes["codes"]))
        beta = BETAS[sense] if options.beta is None else options.beta
        line = {"alpha": options.alpha, "beta": beta, "delta": delta}
        senses[sense] = {"sizes": sizes, "perturbation": line}
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "try.json" if options.small else options.out
        result = experiment(senses, options.seeds, out, force=options.force)
        show(result)
        picture = out.with_suffix(".png")
        draw(result, picture)
        if not options.small:
            print(f"\nwritten to {out} and {picture}")


if __name__ == "__main__":
    main()
