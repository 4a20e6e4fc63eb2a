"""Contrastive semantic regularisation: codes that tell pictures apart as a frozen teacher does.

    x --teacher, frozen--> class feature --into the model's forward, projected there--> t (B', C)
    mean of the quantized latents, per regularised branch                           --> s (S, B', C)
    loss = mean over branches of contrastive_loss(t, s)

Letters: B' pictures that quantizer dropout left whole, S branches, C code size.
Li et al., "ImageFolder", arXiv 2410.01756; XQ-GAN, arXiv 2412.01762.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from tok_core.errors import ConfigError
from vision_tok.contrastive_loss import contrastive_loss, ramped_scale
from vision_tok.semantic_teacher import SemanticTeacher

if TYPE_CHECKING:
    from tok_core.contract import TrainingOutput

TEACHER_FEATURE = "teacher_feature"  # what the model's forward takes
SEMANTIC_TEACHER = "semantic_teacher"  # what it returns, projected
SEMANTIC_TOKENS = {"clean": "semantic_tokens", "perturbed": "semantic_tokens_perturbed"}


class ContrastiveSemantics(nn.Module):
    """The teacher and the loss against it; holds nothing that trains.

    Args:
        teacher: frozen, of pictures in [-1, 1].
        tokens: ``clean`` looks at the latents before perturbation (the papers), ``perturbed`` at
            those after it (the released code).
        clip_norm: normalised features and a scale that rises from 1 to 100.
        ramp_steps: how long it rises.

    Example:
        >>> semantics = ContrastiveSemantics(build_teacher(options))      # doctest: +SKIP
        >>> semantics(model(x, **semantics.model_inputs(x)), step=0)      # doctest: +SKIP
    """

    def __init__(
        self, teacher: SemanticTeacher, *, tokens: Literal["clean", "perturbed"] = "clean",
        clip_norm: bool = False, ramp_steps: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.teacher, self.tokens = teacher, tokens
        self.clip_norm, self.ramp_steps = clip_norm, ramp_steps

    def model_inputs(self, x: Tensor) -> dict[str, Tensor]:
        """Return the teacher's class feature (B, T) of pictures (B, 3, H, W) in [-1, 1]."""
        return {TEACHER_FEATURE: self.teacher.class_feature(x)}

    def forward(self, out: TrainingOutput, step: int) -> Tensor:
        """Return the unweighted loss, a scalar.

        Args:
            out: with ``features["semantic_teacher"]`` (B', C) and ``["semantic_tokens"]`` (and
                ``["semantic_tokens_perturbed"]``) (S, B', C).
            step: optimizer steps done before this one.

        Raises:
            ConfigError: the tokenizer has no such features.
        """
        teacher = out.features.get(SEMANTIC_TEACHER)
        tokens = out.features.get(SEMANTIC_TOKENS[self.tokens])
        if teacher is None or tokens is None:
            raise ConfigError(
                "objective.contrastive_weight is above 0 but the tokenizer offers no semantic "
                "tokens; use RobusTok, or set the weight to 0"
            )
        scale = ramped_scale(step, self.ramp_steps) if self.clip_norm else 1.0
        return torch.stack([
            contrastive_loss(teacher, branch, scale=scale, normalize=self.clip_norm)
            for branch in tokens
        ]).mean()
