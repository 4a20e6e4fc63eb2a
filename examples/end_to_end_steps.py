"""What both chains of examples are made of: a work folder, trainings, commands.

Every step is the command that a user would type, printed and run in this process.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tessera.cli
from assets import asset_path


def asked_for(
    description: str, folder: str, full: Mapping[str, int], small: Mapping[str, int]
) -> tuple[Path, Mapping[str, int]]:
    """Return the work folder and the sizes that the command line asks for."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("work", type=Path, nargs="?", default=Path(folder))
    parser.add_argument("--small", action="store_true", help="a try of every step")
    options = parser.parse_args()
    return (options.work / "small", small) if options.small else (options.work / "full", full)


def steps(sizes: Mapping[str, int], part: str, batch: int) -> dict[str, Any]:
    """Return how long to train and how often to save; a stop costs a tenth of it."""
    count = sizes[part]
    return {
        "train.steps": count, "train.batch_size": batch, "schedule.warmup": sizes["warmup"],
        "log.save_every": max(1, count // 10), "log.validate_every": max(1, count // 2),
        "log.pictures_every": 0, "log.keep_last": 1, "log.tracker": "none",
        "train.ema_decay": 0.99,
    }  # fmt: skip


def step(
    program: str, main: Callable[[Sequence[str]], int], out: Path, recipe: str,
    settings: Mapping[str, Any],
) -> None:  # fmt: skip
    """Run one training program, from its newest checkpoint where there is one."""
    words = ["--config", str(asset_path(f"configs/{recipe}.yaml")), "--out", str(out), "--resume"]
    for key, value in settings.items():
        words += ["--set", f"{key}={value if isinstance(value, Path) else json.dumps(value)}"]
    ran(f"python -m {program}", main, words)


def tessera_command(*words: Any) -> None:
    """Run one verb of the command line."""
    ran("tessera", tessera.cli.run, [str(word) for word in words])


def ran(program: str, main: Callable[[Sequence[str]], int], words: Sequence[str]) -> None:
    """Print a command, run it in this process, and stop where it fails."""
    print(f"$ {program} {shlex.join(words)}".replace(" --set ", " \\\n    --set "), flush=True)
    if code := main(words):
        raise SystemExit(f"stopped ({code}); the same command goes on from here")
