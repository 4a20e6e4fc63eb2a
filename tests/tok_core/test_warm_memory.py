"""Memory that stays warm: the second large block costs no page faults."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import resource, sys
from tok_core.warm_memory import keep_memory_warm
if sys.argv[1] == "warm" and not keep_memory_warm():
    sys.exit(3)
import torch
def use():
    torch.empty(1 << 24).fill_(1.0)  # 64 MiB
for _ in range(24):  # the heap grows to its final shape in the first uses
    use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(6):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(kind: str) -> int:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", CODE, kind], env=environment, capture_output=True, text=True
    )
    return -1 if done.returncode == 3 else int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_warm_memory_faults_far_less() -> None:
    warm = faults("warm")
    if warm >= 0:  # another C library keeps its own policy
        assert warm < faults("cold") / 10
