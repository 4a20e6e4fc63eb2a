"""The first few items of a run as files, for a report that one can look at and listen to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from eval.contestant import Contestant, Reconstruction, Signal


class SampleFolder:
    """Originals and reconstructions of the first items: PNG, or FLAC.

    Args:
        folder: beside the score file. count: items kept.

    Attributes:
        kept: what the extras of a score file hold under ``samples``.

    Example:
        >>> SampleFolder(Path("out.samples"), 4).keep(jpeg, 50, signal, made)  # doctest: +SKIP
    """

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder, count

    def keep(
        self, contestant: Contestant, budget: float | None, signal: Signal, made: Reconstruction
    ) -> None:
        """Write one item, unless it is beyond the first few."""
        if signal.index >= self.count:
            return
        if contestant.name != "ground truth":
            self._write(self._path(contestant.name, budget, signal), made.values, made.rate)
        original = self._path("original", None, signal)
        if not original.exists():
            self._write(original, signal.values, signal.rate)

    def described(
        self, contestant: Contestant, budget: float | None, names: list[str], sense: str
    ) -> list[dict[str, Any]]:
        """Return the entries of one leg for the extras of a score file."""
        found = []
        for index, name in enumerate(names[: self.count]):
            paths = [self.folder / self._name(who, at, name, index, sense)
                     for who, at in (("original", None), (contestant.name, budget))]  # fmt: skip
            if all(path.is_file() for path in paths):
                found.append({
                    "contestant": contestant.name, "item": name,
                    "original": f"{self.folder.name}/{paths[0].name}",
                    "reconstruction": f"{self.folder.name}/{paths[1].name}",
                    "budget": budget, "budget_name": contestant.budget_name,
                })  # fmt: skip
        return found

    def _path(self, who: str, budget: float | None, signal: Signal) -> Path:
        sense = "image" if signal.rate is None else "audio"
        return self.folder / self._name(who, budget, signal.name, signal.index, sense)

    def _name(self, who: str, budget: float | None, name: str, index: int, sense: str) -> str:
        at = "" if budget is None else f"-{budget:g}"
        words = re.sub(r"[^A-Za-z0-9.]+", "_", f"{Path(name).stem}-{who}")
        return f"{index:04d}-{words}{at}" + (".png" if sense == "image" else ".flac")

    def _write(self, path: Path, values: Tensor, rate: int | None) -> None:
        if rate is not None:
            from audio_tok.audio_file import write_audio

            write_audio(path, values, rate, force=True)
            return
        import io

        import torch
        from PIL import Image

        from tok_core.atomic_write import write_bytes
        from tok_core.image_measures import to_uint8

        pixels = values if values.dtype == torch.uint8 else to_uint8(values)
        buffer = io.BytesIO()
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(buffer, format="PNG")
        write_bytes(path, buffer.getvalue(), force=True)
