"""Speed columns: how fast a contestant codes, against real time, and what memory that takes."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

_KEYS = ("encode_items", "encode_seconds", "decode_items", "decode_seconds", "media_seconds")


class SpeedMeter(Metric):
    """Seconds of encoding and decoding over many items, and the largest memory seen.

    Args:
        options: of `torchmetrics.Metric`.

    Returns (compute):
        dict of float64, each only where it was measured: ``speed/encode`` and ``speed/decode`` in
        items per second, for sounds ``speed/rtf`` (seconds of work per second of sound, below 1 is
        faster than it sounds), ``speed/memory`` in MiB, the peak of the whole process (of the
        device, on a GPU).

    Example:
        >>> meter = SpeedMeter()
        >>> meter.update(0.5, 0.25, media_seconds=10.0)
        >>> float(meter.compute()["speed/rtf"])
        0.075
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False
    sums: Tensor
    peak: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        zeros = torch.zeros(len(_KEYS), dtype=torch.float64)
        self.add_state("sums", zeros, dist_reduce_fx="sum", persistent=True)
        zero = torch.zeros((), dtype=torch.float64)
        self.add_state("peak", zero, dist_reduce_fx="max", persistent=True)

    def update(
        self, encode: float | None, decode: float | None, *, media_seconds: float = 0.0
    ) -> None:
        """Take one item: seconds of both ways, None where not timed, and how long it sounds."""
        values = (encode is not None, encode or 0.0, decode is not None, decode or 0.0,
                  media_seconds)  # fmt: skip
        self.sums += torch.tensor([float(v) for v in values], dtype=torch.float64)

    def note_memory(self, mebibytes: float | None) -> None:
        """Keep the larger of this and what was noted before."""
        if mebibytes is not None:
            self.peak = torch.maximum(self.peak, self.peak.new_tensor(mebibytes))

    def compute(self) -> dict[str, Tensor]:
        """Return the figures; see the class."""
        s = dict(zip(_KEYS, self.sums.unbind(), strict=True))
        found: dict[str, Tensor] = {}
        for way in ("encode", "decode"):
            if s[f"{way}_items"] > 0 and s[f"{way}_seconds"] > 0:
                found[f"speed/{way}"] = s[f"{way}_items"] / s[f"{way}_seconds"]
        seconds = s["encode_seconds"] + s["decode_seconds"]
        if s["media_seconds"] > 0 and seconds > 0:
            found["speed/rtf"] = seconds / s["media_seconds"]
        if self.peak > 0:
            found["speed/memory"] = self.peak.clone()
        return found


def reset_peak_memory(device: str) -> None:
    """Begin to look for a new peak."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform.startswith("linux"):
        # Linux counts the peak anew after a 5 was written here, where that is allowed.
        with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
            file.write("5")


def peak_memory(device: str) -> float | None:
    """Return the peak since then in MiB: of the device on a GPU, else of this process."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 2**20
    with contextlib.suppress(OSError), open("/proc/self/status") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    with contextlib.suppress(ImportError):
        import resource

        size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return size / (2**20 if sys.platform == "darwin" else 2**10)
    return None
