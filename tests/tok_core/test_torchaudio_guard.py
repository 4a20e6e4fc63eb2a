"""The guard lets a torchaudio whose compiled extension cannot load be imported all the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

BROKEN = {
    "__init__.py": "from . import _extension\nfrom .functional import ready\n",
    "_extension/__init__.py": "raise OSError('libcudart.so.13: cannot open shared object file')\n",
    "functional.py": (
        "from torchaudio._extension import _IS_TORCHAUDIO_EXT_AVAILABLE, fail_if_no_align\n"
        "ready = not _IS_TORCHAUDIO_EXT_AVAILABLE\n"
        "@fail_if_no_align\ndef align():\n    return 1\n"
    ),
}


def _run(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(folder), str(root)])
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": path}, check=False,
    )  # fmt: skip


def test_a_torchaudio_with_a_broken_extension_imports_behind_the_guard(tmp_path: Path) -> None:
    for name, text in BROKEN.items():
        file = tmp_path / "torchaudio" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert "OSError" in _run(tmp_path, "import torchaudio").stderr
    guarded = (
        "from tok_core.torchaudio_guard import guard_torchaudio\n"
        "guard_torchaudio(); guard_torchaudio()\n"
        "import torchaudio\nassert torchaudio.ready\n"
        "from torchaudio.functional import align\n"
        "try:\n    align()\nexcept RuntimeError as e:\n    print('refused', e)\n"
    )
    done = _run(tmp_path, guarded)
    assert done.returncode == 0 and "refused align" in done.stdout, done.stderr


def test_importing_the_ground_floor_imports_nothing_heavy() -> None:
    code = "import sys, tok_core; assert not {'torch', 'diffusers', 'numpy'} & set(sys.modules)"
    assert _run(Path(), code).returncode == 0
