"""What a killed run leaves behind, so that the same command goes on where it stopped.

    FOLDER/<key>.<rank>of<world>.safetensors    metric states of a leg in work, every 20 seconds
    FOLDER/<key>.json                           scores of a finished leg
    FOLDER/real-<key>....safetensors            the originals' side of distances, shared by legs

A key is a hash over everything that decides the numbers, so that another command never reads them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from eval.launched import Processes
from eval.metric_states import States
from tok_core.atomic_write import write_bytes

EVERY = 20.0  # seconds between two savings


def run_key(facts: Mapping[str, Any]) -> str:
    """Return a hash over plain JSON values, 24 hex digits."""
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


class Checkpoint:
    """The folder of one run.

    Args:
        folder: made when something is saved. processes: of the run.
        every: seconds between two savings.

    Example:
        >>> kept = Checkpoint(Path("out.json.parts"), Processes())
        >>> kept.load("0123")  # doctest: +SKIP
    """

    def __init__(self, folder: Path, processes: Processes, *, every: float = EVERY) -> None:
        self.folder, self.processes, self.every = folder, processes, every
        self.saved_at = time.monotonic()

    def due(self) -> bool:
        """Return whether it is time to save again."""
        return time.monotonic() - self.saved_at >= self.every

    def save(self, key: str, states: States, facts: Mapping[str, Any]) -> None:
        """Save states and plain facts under a key, whole or not at all."""
        from safetensors.torch import save

        tensors: dict[str, Tensor] = {}
        lists: dict[str, int] = {}
        for name, value in states.items():
            if isinstance(value, list):
                lists[name] = len(value)
                tensors |= {f"{name}#{i}": one.contiguous() for i, one in enumerate(value)}
            else:
                tensors[name] = value.contiguous()
        metadata = {"facts": json.dumps(facts), "lists": json.dumps(lists)}
        write_bytes(self._file(key), save(tensors, metadata), force=True)
        self.saved_at = time.monotonic()

    def load(self, key: str) -> tuple[States, dict[str, Any]] | None:
        """Return what was saved under a key by this process, None where there is nothing whole."""
        from safetensors import SafetensorError, safe_open

        path = self._file(key)
        if not path.is_file():
            return None
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            facts, lists = (json.loads(metadata[name]) for name in ("facts", "lists"))
        except (SafetensorError, OSError, KeyError, TypeError, ValueError):
            return None
        states: States = {
            name: [tensors.pop(f"{name}#{i}") for i in range(count)]
            for name, count in lists.items()
        }
        return states | tensors, facts

    def save_scores(self, key: str, plain: Any) -> None:
        """Save a finished leg, and forget its states."""
        write_bytes(self.folder / f"{key}.json", json.dumps(plain).encode(), force=True)
        self.saved_at = time.monotonic()

    def load_scores(self, key: str) -> Any:
        """Return what `save_scores` saved, None where there is nothing."""
        try:
            return json.loads((self.folder / f"{key}.json").read_text())
        except (OSError, ValueError):
            return None

    def forget(self, key: str) -> None:
        """Remove the states of a leg of this process."""
        with contextlib.suppress(OSError):
            self._file(key).unlink()

    def remove(self) -> None:
        """Remove everything: the run is done."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, key: str) -> Path:
        place = f"{self.processes.rank}of{self.processes.world}"
        return self.folder / f"{key}.{place}.safetensors"
