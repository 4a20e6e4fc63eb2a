"""Semantic distillation: what a codec predicts from its semantic codes, held against a teacher.

    loss = mean over frames of 1 - cos(prediction, teacher)

Qu et al. 2025, arXiv 2412.03069, eq. 5 (pictures); Zhang et al. 2023, arXiv 2308.16692, section 3.2
(sound).  Letters: B sounds, T samples, F frames, D features.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from audio_tok.semantic_teacher import SemanticTeacher
from tok_core.contract import TrainingOutput
from tok_core.errors import ConfigError

# Names in `TrainingOutput.features`.
PREDICTION, MOMENTS = "semantic", "semantic_moments"


def semantic_distillation(teacher: SemanticTeacher, x: Tensor, out: TrainingOutput) -> Tensor:
    """Return the mean cosine distance between prediction and teacher, 0 to 2, a scalar.

    Args:
        teacher: of `audio_tok.semantic_teacher.build_teacher`.
        x: sound (B, 1, T) in [-1, 1].
        out: of a codec whose ``features`` hold ``semantic`` (B, F, D) and ``semantic_moments``
            (F,) seconds.

    Raises:
        ConfigError: a codec without a semantic stream, or one that predicts another number of
            features than the teacher has.

    Example:
        >>> semantic_distillation(teacher, x, codec(x)).backward()  # doctest: +SKIP
    """
    if PREDICTION not in out.features:
        raise ConfigError(
            "objective.semantic_weight is above 0 but the codec has no semantic stream; train a "
            "DualWavTokenizer, or set objective.semantic_weight to 0."
        )
    predicted = out.features[PREDICTION].float()
    if predicted.shape[-1] != teacher.features:
        raise ConfigError(
            f"the codec predicts {predicted.shape[-1]} semantic features and the teacher has "
            f"{teacher.features}; set model.config.semantic.features to {teacher.features}."
        )
    wanted = teacher(x, out.features[MOMENTS])
    return (1 - F.cosine_similarity(predicted, wanted, dim=-1)).mean()
