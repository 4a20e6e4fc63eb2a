"""What the benchmark scripts share: best times, extra memory, the machine's limit, kept results."""

from __future__ import annotations

import ctypes
import gc
import json
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def alternate(runs: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the best seconds of each, run in turns so that noise meets all of them."""
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(repeats + 1):  # the first round only warms up
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def begun(
    path: Path, facts: Mapping[str, Any], *, force: bool = False, **empty: Any
) -> dict[str, Any]:
    """Return the result that a resumable script has kept so far, or a new one.

    Args:
        path: the JSON file. facts: what decides the numbers; those of another run are refused.
        force: begin again. empty: what a new result holds beside the facts, such as ``rows=[]``.
    """
    if not path.is_file() or force:
        return {**facts, **empty}
    result: dict[str, Any] = json.loads(path.read_text())
    for name, value in facts.items():
        if result.get(name) != value:
            raise SystemExit(
                f"{path} holds results of another setting ({name}); move it away, or give --out "
                "another file"
            )
    return result


def keep(result: Mapping[str, Any], path: Path) -> None:
    """Write a result whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".writing")
    scratch.write_text(json.dumps(result, indent=1) + "\n")
    scratch.replace(path)


def resident(field: str) -> int:
    """Return VmRSS (now) or VmHWM (peak) of this process in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}; memory is measured on Linux only")


def extra_bytes(function: Callable[[], Any]) -> int:
    """Return the peak resident size during one call above the size before it."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what earlier calls freed must not serve this one
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident("VmRSS")
    function()
    return resident("VmHWM") - before


def matmul_peak(dtype: Any) -> float:
    """Return the best GFLOP/s of one 2048-cubed product through MKL or oneDNN."""
    import torch
    from torch.nn import functional as F

    a, b = torch.randn(2048, 2048, dtype=dtype), torch.randn(2048, 2048, dtype=dtype)
    picture = a.view(1, 2048, 1, 2048).permute(0, 3, 1, 2)
    runs: dict[str, Callable[[], object]] = {
        "linear": lambda: F.linear(a, b),
        "convolution": lambda: F.conv2d(picture, b.view(2048, 2048, 1, 1)),
    }
    return 2 * 2048**3 / min(alternate(runs, 8).values()) / 1e9


def processor() -> str:
    """Return the name of the processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
