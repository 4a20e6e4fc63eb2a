"""Config of latent perturbation in training: the ``perturbation`` of a run config.

    perturbation: {alpha: 1.0, beta: 0.1, delta: 100}

    perturbation:
      alpha: 1.0
      beta: 0.1
      delta: 100
      annealing: {start: 40, end: 120, end_ratio: 0.5, epoch_steps: 1251}

Qiu et al. 2025, arXiv 2503.08354.  What becomes of it: `tok_core.training_perturbation`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tok_core.errors import ConfigError
from tok_core.item_selection import check_selection
from tok_core.latent_perturbation import Perturbation, PerturbationAnnealing


@dataclass(frozen=True, kw_only=True)
class AnnealingConfig(PerturbationAnnealing):
    """When alpha and delta shrink; see `tok_core.latent_perturbation.PerturbationAnnealing`.

    Attributes:
        start, end: in optimizer steps, or in epochs where ``epoch_steps`` says how long one is.
        epoch_steps: optimizer steps that count as one epoch: step s lies in epoch
            s // epoch_steps, all of which has one strength, as officially.
    """

    epoch_steps: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epoch_steps < 1:
            raise ConfigError(
                f"annealing.epoch_steps is {self.epoch_steps}; give the optimizer steps of one "
                "epoch, or leave it out where start and end count steps"
            )

    def at_step(self, step: int, full: Perturbation) -> Perturbation:
        """Return the strength of an optimizer step, counted from 0."""
        return self.at(step // self.epoch_steps, full)


@dataclass(frozen=True, kw_only=True)
class PerturbationConfig(Perturbation):
    """Perturbation of one training run; the defaults are the published main training.

    Attributes:
        alpha: chance, 0 to 1, that a token of a chosen item is drawn anew.
        beta: share of the items of every local batch that are chosen; 0 chooses none.
        delta: nearest codes that are drawn from, 1 to the size of the smallest codebook.
        neighbourhood: ``latent``, codes nearest to the latent before quantization (released code),
            or ``code``, nearest to its code (paper).
        selection: ``first`` chooses the first int(B * beta) items of every process's own batch
            (released; batches are shuffled), ``bernoulli`` each item with chance beta.
        annealing: how alpha and delta shrink; None keeps them.

    Raises:
        ConfigError: a value out of range or an unknown word.
    """

    alpha: float = 1.0
    beta: float = 0.1
    delta: int = 100
    neighbourhood: str = "latent"
    selection: str = "first"
    annealing: AnnealingConfig | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_selection(self.selection)

    def selects_nothing(self, batch: int) -> bool:
        """Whether the official rule never chooses an item of a batch of that size."""
        return self.selection == "first" and self.beta > 0 and int(batch * self.beta) == 0

    def check_batch(self, batch: int) -> None:
        """Refuse a beta that rounds to no item at all; ``batch`` is that of one process."""
        if self.selects_nothing(batch):
            raise ConfigError(
                f"perturbation.beta {self.beta:g} of train.batch_size {batch} rounds down to no "
                f"item; {self.ways_out(batch)}, or set perturbation.selection to bernoulli."
            )

    def ways_out(self, batch: int) -> str:
        """Say which beta or which batch would choose one item under the official rule."""
        least = math.ceil(1 / self.beta)
        least += int(least * self.beta) == 0  # where 1 / beta was rounded
        share = next(k / 1000 for k in range(1, 1001) if int(batch * k / 1000))
        return f"give a beta of at least {share:g} or a batch of at least {least} per process"
