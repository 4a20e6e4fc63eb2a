"""Run our programs each in a process of its own, forked from one that has imported the libraries.

A fresh Python spends seconds on torch and diffusers before the first line of ours runs. Here a
server imports them once for all tests of a process. Each child is forked from it, so none of our
modules is imported there yet, and nothing that a test did is seen. Tests of import times, of
installed packages or of limits on memory start Python itself.
"""

from __future__ import annotations

import atexit
import json
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Mapping
from functools import cache
from multiprocessing.forkserver import ensure_running
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
# Libraries only. What is not installed is passed over.
PRELOADED = [
    "torch.distributed", "diffusers.models.modeling_utils", "accelerate", "torchmetrics",
    "typer.rich_utils", "yaml", "PIL.Image",
]  # fmt: skip


@cache
def installed() -> list[str]:
    """Return where a fresh interpreter looks: tests and libraries add to this one's path."""
    program = "import json, sys; print(json.dumps(sys.path[1:]))"
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    found: list[str] = json.loads(
        subprocess.check_output([sys.executable, "-c", program], env=plain)
    )
    return found


def start_server() -> None:
    """Start the process that all are forked from, if it does not run yet."""
    multiprocessing.set_forkserver_preload(PRELOADED)
    # Read when the library is imported, so a child's own value would come too late.
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        ensure_running()
    finally:
        del os.environ["HF_HUB_OFFLINE"]
        if before is not None:
            os.environ["HF_HUB_OFFLINE"] = before


class WarmProcess:
    """A running ``python WORDS``, used as a ``subprocess.Popen`` with pipes for its output.

    Args:
        words: ``-m``, a module and its arguments, or ``-c``, a program and its arguments.
        cwd: where it runs.
        env: environment variables beside those of the tests, one thread and the repository on
            its path. ``PYTHONPATH`` and ``OMP_NUM_THREADS`` mean what they mean to a fresh one.

    Example:
        >>> WarmProcess("-c", "print(1)", cwd=Path()).communicate(60)
        ('1\\n', '')
    """

    def __init__(self, *words: str, cwd: Path, env: Mapping[str, str] | None = None) -> None:
        start_server()
        self._folder = tempfile.TemporaryDirectory(prefix="warm_python")
        for name in ("out", "err"):  # it may be killed before it opens them
            Path(self._folder.name, name).touch()
        own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        environment = {**os.environ, **own, **(env or {})}
        context = multiprocessing.get_context("forkserver")
        self._process = context.Process(
            target=_work, args=(words, str(cwd), environment, self._folder.name, installed()),
            daemon=True,  # none outlives the tests
        )
        self._process.start()
        self.pid = self._process.pid or 0

    @property
    def returncode(self) -> int | None:
        """Exit code, negative where a signal ended it; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return the exit code; None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL, unless it has ended."""
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code once it has ended.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired("python", timeout or 0.0)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Return what it wrote on stdout and on stderr, once it has ended."""
        self.wait(timeout)
        out, err = (Path(self._folder.name, name).read_text() for name in ("out", "err"))
        self._folder.cleanup()
        return out, err


def run(
    *words: str, cwd: Path, env: Mapping[str, str] | None = None, timeout: float = 600
) -> subprocess.CompletedProcess[str]:
    """Return what ``python WORDS`` wrote and its exit code; it is killed after ``timeout`` s.

    Example:
        >>> run("-m", "tessera", "info", cwd=Path()).returncode
        0
    """
    return _finished(words, [WarmProcess(*words, cwd=cwd, env=env)], timeout)


def launch(
    *words: str, processes: int, cwd: Path, env: Mapping[str, str] | None = None,
    timeout: float = 600,
) -> subprocess.CompletedProcess[str]:  # fmt: skip
    """Run ``python WORDS`` in several processes that find each other, as torchrun starts them.

    What they wrote is joined. Where one fails its exit code is returned and the others are
    killed, as torchrun does. One process alone gets no variables, as ``python`` starts it.
    """
    if processes == 1:
        return run(*words, cwd=cwd, env=env, timeout=timeout)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GROUP_RANK": "0",
    }  # fmt: skip
    base = {**(env or {}), **common}
    started = [
        WarmProcess(*words, cwd=cwd, env=base | {"RANK": rank, "LOCAL_RANK": rank})
        for rank in map(str, range(processes))
    ]
    return _finished(words, started, timeout)


def _finished(
    words: tuple[str, ...], started: list[WarmProcess], timeout: float
) -> subprocess.CompletedProcess[str]:
    """Wait until all have ended or one failed; none outlives this call."""
    deadline = time.monotonic() + timeout
    failed = 0
    try:
        while not failed and any(one.poll() is None for one in started):
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(words, timeout)
            time.sleep(0.01)
            failed = next((one.returncode for one in started if one.returncode), 0)
        failed = failed or next((one.returncode for one in started if one.returncode), 0)
    finally:
        for one in started:
            one.kill()
    said = [one.communicate(60) for one in started]
    out, err = ("".join(part) for part in zip(*said, strict=True))
    return subprocess.CompletedProcess(words, failed, out, err)


def _work(
    words: tuple[str, ...], cwd: str, environment: dict[str, str], folder: str, path: list[str]
) -> None:
    """Become ``python WORDS`` in the forked process."""
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_APPEND), number)
    multiprocessing.current_process().daemon = False  # those may have no children
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    kind, what, *arguments = words
    named = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [cwd if kind == "-m" else "", *filter(None, named), *path]
    # The ordinary Ctrl-C, also where the tests run in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))  # it was read long ago
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]
    try:
        if kind == "-m":
            sys.argv = [what, *arguments]
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            sys.argv = [kind, *arguments]
            main = sys.modules["__main__"] = types.ModuleType("__main__")
            exec(compile(what, "<string>", "exec"), vars(main))
    finally:
        atexit._run_exitfuncs()  # forked processes end without
