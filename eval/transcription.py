"""Recognisers that the user names: sounds to text, for word error rates.

    transformers:NAME or a local folder     an automatic-speech-recognition pipeline
    MODULE:FUNCTION                         sounds (B, T) at 16 kHz to B texts

Nothing is downloaded: a name must be in the Hugging Face cache already. `eval.word_errors` scores
the text.

Letters: B sounds, T samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eval.entry_point import is_entry_point, load_entry_point, network_hash
from eval.local_network import on_this_machine, transformers_for
from eval.sound_metric import SPEECH_RATE, sound_batches
from tok_core.errors import ConfigError, MediaError

_PREFIX = "transformers:"


@dataclass(frozen=True, kw_only=True)
class Recogniser:
    """A network that writes down speech, behind one call.

    Attributes:
        name: as the user gave it. sample_rate: in Hz of what it hears.
        write: sounds (B, T) to B texts; `texts` checks what goes in.
        weights: hash over its tensors, where it has any.
    """

    name: str
    write: Callable[[Tensor], list[str]]
    weights: str | None = None
    sample_rate: int = SPEECH_RATE

    def texts(self, sounds: Tensor) -> list[str]:
        """Return what is said in sounds of equal length.

        Args:
            sounds: float (B, 1, T), (B, T) or (T,) in [-1, 1] at ``sample_rate``.

        Raises:
            MediaError: empty sounds, NaN, or several channels.

        Example:
            >>> load_recogniser("my_models:whisper").texts(sounds)  # doctest: +SKIP
            ['seven blue lamps shone near the harbour']
        """
        (batch,) = sound_batches(sounds)
        if batch.shape[1] == 0 or not bool(torch.isfinite(batch).all()):
            raise MediaError(
                f"sounds of shape {tuple(batch.shape)} with "
                f"{int((~torch.isfinite(batch)).sum())} samples that are no numbers came in; "
                "a recogniser needs sounds with finite samples: leave these out."
            )
        return self.write(batch)


def load_recogniser(name: str, *, device: str = "cpu") -> Recogniser:
    """Find a recogniser by name; see the module.

    Raises:
        ConfigError: no such entry point, or transformers is not installed.
        WeightsError: a network that is not on this machine.

    Example:
        >>> recogniser = load_recogniser("transformers:facebook/hubert-large-ls960-ft")
    """
    if name.startswith(_PREFIX) or not is_entry_point(name):
        return _transformers(name, name.removeprefix(_PREFIX), device)
    made = load_entry_point(
        name, takes="sounds (B, T) at 16 kHz", others="transformers:NAME", device=device
    )
    return Recogniser(name=name, write=_checked(made, device), weights=network_hash(made))


def _transformers(name: str, source: str, device: str) -> Recogniser:
    from huggingface_hub import snapshot_download

    transformers = transformers_for(name, ", or name an entry point MODULE:FUNCTION")
    files = "its configs, tokenizer and weights"
    with on_this_machine(source, "write down speech", files):
        there = Path(source).expanduser()
        folder = there if there.is_dir() else snapshot_download(source, local_files_only=True)
        run: Any = transformers.pipeline(
            "automatic-speech-recognition", model=str(folder), device=device
        )

    def write(sounds: Tensor) -> list[str]:
        # One by one: the pipeline would pad a batch.
        arrays = [one.float().cpu().numpy() for one in sounds]
        return [run({"raw": one, "sampling_rate": SPEECH_RATE})["text"] for one in arrays]

    return Recogniser(name=name, write=_checked(write, device), weights=network_hash(run.model))


def _checked(call: Callable[[Tensor], Any], device: str) -> Callable[[Tensor], list[str]]:
    """Run without gradients on the network's device, and look at what comes back."""

    @torch.no_grad()
    def write(sounds: Tensor) -> list[str]:
        found = call(sounds.to(device))
        texts = list(found) if isinstance(found, (list, tuple)) else []
        if len(texts) != len(sounds) or not all(isinstance(one, str) for one in texts):
            raise ConfigError(
                f"{len(sounds)} sounds were written down as {type(found).__name__} {found!r:.80}; "
                "legal is a list with one text for each sound."
            )
        return texts

    return write
