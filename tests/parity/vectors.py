"""What the parity tests share: where the vectors are, how they are read, matched and compared.

A set is a folder below `PARITY`; each of its cases is a folder with an ``io.safetensors``, mostly
with a ``config.json`` and weights beside it.  Readers keep what they read and hand the same object
to every test: clone what is to be changed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

SHARED = Path(__file__).parents[3] / "shared" / "parity"
PARITY = Path(os.environ.get("TESSERA_PARITY_DIR", SHARED))


def parity_folder(name: str, holds: str = "") -> Path:
    """Return a set's folder; skip the calling module where it, or the file it holds, is missing."""
    __tracebackhide__ = True  # the skip is reported where the set is asked for
    folder = PARITY / name
    if not ((folder / holds).is_file() if holds else folder.is_dir()):
        pytest.skip(f"no parity vectors at {folder}", allow_module_level=True)
    return folder


def folders_with(file: str, root: Path) -> list[Path]:
    """Return every folder at or below ``root`` that holds the file."""
    return sorted(path.parent for path in root.rglob(file))


def place(folder: Path) -> str:
    """Return where a folder is within its set, a dot for the set itself."""
    return "/".join(folder.relative_to(PARITY).parts[1:]) or "."


@cache
def keys_of(folder: Path, name: str = "io") -> frozenset[str]:
    """Return the keys of ``<name>.safetensors``; a file that is not there has none."""
    file = folder / f"{name}.safetensors"
    if not file.is_file():
        return frozenset()
    with safe_open(file, "pt") as tensors:
        return frozenset(tensors.keys())


@cache
def tensors_of(folder: Path, name: str = "io") -> dict[str, Tensor]:
    """Return what ``<name>.safetensors`` holds."""
    return load_file(folder / f"{name}.safetensors")


@cache
def config_of(folder: Path) -> dict[str, Any]:
    """Return the ``config.json`` of a folder."""
    return json.loads((folder / "config.json").read_text())


def manifest_of(folder: Path) -> dict[str, Any]:
    """Return the rows (key, shape, dtype) of every full-size file; none without a manifest."""
    file = folder / "manifest_full.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def meta_state(rows: Iterable[Any]) -> dict[str, Tensor]:
    """Return tensors without storage in the shapes of a manifest's rows."""
    return {key: torch.empty(shape, device="meta") for key, shape, _ in rows}


class Tolerance(NamedTuple):
    """What an entry may be off by: the sum of three parts; integers only by `off_by_one`."""

    absolute: float = 0.0
    relative: float = 0.0  # of the entry itself
    peak: float = 0.0  # of the tensor's largest entry
    floor: float = 0.0  # the least that the largest entry counts as
    off_by_one: float = 0.0  # share of the entries of an integer tensor that may be

    def allowed(self, expected: Tensor) -> Tensor:
        """Return the limit for every entry."""
        size = expected.double().abs()
        return self.absolute + self.relative * size + self.peak * size.max().clamp(min=self.floor)


def close(ours: Tensor, expected: Tensor, tolerance: Tolerance) -> None:
    """Assert shape, kind of number and values."""
    ours = ours.detach()
    assert ours.shape == expected.shape, f"{tuple(ours.shape)}, not {tuple(expected.shape)}"
    error = (ours.double() - expected.double()).abs()
    if not expected.is_floating_point():
        share = float((error > 0).double().mean())
        assert float(error.max()) <= 1 and share <= tolerance.off_by_one, f"{share:.3g} differ"
        return
    assert ours.dtype == expected.dtype, f"{ours.dtype}, not {expected.dtype}"
    excess = error - tolerance.allowed(expected)
    # Nothing that is not a number passes, nor what an infinite entry would allow.
    assert float(excess.max()) <= 0, f"off by {error.max():.3g}"


Compute = Callable[..., Tensor]


class Kind(NamedTuple):
    """What to compute for every key that a pattern fits."""

    name: str
    pattern: re.Pattern[str]
    tolerance: Tolerance
    compute: Compute


class Kinds:
    """The kinds of tensors in folders: the first kind whose pattern fits a key computes it.

    Keys of ``elsewhere`` are inputs or another module's; every other key is a case, and fails if
    no kind fits.  Without ``elsewhere`` the cases are the keys that a kind fits.
    """

    def __init__(
        self, folders: list[Path], tolerance: Tolerance, elsewhere: re.Pattern[str] | None = None
    ) -> None:
        self.folders, self.tolerance, self.elsewhere = folders, tolerance, elsewhere
        self.kinds: list[Kind] = []

    def kind(
        self, name: str, pattern: str, tolerance: Tolerance | None = None
    ) -> Callable[[Compute], Compute]:
        """Register ``compute(folder, *groups of the pattern)``."""

        def register(compute: Compute) -> Compute:
            kind = Kind(name, re.compile(pattern), tolerance or self.tolerance, compute)
            self.kinds.append(kind)
            return compute

        return register

    def find(self, key: str) -> tuple[Kind, tuple[Any, ...]] | None:
        """Return the kind of a key and the groups of its pattern."""
        for kind in self.kinds:
            if match := kind.pattern.fullmatch(key):
                return kind, match.groups()
        return None

    def _found(self, folder: Path) -> list[tuple[str, Kind | None]]:
        """(key, kind) for every case of a folder."""
        pairs = [(key, self.find(key)) for key in sorted(keys_of(folder))]
        return [
            (key, found and found[0]) for key, found in pairs
            if (not self.elsewhere.fullmatch(key) if self.elsewhere else found)
        ]  # fmt: skip

    def cases(self, label: Callable[[Path, str, str], str] | None = None) -> list[Any]:
        """Return (folder, key) for every case; the id is ``label(folder, kind's name, key)``."""
        label = label or (lambda folder, _, key: f"{place(folder)}:{key}")
        return [
            pytest.param(folder, key, id=label(folder, kind.name if kind else "unknown", key))
            for folder in self.folders
            for key, kind in self._found(folder)
        ]

    def unknown(self, folder: Path) -> list[str]:
        """Return the keys of a folder that are cases but that no kind fits."""
        return [key for key, kind in self._found(folder) if kind is None]

    def unused(self) -> list[str]:
        """Return the names of the kinds that no case asks for."""
        used = {kind for folder in self.folders for _, kind in self._found(folder)}
        return [kind.name for kind in self.kinds if kind not in used]

    def check(self, folder: Path, key: str, tolerance: Tolerance | None = None) -> None:
        """Compute a case and compare; the tolerance is the kind's unless given."""
        found = self.find(key)
        assert found is not None, f"no test computes {key}"
        kind, groups = found
        close(kind.compute(folder, *groups), tensors_of(folder)[key], tolerance or kind.tolerance)
