"""A Python function of the user's as a contestant: MODULE:FUNCTION."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from eval.contestant import Contestant, Reconstruction, Signal, stopwatch
from eval.entry_point import load_entry_point, network_hash
from tok_core.errors import ConfigError, MediaError


class EntryPointContestant(Contestant):
    """A function of one signal at a time.

    Args:
        function: takes ``x`` float in [-1, 1], (1, 3, H, W) or (1, 1, T), and, if it has arguments
            of these names, ``budget`` and ``rate`` (Hz). It returns a tensor of the same shape (of
            sound: at the same rate), or that and the bytes of its coding.
        name: as tables call it. sense: of the run.

    Example:
        >>> EntryPointContestant(lambda x: x.round(decimals=1), "rounding", "image")
    """

    def __init__(self, function: Callable[..., Any], name: str, sense: str) -> None:
        self.function = function
        try:
            known = inspect.signature(function).parameters
        except (TypeError, ValueError):
            known = {}  # type: ignore[assignment]
        self.takes = [word for word in ("budget", "rate") if word in known]
        super().__init__(
            name=name, sense=sense, budget_name="budget" if "budget" in self.takes else "",
            weights_hash=network_hash(function),
            identity={"function": repr(function).partition(" at 0x")[0], "text": _text(function)},
        )  # fmt: skip

    def check_budget(self, budget: float | None) -> None:
        """Raise ConfigError for a budget that the function does not take."""
        if budget is not None and "budget" not in self.takes:
            raise ConfigError(f"'{self.name}' has no argument 'budget'; give it no budget.")

    @torch.inference_mode()
    def reconstruct(
        self, signals: Sequence[Signal], budget: float | None = None
    ) -> list[Reconstruction]:
        """Call the function for every signal."""
        made = []
        for signal in signals:
            given = {"budget": budget, "rate": signal.rate}
            with stopwatch() as watch:
                result = self.function(signal.unit[None], **{k: given[k] for k in self.takes})
            result, size = result if isinstance(result, tuple) else (result, None)
            if not isinstance(result, Tensor) or result.shape[:2] != (1, len(signal.values)):
                what = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
                raise MediaError(
                    f"'{self.name}' returned {what} for {(1, *signal.values.shape)}; it must "
                    "return a tensor of the same shape."
                )
            size = len(size) if isinstance(size, bytes) else size
            made.append(
                Reconstruction(
                    result[0].detach().float().cpu(), rate=signal.rate, bytes_on_disk=size,
                    decode_seconds=watch.seconds,
                )
            )  # fmt: skip
        return made


def entry_point(text: str, name: str, sense: str) -> Contestant:
    """Return the contestant behind MODULE:FUNCTION.

    A `Contestant` there, or one that the function returns when it can be called without arguments,
    is taken as it is.

    Raises:
        ConfigError: Python cannot import it.
    """
    found = load_entry_point(
        text, takes="x float (1, 3, H, W) or (1, 1, T) in [-1, 1]",
        others="a shipped model, a model folder, jpeg, opus, ...",
    )
    if isinstance(found, Contestant):
        return found
    return EntryPointContestant(found, name, sense)


def _text(function: Callable[..., Any]) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return ""
