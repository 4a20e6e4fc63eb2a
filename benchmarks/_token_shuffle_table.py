"""Table and plot of `token_shuffle_scale.py`: means over seeds, losses at equal compute."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def at_compute(curve: Sequence[Mapping[str, float]], flops: float) -> float | None:
    """Return the loss after so many FLOPs, between points of the curve; None outside of it."""
    logs = [math.log(point["flops"]) for point in curve]
    wanted = math.log(flops)
    for i, right in enumerate(logs):
        if math.isclose(wanted, right, abs_tol=1e-9):
            return curve[i]["loss"]
        if i and logs[i - 1] < wanted < right:
            share = (wanted - logs[i - 1]) / (right - logs[i - 1])
            return curve[i - 1]["loss"] * (1 - share) + curve[i]["loss"] * share
    return None


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return mean and deviation over seeds of every measure, by variant.

    Losses at equal compute are taken where s = 4 and s = 2 end.
    """
    ends = {row["variant"]: row["curve"][-1]["flops"] for row in rows}
    found: dict[str, dict[str, Any]] = {}
    for variant in dict.fromkeys(row["variant"] for row in rows):
        mine = [row for row in rows if row["variant"] == variant]
        values: dict[str, list[float | None]] = {
            "seconds": [row["curve"][-1]["seconds"] for row in mine],
            "loss": [row["curve"][-1]["loss"] for row in mine],
            "frechet": [row["quality"]["frechet"] for row in mine],
            "accuracy": [row["quality"]["accuracy"] for row in mine],
        }
        for other in ("s=4", "s=2"):
            if other in ends:
                values[f"loss at {other}'s compute"] = [
                    at_compute(row["curve"], ends[other]) for row in mine
                ]
        found[variant] = {"seeds": len(mine)} | {
            name: _spread(those) for name, those in values.items()
        }
    return found


def _spread(values: Sequence[float | None]) -> dict[str, float] | None:
    there = [value for value in values if value is not None]
    if len(there) < len(values):
        return None
    deviation = statistics.stdev(there) if len(there) > 1 else 0.0
    return {"mean": statistics.fmean(there), "deviation": deviation}


def show(result: Mapping[str, Any]) -> None:
    """Print one line per variant."""
    sizes = result["sizes"]
    print(
        f"\n{sizes['steps']} steps of {sizes['batch']} in {result['precision']} on "
        f"{result['machine']}; mean (deviation) over seeds; M, G: 1e6, 1e9"
    )
    for other in sorted({row["machine"] for row in result["rows"]} - {result["machine"]}):
        print(f"some trainings ran on {other}")
    columns = ("seconds", "loss", "loss at s=4's compute", "loss at s=2's compute", "frechet",
               "accuracy")  # fmt: skip
    heads = ("variant", "params", "GFLOP", "trunk", "ms/step", "s/picture", "tokens/s", "seeds",
             "training (s)", *columns[1:])  # fmt: skip
    lines = [heads]
    for variant, speed in result["speed"].items():
        parts, scores = speed["flops"], result["summary"].get(variant, {})
        cells = [
            variant, f"{speed['parameters'] / 1e6:.2f}M", f"{sum(parts.values()) / 1e9:.3f}",
            f"{parts['trunk'] / 1e9:.3f}", f"{1e3 * speed['step_seconds']:.1f}",
            f"{speed['picture_seconds']:.4f}", f"{speed['tokens_per_second']:.0f}",
            str(scores.get("seeds", 0)),
        ]  # fmt: skip
        for name in columns:
            value = scores.get(name)
            cells.append(f"{value['mean']:.3f} ({value['deviation']:.3f})" if value else "-")
        lines.append(tuple(cells))
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    for line in lines:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
    for kind, scores in result["floor"].items():
        print(f"{kind}: frechet {scores['frechet']:.3f}, accuracy {scores['accuracy']:.3f}")
    for variant in result["summary"]:
        slots = [row["slots"] for row in result["rows"] if row["variant"] == variant]
        if slots[0]:
            means = [statistics.fmean(column) for column in zip(*slots, strict=True)]
            print(f"{variant}: loss by slot " + " ".join(f"{mean:.3f}" for mean in means))


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draw loss against training compute, and quality against sampling time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4.2))
    for number, variant in enumerate(result["summary"]):
        colour = f"C{number}"
        curves = [row["curve"] for row in result["rows"] if row["variant"] == variant]
        for i, curve in enumerate(curves):
            left.plot(
                [point["flops"] for point in curve], [point["loss"] for point in curve],
                color=colour, marker=".", linewidth=1, label=None if i else variant,
            )  # fmt: skip
        value = result["summary"][variant]["frechet"]
        right.errorbar(
            result["speed"][variant]["picture_seconds"], value["mean"], value["deviation"],
            color=colour, marker="o", capsize=3, label=variant,
        )  # fmt: skip
    right.axhline(
        result["floor"]["reconstructions"]["frechet"], color="grey", linestyle=":",
        label="reconstructions of real pictures",
    )  # fmt: skip
    left.set(xscale="log", xlabel="training FLOPs", ylabel="loss of unseen pictures (nats/token)")
    right.set(xscale="log", yscale="log", ylabel="frechet/procedural-v1 (lower is better)")
    together = result["sizes"]["together"]
    right.set(xlabel=f"seconds per picture, {together} at once with guidance")
    for axis in (left, right):
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
