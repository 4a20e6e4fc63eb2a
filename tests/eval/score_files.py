"""Score files made by hand, for the tests of tables, comparisons, plots and reports."""

from __future__ import annotations

from typing import Any

from eval.protocol import protocol_named
from eval.score import Failure, Score, ScoreFile, Spread

PICTURES = protocol_named("photographs")
SPEECH = protocol_named("dates-speech")
HASH = "0123456789abcdef" * 4
HOSTILE = "<script>alert('x & y')</script> \\input{/etc/passwd} 50 % #1 a_b|c `d` \"e\" $f$"


def score(contestant: str = "ours", metric: str = "psnr", value: float | None = 30.0,
          **fields: Any) -> Score:  # fmt: skip
    """One score of pictures, by default a PSNR."""
    known: dict[str, dict[str, Any]] = {
        "psnr": {"title": "PSNR", "unit": "dB", "direction": "higher"},
        "ssim": {"title": "SSIM", "direction": "higher"},
        "lpips/alex": {"title": "LPIPS", "direction": "lower"},
        "rfid": {"title": "rFID", "direction": "lower", "kind": "distribution"},
        "bpp": {"title": "rate", "unit": "bit/pixel", "kind": "rate"},
    }
    base = {"contestant": contestant, "metric": metric, "value": value, "protocol": PICTURES,
            "n": 120, "items": HASH}  # fmt: skip
    return Score(**(base | known.get(metric, {}) | fields))


def run(*scores: Score, **fields: Any) -> ScoreFile:
    """A score file of one run."""
    return ScoreFile(**({"command": "recon", "scores": scores} | fields))


def full_run() -> ScoreFile:
    """Three contestants over budgets, with all that a table can meet."""
    missing = ("the weight file pt_inception-2015-12-05-6726825d.pth of mseitzer/pytorch-fid is "
               "not on this machine; put it into ~/.cache/torch/hub/checkpoints")  # fmt: skip
    ideal = {"psnr": float("inf"), "ssim": 1.0, "lpips/alex": 0.0, "bpp": 24.0}
    found = [score("ground truth", metric, value) for metric, value in ideal.items()]
    sweeps = {
        "One-D-Piece-S": ("tokens", [
            (32, 17.21, 0.41, 0.52, 0.006), (64, 18.9, 0.49, 0.44, 0.012),
            (128, 20.4, 0.55, 0.33, 0.023), (256, 22.1, 0.62, 0.24, 0.047),
        ]),
        "jpeg": ("quality", [(5, 23.4, 0.61, 0.55, 0.21), (30, 29.8, 0.86, 0.16, 0.58),
                             (75, 33.7, 0.93, 0.05, 1.21)]),
        "webp": ("quality", [(5, 26.2, 0.74, 0.41, 0.16), (30, 30.1, 0.87, 0.19, 0.41),
                             (75, 33.2, 0.92, 0.07, 0.88)]),
    }  # fmt: skip
    for contestant, (name, points) in sweeps.items():
        for budget, psnr, ssim, lpips, bpp in points:
            at: dict[str, Any] = {"budget": budget, "budget_name": name}
            spread = Spread(low=psnr - 0.4, high=psnr + 0.4, std=2.0, resamples=1000, seed=0)
            failures = ()
            if contestant == "webp" and budget == 5:
                failures = (Failure(reason="the picture cannot be coded", count=3,
                                    items=("cat.png", "dog.png")),)  # fmt: skip
            found += [
                score(contestant, "psnr", psnr, spread=spread, failures=failures,
                      n=120 - 3 * len(failures), **at),
                score(contestant, "ssim", ssim, **at),
                score(contestant, "lpips/alex", lpips, **at),
                score(contestant, "rfid", None, unavailable=missing,
                      warnings=("120 samples are fewer than the 2048 features, so the number is "
                                "not comparable",), **at),
                score(contestant, "bpp", bpp, **at),
            ]  # fmt: skip
    return run(*found, title="Photographs")
