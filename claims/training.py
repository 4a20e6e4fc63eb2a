"""Trains what claims need through the suite's own commands, from plain mappings."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tok_core.file_lock import locked


def train_tokenizer(sense: str, values: Mapping[str, Any], folder: Path) -> Path:
    """Train a tokenizer; return the folder of its model.

    Args:
        sense: ``image`` or ``audio``. values: the run config. folder: of the run.
    """
    from tok_core.run_config import from_mapping

    if sense == "image":
        from vision_tok.train import ImageRun as Run
        from vision_tok.train import train
    else:
        from audio_tok.train import AudioRun as Run  # type: ignore[assignment]
        from audio_tok.train import train  # type: ignore[assignment]
    return finished(train(from_mapping(Run, values), folder))


def finished(model: Path | None) -> Path:
    """Return the folder of a model; stop where its training was interrupted (Ctrl-C)."""
    if model is None:
        raise KeyboardInterrupt
    return model


def loaded(folder: Path | str, device: str) -> Any:
    """Return a model in eval mode on the device."""
    from tok_core.loading import load

    return load(str(folder)).to(device)


def once(folder: Path, make: Callable[[Path], object]) -> Path:
    """Return a folder that is made once and whole: an interruption leaves none of this name.

    Processes that want it at the same time wait for the one that makes it.

    Args:
        folder: where it stands. make: fills the path that it is given, which it makes itself.
    """
    if folder.is_dir():
        return folder
    with locked(folder.with_name(folder.name + ".lock")):
        if not folder.is_dir():
            scratch = folder.with_name(folder.name + ".writing")
            shutil.rmtree(scratch, ignore_errors=True)
            make(scratch)
            scratch.rename(folder)
    return folder


def quiet(steps: int) -> dict[str, Any]:
    """Return the log section of a run that nobody watches."""
    return {
        "every": max(1, steps // 10), "validate_every": 0, "pictures_every": 0, "save_every": 0,
        "tracker": "none",
    }  # fmt: skip
