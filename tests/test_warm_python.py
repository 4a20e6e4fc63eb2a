"""A process forked from the warm server is what a fresh interpreter would be, only sooner."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.warm_python import ROOT, WarmProcess, launch, run

SHOW = """
import json, os, sys
print(json.dumps([sys.argv, __name__, os.getcwd(), list(dict.fromkeys(sys.path)),
                  os.environ.get("MORE"), sys.modules["__main__"].__dict__ is globals()]))
"""
OURS = {"tok_core", "vision_tok", "audio_tok", "generators", "eval", "tessera", "assets", "tests"}


def fresh(words: tuple[str, ...], folder: Path) -> Any:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MORE": "more"}
    command = [sys.executable, *words]
    return json.loads(subprocess.check_output(command, cwd=folder, env=environment))


@pytest.mark.parametrize("words", [("-c", SHOW, "a", "b c"), ("-m", "show", "a")])
def test_it_sees_what_a_fresh_one_sees(words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "show.py").write_text(SHOW)
    done = run(*words, cwd=tmp_path, env={"MORE": "more"})
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == fresh(words, tmp_path)


def test_nothing_of_ours_is_there_yet(tmp_path: Path) -> None:
    import generators.llamagen  # noqa: F401 - what a test imported is not seen

    done = run("-c", "import sys; print(*sys.modules)", cwd=tmp_path)
    found = {name.partition(".")[0] for name in done.stdout.split()}
    assert "torch" in found and not found & OURS


def test_how_it_ends(tmp_path: Path) -> None:
    def end(code: str) -> tuple[int, str, str]:
        done = run("-c", code, cwd=tmp_path)
        return done.returncode, done.stdout, done.stderr

    last = "import atexit; atexit.register(print, 'last')\n"
    assert end(last + "print('first')") == (0, "first\nlast\n", "")
    assert end("import sys; sys.exit(3)") == (3, "", "")
    assert end("import sys; sys.exit('a sentence')") == (1, "", "a sentence\n")
    code, _, errors = end("1/0")
    assert code == 1 and errors.splitlines()[-1] == "ZeroDivisionError: division by zero"
    assert "Traceback" in errors


def test_it_can_be_killed(tmp_path: Path) -> None:
    process = WarmProcess("-c", "import time; time.sleep(60)", cwd=tmp_path)
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    process.kill()
    assert process.wait(60) == -signal.SIGKILL


def test_several_know_their_places_and_fall_together(tmp_path: Path) -> None:
    code = "import os; print(os.environ['RANK'], os.environ['WORLD_SIZE'])"
    assert launch("-c", code, processes=2, cwd=tmp_path).stdout == "0 2\n1 2\n"
    alone = "import os; assert 'RANK' not in os.environ"
    assert launch("-c", alone, processes=1, cwd=tmp_path).returncode == 0
    began = time.monotonic()
    code = "import os, sys, time; os.environ['RANK'] == '1' and sys.exit(4); time.sleep(300)"
    assert launch("-c", code, processes=2, cwd=tmp_path).returncode == 4
    assert time.monotonic() - began < 200
