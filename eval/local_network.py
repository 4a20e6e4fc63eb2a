"""Networks of other projects' libraries by folder or hub id: what this machine lacks is a sentence.

Nothing is downloaded: an id must be in the Hugging Face cache already.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tok_core.errors import ConfigError, WeightsError
from tok_core.torchaudio_guard import guard_torchaudio


def transformers_for(name: str, otherwise: str = "") -> Any:
    """Return the package transformers, imported behind the torchaudio guard.

    Args:
        name: what needs it, as the user wrote it. otherwise: what else to do without it.

    Raises:
        ConfigError: it is not installed.

    Example:
        >>> transformers_for("mimi:kyutai/mimi").MimiModel  # doctest: +SKIP
    """
    guard_torchaudio()
    try:
        import transformers
    except ImportError:
        raise ConfigError(
            f"'{name}' needs the package transformers, which is not installed; run pip install "
            f"transformers{otherwise}."
        ) from None
    return transformers


@contextmanager
def on_this_machine(
    source: str, use: str, files: str = "config.json, preprocessor_config.json and weights"
) -> Iterator[None]:
    """Turn the errors of loading a network into one sentence.

    Args:
        source: folder or hub id. use: what it was wanted for, an infinitive. files: of its folder.

    Raises:
        WeightsError: the block could not load it.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise WeightsError(
            f"'{source}' cannot be used to {use} ({reason}); put the model's folder with {files} "
            "on this machine and name its path: nothing is downloaded."
        ) from None


def model_of(package: Any, class_name: str, source: str, device: str, **options: Any) -> Any:
    """Return a model of transformers or diffusers that is on this machine, in eval mode.

    Args:
        package: the module. class_name: in it. source: folder or hub id. device: where it runs.
        options: of its ``from_pretrained``.

    Raises:
        WeightsError: no such model here.
    """
    try:
        model = getattr(package, class_name).from_pretrained(
            source, local_files_only=True, **options
        )
    except (OSError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise WeightsError(
            f"no {class_name} '{source}' on this machine ({first}); give a local folder or a hub "
            "id that is in the Hugging Face cache."
        ) from None
    return model.to(device).eval()
