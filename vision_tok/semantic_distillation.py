"""Semantic distillation: predicted teacher features should point where the teacher's do.

    loss = mean over pictures and tokens of 1 - cos(prediction, teacher)

Peng et al., "BEiT v2", arXiv 2208.06366, eq. 3; Qu et al., "TokenFlow", arXiv 2412.03069.
Letters: B pictures, N tokens, T features.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from tok_core.errors import ConfigError
from vision_tok.semantic_teacher import SemanticTeacher, TeacherOptions, build_teacher

if TYPE_CHECKING:
    from tok_core.contract import TrainingOutput

SEMANTIC_PREDICTION = "semantic_prediction"


def semantic_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Return mean(1 - cos), a scalar in [0, 2], of features (B, N, T).

    Raises:
        ConfigError: another number of features on each side.
    """
    if prediction.shape != target.shape:
        raise ConfigError(
            f"the tokenizer predicts {prediction.shape[-1]} semantic features per token and the "
            f"teacher has {target.shape[-1]}; set the semantic decoder's target_dim to the latter."
        )
    return (1 - F.cosine_similarity(prediction.float(), target.float(), dim=-1)).mean()


class SemanticDistillation(nn.Module):
    """The teacher and the loss against it; holds nothing that trains.

    Args:
        teacher: frozen, of pictures in [-1, 1].

    Example:
        >>> distillation = SemanticDistillation.from_options(options)  # doctest: +SKIP
        >>> distillation(pictures, tokenizer(pictures))                # doctest: +SKIP
    """

    def __init__(self, teacher: SemanticTeacher) -> None:
        super().__init__()
        self.teacher = teacher

    @classmethod
    def from_options(cls, options: TeacherOptions | None) -> SemanticDistillation:
        """Load the teacher of a run.

        Raises:
            ConfigError: no teacher is named.
            WeightsError: the teacher's file or folder is missing.
        """
        if options is None:
            raise ConfigError(
                "objective.semantic_weight is above 0 but objective.semantic_teacher is empty; "
                "name a teacher with its weights, or set the weight to 0."
            )
        return cls(build_teacher(options))

    def forward(self, x: Tensor, out: TrainingOutput) -> Tensor:
        """Return the unweighted loss, a scalar.

        Args:
            x: pictures (B, 3, S, S) in [-1, 1].
            out: must hold ``features["semantic_prediction"]`` (B, N, T) on a square grid.

        Raises:
            ConfigError: the tokenizer predicts no semantic features, or others than the teacher's.
        """
        prediction = out.features.get(SEMANTIC_PREDICTION)
        if prediction is None:
            raise ConfigError(
                "objective.semantic_weight is above 0 but the tokenizer predicts no semantic "
                "features; use TokenFlow, or set the weight to 0."
            )
        return semantic_loss(prediction, self.teacher(x, math.isqrt(prediction.shape[1])))
