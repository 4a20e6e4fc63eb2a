"""What a run writes down: metrics.jsonl always, a tracker (TensorBoard by default) beside it."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from accelerate import Accelerator

from tok_core.errors import ConfigError
from tok_core.run_config import flatten


class SoundSample(NamedTuple):
    """A sound for the tracker.

    Attributes:
        samples: (T,) or (1, T) float in [-1, 1].
        rate: samples per second.
    """

    samples: np.ndarray
    rate: int


class RunLog:
    """The written side of a run; only the main process writes.

    Args:
        accelerator: made with the tracker of the config in ``log_with``.
        folder: the run's folder; ``metrics.jsonl`` lies in it, one JSON object per line.
        tracker: accelerate's name of the tracker, or ``none``.
        settings: the resolved config as plain nested values, shown by the tracker.

    Example:
        >>> log.metrics(50, {"loss/reconstruction": 0.1})  # doctest: +SKIP
    """

    def __init__(
        self, accelerator: Accelerator, folder: Path, tracker: str, settings: Mapping[str, Any]
    ) -> None:
        self.accelerator = accelerator
        self.path = folder / "metrics.jsonl"
        self.tracked = tracker != "none"
        if self.tracked:
            plain = {
                key: value if isinstance(value, int | float | str | bool) else str(value)
                for key, value in flatten(settings).items()
            }
            accelerator.init_trackers("tracker", config=plain)

    def metrics(self, step: int, values: Mapping[str, Any]) -> None:
        """Write named numbers of one step; lists go to metrics.jsonl alone."""
        if self.accelerator.is_main_process:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
        if self.tracked:
            numbers = {k: v for k, v in values.items() if isinstance(v, int | float)}
            self.accelerator.log(numbers, step=step)

    def pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Write named pictures, uint8 (H, W, 3), to every tracker that shows pictures."""
        if not (self.tracked and self.accelerator.is_main_process):
            return
        for tracker in self.accelerator.trackers:
            if hasattr(tracker, "log_images"):
                batch = {name: picture[None] for name, picture in pictures.items()}
                if tracker.name == "tensorboard":
                    tracker.log_images(batch, step=step, dataformats="NHWC")
                else:
                    tracker.log_images(batch, step=step)

    def sounds(self, step: int, sounds: Mapping[str, SoundSample]) -> None:
        """Write named sounds to every tracker that plays sounds (TensorBoard, wandb)."""
        if not (self.tracked and self.accelerator.is_main_process):
            return
        for tracker in self.accelerator.trackers:
            if tracker.name == "tensorboard":
                for name, (samples, rate) in sounds.items():
                    tracker.tracker.add_audio(name, samples.reshape(1, -1), step, rate)
            elif tracker.name == "wandb":
                import wandb

                played = {name: wandb.Audio(samples.reshape(-1), rate)
                          for name, (samples, rate) in sounds.items()}
                tracker.log(played, step=step)

    def forget_after(self, step: int) -> None:
        """Drop lines of steps that a resumed run will do again."""
        if not (self.accelerator.is_main_process and self.path.exists()):
            return
        kept = [line for line in self.path.read_text(encoding="utf-8").splitlines()
                if _step_of(line) <= step]
        scratch = self.path.with_suffix(".writing")
        scratch.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        os.replace(scratch, self.path)

    def close(self) -> None:
        """Flush the trackers (``end_training`` would also end the process group)."""
        for tracker in self.accelerator.trackers if self.tracked else ():
            tracker.finish()


def require_tracker(name: str) -> None:
    """Raise `ConfigError` unless the tracker's library is installed."""
    modules = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",), "none": ()}
    wanted = modules[name]
    if wanted and not any(importlib.util.find_spec(module) for module in wanted):
        raise ConfigError(
            f"log.tracker is '{name}', which is not installed; pip install {wanted[0]} "
            "or --set log.tracker=none"
        )


def _step_of(line: str) -> float:
    """Step of a line; a line that a kill cut short counts as later than everything."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
