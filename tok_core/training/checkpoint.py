"""The complete training state on disk: safetensors and JSON, never a pickle, never half a folder.

    run/checkpoints/step_00000500/
        model.safetensors, ema.safetensors, objective.safetensors   weights and buffers
        optimizer.safetensors, discriminator_optimizer.safetensors  "<parameter>/<moment>"
        random_0.safetensors, random_0.json                         one pair per process
        state.json                                                  step, counters, format

Everything is written to a hidden folder, flushed to the disk, and renamed: a checkpoint either has
its final name and is whole, or it does not exist.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tok_core.errors import ConfigError, TesseraError, WeightsError
from tok_core.training.sharding import sharded_like

FORMAT = 1
_NAME = re.compile(r"step_(\d{8,})")


def checkpoints(folder: Path) -> list[Path]:
    """Return the whole checkpoints in ``folder``, oldest first."""
    found = [p for p in folder.glob("step_*") if _NAME.fullmatch(p.name)]
    return sorted(found, key=lambda p: int(p.name[5:]))


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the newest whole checkpoint, or None."""
    found = checkpoints(folder)
    return found[-1] if found else None


def write_checkpoint(
    folder: Path,
    step: int,
    write: Callable[[Path], None],
    *,
    keep_last: int,
    main: bool = True,
    wait: Callable[[], None] = lambda: None,
) -> Path:
    """Write one checkpoint atomically and delete all but the newest ``keep_last``.

    Args:
        folder: the run's ``checkpoints`` folder.
        step: optimizer steps done.
        write: puts this process's files into the folder it is given.
        keep_last: checkpoints that stay.
        main: whether this process renames and deletes.
        wait: barrier over processes.

    Returns:
        The folder under its final name.

    Raises:
        TesseraError: the disk is full or read-only; earlier checkpoints are untouched.
    """
    final = folder / f"step_{step:08d}"
    scratch = folder / f".writing_{step:08d}"
    try:
        if main:
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(parents=True)
        wait()
        write(scratch)
        wait()
        if main:
            for file in scratch.iterdir():
                _flush(file)
            _flush(scratch)
            if final.exists():
                shutil.rmtree(final)
            os.rename(scratch, final)
            _flush(folder)
            for old in checkpoints(folder)[:-keep_last]:
                # Renamed first: a kill in the middle of deleting must not leave a named half.
                hidden = old.with_name(f".old_{old.name}")
                os.rename(old, hidden)
                shutil.rmtree(hidden, ignore_errors=True)
        wait()
    except (OSError, SafetensorError) as error:
        shutil.rmtree(scratch, ignore_errors=True)
        raise TesseraError(
            f"checkpoint of step {step} could not be written to {folder} ({error}); free space or "
            "choose another --out, then --resume from the last one"
        ) from None
    return final


def remove_leftovers(folder: Path) -> None:
    """Delete hidden folders that a killed run left behind."""
    for leftover in [*folder.glob(".writing_*"), *folder.glob(".old_*")]:
        shutil.rmtree(leftover, ignore_errors=True)


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write named tensors; each gets memory of its own, as safetensors asks."""
    save_file({name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}, path)


def save_json(value: Any, path: Path) -> None:
    """Write JSON."""
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read JSON of a checkpoint; raises `WeightsError` when it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{path} cannot be read ({error}); delete this checkpoint and --resume from an older"
        ) from None


def load_module(module: nn.Module, path: Path, keep: Callable[[str], bool] = lambda name: True
                ) -> None:
    """Fill a module from one file; every wanted key on either side must be there."""
    tensors = fitting(module, path, keep)
    ours = module.state_dict()
    placed = {name: sharded_like(tensor, ours[name]) for name, tensor in tensors.items()}
    module.load_state_dict(placed, strict=False)


def fitting(
    module: nn.Module, path: Path, keep: Callable[[str], bool] = lambda name: True
) -> dict[str, Tensor]:
    """Read the tensors of a module; names and shapes must be those of its state."""
    tensors = _read(path)
    wanted = {name: t for name, t in module.state_dict().items() if keep(name)}
    _same_keys(set(tensors), set(wanted), path)
    for name, ours in wanted.items():
        if ours.shape != tensors[name].shape:
            raise WeightsError(
                f"{path} holds '{name}' with shape {tuple(tensors[name].shape)}, the config makes "
                f"{tuple(ours.shape)}; resume with the config the run began with"
            )
    return tensors


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str]
) -> dict[str, Tensor]:
    """Flatten an optimizer's state to ``"<parameter name>/<moment>"`` tensors."""
    return {
        f"{names[parameter]}/{moment}": torch.as_tensor(value)
        for parameter, state in optimizer.state.items()
        for moment, value in state.items()
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str], path: Path
) -> None:
    """Put flattened state back, parameter by parameter (those never stepped have none)."""
    tensors = _read(path)
    by_name = {name: parameter for parameter, name in names.items()}
    ours = {names[p] for group in optimizer.param_groups for p in group["params"]}
    theirs = {key.rpartition("/")[0] for key in tensors}
    if theirs - ours:
        _same_keys(theirs, theirs & ours, path)
    optimizer.state.clear()
    for key, tensor in tensors.items():
        name, _, moment = key.rpartition("/")
        parameter = by_name[name]
        # The fused AdamW keeps its step count, too, beside the parameter.
        like = parameter.detach() if tensor.shape == parameter.shape else tensor
        optimizer.state[parameter][moment] = sharded_like(tensor, like).to(parameter.device)


def save_random_state(folder: Path, process: int) -> None:
    """Write this process's python, numpy, torch and CUDA random streams."""
    tensors = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    kind, keys, position, has_gauss, cached = np.random.get_state()
    version, internal, gauss = random.getstate()
    save_tensors(tensors, folder / f"random_{process}.safetensors")
    save_json(
        {
            "python": [version, list(internal), gauss],
            "numpy": [str(kind), [int(k) for k in keys], int(position), int(has_gauss),
                      float(cached)],
        },
        folder / f"random_{process}.json",
    )


def load_random_state(folder: Path, process: int) -> bool:
    """Restore what `save_random_state` wrote; False when this process wrote nothing then."""
    path = folder / f"random_{process}.json"
    if not path.exists():
        return False
    state = read_json(path)
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    tensors = _read(folder / f"random_{process}.safetensors")
    torch.set_rng_state(tensors["torch"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])
    return True


def check_format(state: Mapping[str, Any], path: Path) -> None:
    """Refuse a checkpoint of another format version."""
    if state.get("format") != FORMAT:
        raise ConfigError(
            f"{path} has format {state.get('format')}, this version reads {FORMAT}; resume it with "
            "the version that wrote it"
        )


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"{path} cannot be read ({error}); delete this checkpoint and --resume from an older"
        ) from None


def _same_keys(theirs: set[str], ours: set[str], path: Path) -> None:
    if theirs != ours:
        odd = sorted(theirs ^ ours)
        side = "only in the file" if odd[0] in theirs else "missing in the file"
        raise WeightsError(
            f"{path} does not fit the config: {len(odd)} names differ, '{odd[0]}' is {side}; "
            "resume with the config the run began with"
        )


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
