"""The one guard around torchaudio's optional compiled extension.

Beside a CPU build of torch, torchaudio 2.11's extension links CUDA libraries that are not there and
its import raises OSError, which takes transformers models and most of diffusers down with it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

# Threads that read files need it at the same time; half an import must not pass for a whole one.
_ONE_AT_A_TIME = threading.RLock()


def guard_torchaudio() -> None:
    """Register torchaudio's own "extension not available" state before its first import.

    Call it before every import of torchaudio, transformers, or diffusers beyond
    ModelMixin/ConfigMixin.  It does nothing when torchaudio is absent, already imported, or imports
    as it is; calling it twice is harmless.

    Example:
        >>> guard_torchaudio()
    """
    with _ONE_AT_A_TIME:
        if "torchaudio" in sys.modules or importlib.util.find_spec("torchaudio") is None:
            return
        try:
            importlib.import_module("torchaudio")
        except OSError:
            for name in [n for n in sys.modules if n.split(".")[0] == "torchaudio"]:
                del sys.modules[name]
            sys.modules["torchaudio._extension"] = _extension_not_available()
            importlib.import_module("torchaudio")


def _extension_not_available() -> ModuleType:
    """Build the state that torchaudio reaches by itself when it ships without its extension."""

    def fail_if_no_align(function: Callable[..., Any]) -> Callable[..., Any]:
        def unavailable(*args: Any, **kwargs: Any) -> Any:
            raise RuntimeError(f"{function.__name__} needs torchaudio's compiled extension.")

        return unavailable

    module = ModuleType("torchaudio._extension")
    module.__dict__.update(
        _IS_TORCHAUDIO_EXT_AVAILABLE=False,
        _IS_ALIGN_AVAILABLE=False,
        fail_if_no_align=fail_if_no_align,
        _check_cuda_version=lambda: None,
    )
    return module
