r"""Token-Shuffle at small scale: what do windows of s x s tokens save, and what do they cost?

    python benchmarks/token_shuffle_scale.py              # table, JSON and plot in results/
    python benchmarks/token_shuffle_scale.py --device cuda --seconds 220
    python benchmarks/token_shuffle_scale.py --small      # a try, nothing is kept
    python benchmarks/token_shuffle_scale.py --show       # table and plot of what is there

The same small class-conditional LlamaGen, of one trunk width, is trained over the shipped VQGAN's
tokens of labelled procedural pictures (128 x 128 pixels, 16 x 16 tokens of 4096 codes) with s = 1,
2 and 4, and with s = 2 and the causal head, in which the codes of a window see each other.  A seed
gives every variant the same pictures in the same order.  Measured are

    FLOPs        of an image: multiply-adds x 2 of every product, by formula (tests count them)
    time         of training steps and of sampling, in turns; of whole trainings as they ran
    loss         nats per token of unseen pictures, at several steps: at equal steps and compute
    quality      of samples with guidance: frechet/procedural-v1 against real pictures (lower
                 is better), and how often the classifier sees the label that was asked for

The learning rate is constant behind its warm-up and averaged weights are scored, so that a curve is
worth as much in its middle as at its end.  Every finished training is kept in the JSON at once; a
second call goes on where the first was stopped, and shows what is there where nothing is left to do
(--force begins again).  Sizes for a CPU are smaller than for a GPU; results of both do not mix.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from _labelled_tokens import CLASSES, Data, Pictures, prepared, scored, seen
from _measure import alternate, begun, keep, processor
from _token_shuffle_table import draw, show, summary

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
RESULTS = Path(__file__).parent / "results" / "token_shuffle_scale.json"
WORK = ROOT / "runs" / "token_shuffle_scale"
VARIANTS: dict[str, dict[str, Any]] = {
    "s=1": {"window": 1},
    "s=2": {"window": 2},
    "s=2, causal head": {"window": 2, "slot_head": "causal"},
    "s=4": {"window": 4},
}
# One thread trains s = 1 in ten minutes, a GPU all twelve of its sizes in four.
SIZES: dict[str, dict[str, Any]] = {
    "cuda": {
        "network": {"width": 192, "layers": 6, "heads": 6, "dropout": 0.0}, "side": 128,
        "pictures": 20_000, "held_out": 512, "judged": 600, "steps": 800, "batch": 128,
        "warmup": 50, "lr": 1e-3, "ema_decay": 0.995, "looks": 10, "rows": 200, "together": 8,
        "repeats": 3,
    },
}  # fmt: skip
SIZES["cpu"] = SIZES["cuda"] | {
    "network": {"width": 128, "layers": 4, "heads": 4, "dropout": 0.0}, "pictures": 4000,
    "held_out": 192, "judged": 300, "steps": 600, "batch": 8, "ema_decay": 0.99, "looks": 7,
    "rows": 50, "repeats": 1,
}  # fmt: skip
SMALL = SIZES["cuda"] | {
    "network": {"width": 32, "layers": 1, "heads": 2, "dropout": 0.0}, "side": 64,
    "pictures": 12, "held_out": 4, "judged": 6, "steps": 4, "batch": 4, "warmup": 1, "looks": 2,
    "rows": 6, "repeats": 1,
}  # fmt: skip
GUIDANCE = 2.0


class OutOfTime(Exception):
    """The time given with --seconds is over."""


class Clock:
    """When to stop.

    Args:
        seconds: from now, None for never.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self.end = math.inf if seconds is None else time.monotonic() + seconds

    def check(self, ahead: float = 0.0) -> None:
        """Raise `OutOfTime` where ``ahead`` seconds of work do not fit any more."""
        if time.monotonic() + ahead > self.end:
            raise OutOfTime


# -- judging -----------------------------------------------------------------------------------


def drawn(model: Any, count: int, seeds: Sequence[int]) -> tuple[Any, Any]:
    """Draw ``count`` samples, classes in turn, with guidance; return codes and labels."""
    import torch

    from generators.contract import Condition
    from generators.guidance import Guidance
    from generators.sampling import sample

    labels = torch.arange(count) % CLASSES
    codes = sample(model, Condition(labels), seeds=seeds, guidance=Guidance(scale=GUIDANCE))
    return codes, labels


def quality(
    model: Any, data: Data, sizes: Mapping[str, Any], seed: int, clock: Clock
) -> dict[str, float]:
    """Judge samples of a trained model."""
    import torch

    from tok_core.image_measures import to_uint8

    pictures, labels = [], []
    for part in torch.arange(sizes["judged"]).split(sizes["rows"]):
        clock.check()
        codes, asked = drawn(model, len(part), [1_000_000 * seed + int(i) for i in part])
        with torch.inference_mode():
            pictures += [to_uint8(data.tokenizer.decode(some)) for some in codes.split(100)]
        labels.append(asked)
    found = seen(torch.cat(pictures), str(model.device))
    return scored(data.reference, torch.cat(labels), found)


# -- training ------------------------------------------------------------------------------------


def built(variant: str, sizes: Mapping[str, Any], data: Data, seed: int) -> Any:
    """Return a fresh model of a variant, on the device of the data."""
    import torch

    from generators.contract import fixed_spec
    from generators.llamagen import LlamaGen

    torch.manual_seed(seed)
    spec = fixed_spec(data.tokenizer.spec, data.train.codes.shape[1:])
    model = LlamaGen(
        spec=spec.to_json(), classes=CLASSES, code_hash=data.tokenizer.code_hash(),
        **sizes["network"], **VARIANTS[variant],
    )  # fmt: skip
    return model.to(data.train.codes.device)


class Training:
    """One model, its optimizer and its averaged weights.

    Args:
        model: fresh, on its device. sizes: of the run. precision: ``bfloat16`` trains in autocast.
    """

    def __init__(self, model: Any, sizes: Mapping[str, Any], precision: str) -> None:
        import torch

        from generators.token_objective import TokenObjective, TokenObjectiveConfig
        from tok_core.training.ema import AveragedModel
        from tok_core.training.weight_decay import decay_groups

        self.model, self.sizes, self.low = model.train(), sizes, precision == "bfloat16"
        self.objective = TokenObjective(TokenObjectiveConfig(conditional=True)).train()
        self.optimizer = torch.optim.AdamW(
            decay_groups(model.named_parameters(), 0.05), betas=(0.9, 0.95), fused=True
        )
        self.average = AveragedModel(model, sizes["ema_decay"])

    def step(self, number: int, pictures: Pictures) -> None:
        """Take one optimizer step."""
        import torch

        from generators.token_data import TokenSample
        from tok_core.training.schedule import learning_rate

        x, sizes = TokenSample(*pictures), self.sizes
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(
                number, base=sizes["lr"], end=sizes["lr"], warmup=sizes["warmup"],
                total=sizes["steps"],
            )  # fmt: skip
        with torch.autocast(x.codes.device.type, torch.bfloat16, enabled=self.low):
            out = self.model(self.objective.model_input(x), **self.objective.model_inputs(x))
            losses = self.objective.generator_losses(x, out, number)
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update(self.model)


def order(count: int, batch: int, steps: int, seed: int, device: Any) -> Any:
    """Return which pictures every step sees, int64 (steps, batch); all once in each epoch."""
    import torch

    numbers = torch.Generator().manual_seed(seed)
    epochs = -(-steps * batch // count)
    order = torch.cat([torch.randperm(count, generator=numbers) for _ in range(epochs)])
    return order[: steps * batch].view(steps, batch).to(device)


def looks(steps: int, count: int) -> list[int]:
    """Return about ``count`` steps at equal ratios, the last among them.

    Example:
        >>> looks(1000, 4)
        [32, 100, 316, 1000]
    """
    first = max(1, steps / 1000**0.5) if count > 1 else steps
    ratio = (steps / first) ** (1 / max(1, count - 1))
    return sorted({round(first * ratio**i) for i in range(count)} | {steps})


def trained(
    variant: str, seed: int, data: Data, sizes: Mapping[str, Any], precision: str, clock: Clock
) -> tuple[Any, dict[str, Any]]:
    """Train one model; return its averaged weights and the curve of its loss."""
    import torch

    from generators.token_data import TokenSample
    from generators.validation import GeneratorMonitor

    training = Training(built(variant, sizes, data, seed), sizes, precision)
    monitor = GeneratorMonitor(TokenSample(*data.held_out), training.objective, shown=0)
    work = 3 * sum(flops_of(training.model).values()) * sizes["batch"]
    batches = order(
        len(data.train.codes), sizes["batch"], sizes["steps"], seed, data.train.codes.device
    )
    curve: list[dict[str, float]] = []
    seconds, scores, begin = 0.0, {}, 0
    for end in looks(sizes["steps"], sizes["looks"]):
        wait(data)
        began = time.perf_counter()
        for number in range(begin, end):
            clock.check()
            which = batches[number]
            training.step(number, Pictures(data.train.codes[which], data.train.labels[which]))
        wait(data)
        seconds += time.perf_counter() - began
        begin = end
        with torch.no_grad():
            scores = monitor.scores(training.average.model)
        if not math.isfinite(scores["loss"]):
            raise SystemExit(f"{variant}, seed {seed}: the loss is {scores['loss']} at step {end}")
        curve.append({"step": end, "flops": end * work, "seconds": seconds,
                      "loss": scores["loss"], "accuracy": scores["accuracy"]})  # fmt: skip
    slots = [scores[name] for name in sorted(scores, key=_slot) if name.startswith("loss_slot")]
    return training.average.model, {"curve": curve, "slots": slots}


def _slot(name: str) -> int:
    return int(name.rsplit("_", 1)[-1]) if name.startswith("loss_slot") else -1


def wait(data: Data) -> None:
    """Let the device finish what it was given."""
    import torch

    if data.train.codes.is_cuda:
        torch.cuda.synchronize()


# -- work and time -------------------------------------------------------------------------------


def flops_of(model: Any) -> dict[str, int]:
    """Return the FLOPs of one image's forward pass by part; training takes three times as much.

    Every multiply-add of a matrix product counts 2, everything else nothing.  Attention counts
    whole products, though causal kernels can leave out half.

    Args:
        model: a `LlamaGen` with one condition token (classes or none).
    """
    settings, width = model.settings, model.settings.width
    windows, slots = (int(n) for n in model.tables["windows"].shape)

    def blocks(trunk: Any, rows: int, length: int) -> int:
        each = [8 * width**2 + 6 * width * block.mlp.down.in_features for block in trunk.blocks]
        return rows * length * (sum(each) + len(each) * 4 * length * width)

    # The last window is never fed; the condition takes its place.
    mixing = 0 if slots == 1 else 2 * width**2 + settings.shuffle_blocks * 4 * width**2
    head = 0 if model.head is None else blocks(model.head.trunk, windows, model.head.slots)
    return {
        "trunk": blocks(model.trunk, 1, windows),
        "shuffle": (2 * windows - 1) * mixing,
        "causal head": head,
        "output": 2 * settings.length * width * sum(settings.spec.vocabulary),
    }


def speeds(data: Data, sizes: Mapping[str, Any], precision: str) -> dict[str, dict[str, Any]]:
    """Measure a training step and sampling of every variant in turns, with untrained weights."""
    rounds, batch, together = sizes["repeats"], sizes["batch"], sizes["together"]
    pictures = Pictures(data.train.codes[:batch], data.train.labels[:batch])
    trainings = {
        name: Training(built(name, sizes, data, 0), sizes, precision) for name in VARIANTS
    }

    def step(name: str) -> None:
        trainings[name].step(sizes["warmup"], pictures)
        wait(data)

    def paint(name: str) -> None:
        drawn(trainings[name].average.model, together, range(together))
        wait(data)

    steps = alternate({name: partial(step, name) for name in VARIANTS}, 3 * rounds)
    draws = alternate({name: partial(paint, name) for name in VARIANTS}, rounds)
    tokens = together * data.train.codes[0].numel()
    found = {}
    for name, training in trainings.items():
        count = sum(parameter.numel() for parameter in training.model.parameters())
        found[name] = {
            "flops": flops_of(training.model), "parameters": count, "step_seconds": steps[name],
            "picture_seconds": draws[name] / together, "tokens_per_second": tokens / draws[name],
        }  # fmt: skip
    return found


# -- the run -------------------------------------------------------------------------------------


def machine(device: str) -> str:
    """Return what the numbers were measured on."""
    import torch

    if device == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def experiment(
    sizes: Mapping[str, Any], seeds: Sequence[int], path: Path, work: Path, *,
    device: str = "cpu", precision: str = "float32", clock: Clock | None = None,
    force: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Train and judge what the file does not hold yet; return the whole result.

    Stops where the clock says so, with what is finished.
    """
    facts = json.loads(json.dumps({
        "variants": VARIANTS, "sizes": sizes, "device": device, "precision": precision
    }))  # fmt: skip
    result = begun(
        path, facts, force=force, machine="", floor={}, speed={}, rows=[], summary={}
    )
    clock = clock or Clock()
    done = {(row["variant"], row["seed"]) for row in result["rows"]}
    left = [(v, s) for s in seeds for v in VARIANTS if (v, s) not in done]
    if not left and result["speed"]:
        return result
    try:
        data = prepared(sizes, work, device)
        if not result["speed"]:
            result["speed"], result["machine"] = speeds(data, sizes, precision), machine(device)
            result["floor"] = data.floor
            keep(result, path)
        for variant, seed in left:
            before = [row["seconds"] for row in result["rows"] if row["variant"] == variant]
            clock.check(max(before, default=0.0))
            began = time.perf_counter()
            model, row = trained(variant, seed, data, sizes, precision, clock)
            row["quality"] = quality(model, data, sizes, seed, clock)
            seconds = time.perf_counter() - began
            result["rows"].append({
                "variant": variant, "seed": seed, "machine": machine(device), "seconds": seconds,
                **row,
            })  # fmt: skip
            result["summary"] = summary(result["rows"])
            keep(result, path)
            print(f"{variant}, seed {seed}: {row['curve'][-1]['loss']:.3f} nats/token, frechet "
                  f"{row['quality']['frechet']:.2f}, {seconds:.0f} s", flush=True)  # fmt: skip
    except (OutOfTime, KeyboardInterrupt):
        print(f"stopped; {len(result['rows'])} trainings are kept, the same command goes on")
    return result


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto",
                        help="of training; auto is bfloat16 on a GPU")  # fmt: skip
    parser.add_argument("--steps", type=int, help="of every training")
    parser.add_argument("--seconds", type=float, help="stop before so many are over")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of the tokens")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON; the plot lies beside it")
    parser.add_argument("--force", action="store_true", help="forget the results of --out")
    parser.add_argument("--show", action="store_true", help="train nothing, show what --out holds")
    parser.add_argument("--small", action="store_true", help="tiny networks, nothing is kept")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, judge, print, draw."""
    options = options_of(arguments)
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "try.json" if options.small else options.out
        result = finished(out, options)
        if result is None:
            result = _run(options, out, Path(place) if options.small else options.work)
        if not result["summary"]:
            return
        show(result)
        try:
            draw(result, out.with_suffix(".png"))
        except ImportError:
            print("\nno matplotlib here; --show draws the plot where there is one")
        if not options.small:
            print(f"\nkept in {out} and {out.with_suffix('.png')}")


def finished(path: Path, options: argparse.Namespace) -> dict[str, Any] | None:
    """Return what the file holds where that is all that is asked for, on whatever device."""
    if not path.is_file():
        if options.show:
            raise SystemExit(f"{path} is not there yet; run without --show first")
        return None
    result: dict[str, Any] = json.loads(path.read_text())
    done = {(row["variant"], row["seed"]) for row in result["rows"]}
    asked = {(variant, seed) for variant in VARIANTS for seed in options.seeds}
    chosen = options.force or options.steps is not None or options.device != "auto"
    return result if options.show or (asked <= done and not chosen) else None


def _run(options: argparse.Namespace, out: Path, work: Path) -> dict[str, Any]:
    clock = Clock(options.seconds)
    import torch

    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda was given but torch sees no GPU; use --device cpu")
    precision = options.precision
    if precision == "auto":
        precision = "bfloat16" if device == "cuda" else "float32"
    torch.backends.cuda.matmul.allow_tf32 = True  # as the training engine does
    sizes = dict(SMALL if options.small else SIZES[device])
    if options.steps is not None:
        sizes["steps"] = options.steps
    return experiment(
        sizes, options.seeds, out, work, device=device, precision=precision, clock=clock,
        force=options.force,
    )  # fmt: skip


if __name__ == "__main__":
    main()
