"""New model folders: there only where that is allowed, and whole or not at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tok_core.errors import TesseraError

if TYPE_CHECKING:
    from tok_core.model import Model


def check_new(output: Path, *, force: bool) -> None:
    """Refuse a folder that exists, before the work that would fill it.

    Raises:
        TesseraError: it exists, without ``force``.
    """
    if output.exists() and not force:
        raise TesseraError(f"'{output}' exists; nothing is overwritten without --force.")


def save_whole(model: Model, output: Path) -> None:
    """Save a model folder that appears whole or not at all, replacing an older one.

    Raises:
        TesseraError: the disk is full or cannot be written.
    """
    from safetensors import SafetensorError

    from tok_core.atomic_write import write_error

    part = output.parent / f".{output.name}.{os.getpid()}.part"
    try:
        part.mkdir(parents=True)
        model.save_pretrained(part)
        if output.is_dir():
            if not (output / "config.json").is_file() and any(output.iterdir()):
                raise TesseraError(f"'{output}' is no model folder; it is not replaced.")
            shutil.rmtree(output)
        part.rename(output)
    except OSError as error:
        raise write_error(output, error) from None
    except SafetensorError as error:
        # safetensors wraps the system's error; its text carries the reason.
        raise TesseraError(f"{output} cannot be written: {error}.") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
