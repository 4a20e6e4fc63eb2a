r"""Which losses and strengths of perturbed training make a picture decoder bear wrong codes?

    python benchmarks/perturbation_scan.py                   # table and JSON in results/
    python benchmarks/perturbation_scan.py --only 0 3        # rows by number, kept beside others
    python benchmarks/perturbation_scan.py --small           # a try, nothing is written

One seed of the pictures of `perturbation_experiment.py` per row: three objectives (pixels alone;
with a structure term; with an adversary, too), plain and perturbed trainings of several strengths.
A second call goes on where the first was stopped.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from _measure import begun, keep
from perturbation_experiment import FULL, SMALL, trained_and_judged

RESULTS = Path(__file__).parent / "results" / "perturbation_scan.json"
# Objective, share of tokens, share of the batch (0: plain training), of the codebook, of both that
# is left from nine tenths of the training on, where they shrink from the middle.
ROWS: tuple[tuple[str, float, float, float, float | None], ...] = (
    ("pixels", 1.0, 0.0, 0.1, None),
    ("pixels", 1.0, 0.5, 0.1, None),
    ("structure", 1.0, 0.0, 0.1, None),
    ("structure", 1.0, 0.25, 0.1, None),
    ("structure", 1.0, 0.5, 0.1, None),
    ("adversary", 1.0, 0.0, 0.1, None),
    ("adversary", 1.0, 0.25, 0.1, None),
    ("adversary", 1.0, 0.5, 0.1, None),
    ("adversary", 1.0, 0.5, 0.1, 0.5),
    ("adversary", 0.5, 1.0, 0.1, None),
)
SHOWN = ("clean", "alpha=0.5,delta=25", "alpha=0.9,delta=25", "alpha=0.9,delta=100")


def line(row: tuple[str, float, float, float, float | None], sizes: Any) -> dict[str, Any] | None:
    """Return the recipe's perturbation line of a row, None for plain training."""
    _, alpha, beta, share, end_ratio = row
    if not beta:
        return None
    found = {"alpha": alpha, "beta": beta, "delta": max(2, round(share * sizes["codes"]))}
    if end_ratio is None:
        return found
    steps = sizes["steps"]
    annealing = {
        "start": steps // 2, "end": steps * 9 // 10, "end_ratio": end_ratio, "continuous": True
    }  # fmt: skip
    return {**found, "annealing": annealing}


def scan(sizes: dict[str, Any], numbers: list[int], path: Path) -> dict[str, Any]:
    """Train and judge the rows that the file does not hold yet; return the whole result."""
    facts = {key: value for key, value in sizes.items() if key != "objective"}
    result = begun(path, {"sizes": facts}, rows=[])
    done = {row["number"] for row in result["rows"]}
    with tempfile.TemporaryDirectory() as place:
        for number in numbers:
            if number in done:
                continue
            own = sizes | {"objective": ROWS[number][0]}
            setting = line(ROWS[number], sizes)
            scores = trained_and_judged("image", own, 0, setting, Path(place))
            result["rows"].append({
                "number": number, "objective": own["objective"], "perturbation": setting,
                "scores": scores,
            })  # fmt: skip
            result["rows"].sort(key=lambda row: row["number"])
            keep(result, path)
    return result


def show(result: dict[str, Any]) -> None:
    """Print frechet/procedural-v1 and PSNR of every row."""
    print("frechet/procedural-v1 (lower is better) and PSNR (dB) of codes judged at")
    print(f"{'objective':12s}{'perturbation':44s}" + "".join(f"{name:>22s}" for name in SHOWN))
    for row in result["rows"]:
        setting = row["perturbation"] or {}
        text = ", ".join(f"{k} {v}" for k, v in setting.items() if k != "annealing") or "none"
        if "annealing" in setting:
            text += f", to {setting['annealing']['end_ratio']}"
        cells = "".join(
            f"{scores['frechet']:>14.2f} {scores['psnr']:>7.2f}" if scores else f"{'-':>22s}"
            for scores in (row["scores"].get(name) for name in SHOWN)
        )
        print(f"{row['objective']:12s}{text:44s}{cells}")


def main() -> None:
    """Train, judge, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", type=int, nargs="+", help="numbers of rows, from 0")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--small", action="store_true", help="tiny networks, nothing is kept")
    options = parser.parse_args()
    numbers = options.only if options.only is not None else list(range(len(ROWS)))
    if any(not 0 <= number < len(ROWS) for number in numbers):
        raise SystemExit(f"--only takes numbers of rows from 0 to {len(ROWS) - 1}")
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "try.json" if options.small else options.out
        show(scan(dict((SMALL if options.small else FULL)["image"]), numbers, out))


if __name__ == "__main__":
    main()
