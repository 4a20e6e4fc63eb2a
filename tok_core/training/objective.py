"""What a training engine asks of the losses of any tokenizer, of either sense."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn.modules.module import _IncompatibleKeys

if TYPE_CHECKING:
    from tok_core.contract import TrainingOutput


class Objective(nn.Module):
    """Losses of the tokenizer and, where there is one, of its discriminator.

    The engine calls, in each step, ``model(model_input(x), **model_inputs(x))`` and
    `generator_losses`, sums the terms, steps the tokenizer, and then, if `discriminator_active`,
    `discriminator_losses` on the *same* output (made before the tokenizer was updated), and steps
    the discriminator.  Each term is a separate named scalar, already weighted, so that a NaN can be
    traced to its term.
    ``state_dict`` holds what resuming needs: the discriminator and running averages, never frozen
    pretrained networks.

    Attributes:
        discriminator: the trainable second player, or None.  An engine may wrap it (DDP).
        last_statistics: raw values of the latest call by slash name, detached, for the tracker.

    Example:
        >>> total = sum(objective.generator_losses(x, model(x), step=0).values())
    """

    # Sub-modules that are pretrained and frozen: kept out of the state dict.
    frozen_parts: tuple[str, ...] = ()

    discriminator: nn.Module | None
    # Whether parts of the discriminator may be left out of a step.
    staged: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.register_module("discriminator", None)
        self.last_statistics: dict[str, float | Tensor] = {}
        self.register_state_dict_post_hook(_drop_frozen_parts)
        self.register_load_state_dict_post_hook(_forgive_frozen_parts)

    def before_step(self, model: Any, step: int, steps: int) -> None:
        """Set what changes in the model over a training of ``steps``, before step ``step``."""

    def model_input(self, x: Any) -> Tensor:
        """Return the first argument of the model's ``forward``; here the batch itself."""
        return x

    def model_inputs(self, x: Any) -> dict[str, Any]:
        """Return what the model's ``forward`` takes beside it, without gradients; here nothing.

        A teacher's features go in this way when the model projects them with weights that train.
        """
        return {}

    def generator_losses(self, x: Tensor, out: TrainingOutput, step: int) -> dict[str, Tensor]:
        """Return the tokenizer's weighted loss terms by name; the engine adds them up.

        Args:
            x: the batch, in the contract's range.
            out: what ``model(x)`` returned.
            step: optimizer steps done before this one, from 0.

        Returns:
            Scalars by slash name, e.g. ``"loss/reconstruction"``; here the tokenizer's own.
        """
        return {f"loss/{name}": value for name, value in out.losses.items()}

    def discriminator_active(self, step: int) -> bool:
        """Return whether the discriminator is trained in this step."""
        return False

    def discriminator_losses(
        self, x: Tensor, out: TrainingOutput, step: int
    ) -> dict[str, Tensor]:
        """Return the discriminator's weighted loss terms by name; empty without one.

        Args and names as in `generator_losses`; the output is detached inside.
        """
        return {}

    def _log(self, values: dict[str, float | Tensor]) -> None:
        for name, value in values.items():
            self.last_statistics[name] = value.detach() if isinstance(value, Tensor) else value


def _drop_frozen_parts(
    module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: object
) -> None:
    parts: tuple[str, ...] = getattr(module, "frozen_parts", ())
    for part in parts:
        for key in [key for key in state if key.startswith(f"{prefix}{part}.")]:
            del state[key]


def _forgive_frozen_parts(module: nn.Module, report: _IncompatibleKeys) -> None:
    # The prefix is not told here; inside a larger module the part's name follows a dot.
    parts: tuple[str, ...] = getattr(module, "frozen_parts", ())
    report.missing_keys[:] = [
        key for key in report.missing_keys if not any(f".{p}." in f".{key}" for p in parts)
    ]
