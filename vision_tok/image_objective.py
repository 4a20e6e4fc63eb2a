"""Pixel, perceptual, adversarial and quantizer losses of an image tokenizer, from one config.

Letters: B pictures, H x W pixels.

    loss/reconstruction   l2 * mean (x - x^)^2 + l1 * mean |x - x^|
    loss/perceptual       weight * d(x, x^)
    loss/gan              weight * factor * -mean D(x^), from the discriminator's start step on,
                          times the adaptive weight where that is on
    loss/quantizer/*      weight * the tokenizer's own terms, under the names it gives them
    loss/semantic         weight * mean (1 - cos) against a frozen teacher's patch features
    loss/contrastive      weight * InfoNCE of tokens and a frozen teacher's class feature
    loss/shortened/*      the first three again for the picture decoded from a token prefix
    discriminator/*       what the second player learns by, see `vision_tok.adversarial_objective`

Yu et al., arXiv 2406.07550, stage 2; Esser et al., arXiv 2012.09841.  Pictures come in [-1, 1];
means are taken on [0, 1] (TiTok) or [-1, 1] (the VQGAN family), as the published weights of the
terms assume.  Everything runs in float32 with autocast off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tok_core.errors import ConfigError
from tok_core.training.objective import Objective
from vision_tok.adaptive_weight import adaptive_weight
from vision_tok.adversarial_loss import generator_hinge
from vision_tok.adversarial_objective import AdversarialObjective
from vision_tok.contrastive_semantics import ContrastiveSemantics
from vision_tok.image_objective_config import ImageObjectiveConfig
from vision_tok.perceptual_loss import build_perceptual
from vision_tok.semantic_distillation import SemanticDistillation
from vision_tok.semantic_teacher import build_teacher

if TYPE_CHECKING:
    from tok_core.contract import TrainingOutput

__all__ = ["ImageObjective", "ImageObjectiveConfig", "build_objective"]


class ImageObjective(AdversarialObjective):
    """The losses of `ImageObjectiveConfig` with target ``pixels``.

    Args:
        config: which terms, with which weights.
        perceptual: a ready perceptual loss in place of the one that ``config`` would load.
        discriminator: a ready discriminator of pictures in the config's range, in its place.
        semantic: a ready distillation in place of the one that ``config`` would load.
        contrastive: a ready contrastive term, likewise.

    Raises:
        WeightsError: a perceptual network's file is not on this machine.
        ConfigError: discriminator sizes that cannot be built.

    Example:
        >>> objective = ImageObjective(ImageObjectiveConfig(perceptual="weightless"))
        >>> terms = objective.generator_losses(x, model(x), step=0)
        >>> sum(terms.values()).backward()
    """

    frozen_parts = ("perceptual", "semantic", "contrastive")

    def __init__(
        self,
        config: ImageObjectiveConfig,
        *,
        perceptual: nn.Module | None = None,
        discriminator: nn.Module | None = None,
        semantic: SemanticDistillation | None = None,
        contrastive: ContrastiveSemantics | None = None,
    ) -> None:
        heard = perceptual is not None or config.perceptual != "none"
        if not (config.l2_weight or config.l1_weight or heard or config.discriminator):
            raise ConfigError(
                "objective has no term on the picture (l2_weight, l1_weight, perceptual and "
                "discriminator are all off); switch at least one on"
            )
        super().__init__(config, discriminator)
        self.semantic, self.contrastive = _semantic_terms(config, semantic, contrastive)
        if perceptual is None:
            perceptual = build_perceptual(
                config.perceptual, vgg16=config.lpips_vgg16, lpips_heads=config.lpips_heads,
                convnext=config.convnext,
            )
        self.perceptual: Any = perceptual

    def model_inputs(self, x: Tensor) -> dict[str, Tensor]:
        """Return the contrastive teacher's feature, which the tokenizer projects."""
        return {} if self.contrastive is None else self.contrastive.model_inputs(x)

    def generator_losses(self, x: Tensor, out: TrainingOutput, step: int) -> dict[str, Tensor]:
        """Return the tokenizer's weighted terms; see the table at the top of the file.

        Args:
            x: pictures (B, 3, H, W) in [-1, 1].
            out: the tokenizer's output; ``out.reconstruction`` not clamped.
            step: optimizer steps done before this one, from 0.

        Raises:
            ConfigError: the tokenizer returned no picture.
        """
        if out.reconstruction is None:
            raise ConfigError(
                "objective.target is 'pixels' but the tokenizer returned no picture; give it a "
                "pixel decoder, or set objective.target to 'proxy_codes'"
            )
        self.last_statistics = {}
        with torch.autocast(x.device.type, enabled=False):
            target = x.detach().float()
            reference = None
            if self.perceptual is not None and self.config.perceptual_weight > 0:
                with torch.no_grad():
                    reference = self.perceptual.reference(target)
            terms = self._picture_terms(target, out.reconstruction.float(), reference, step, out)
            losses = {f"loss/{name}": value for name, value in terms.items()}
            if out.shortened is not None and self.config.shortened_weight > 0:
                short = self._picture_terms(
                    target, out.shortened.float(), reference, step, out, log="shortened/"
                )
                for name, value in short.items():
                    losses[f"loss/shortened/{name}"] = self.config.shortened_weight * value
            if self.semantic is not None and self.config.semantic_weight > 0:
                raw = self.semantic(target, out)
                losses["loss/semantic"] = self.config.semantic_weight * raw
                self._log({"semantic": raw})
            if self.contrastive is not None:
                raw = self.contrastive(out, step)
                losses["loss/contrastive"] = self.config.contrastive_weight * raw
                self._log({"contrastive": raw})
            heard = self.discriminator_heard(step)
            self._log({
                **out.losses,
                "discriminator/factor": self.config.discriminator_factor if heard else 0.0,
            })
            if self.config.quantizer_weight > 0:
                for name, value in out.losses.items():
                    losses[f"loss/{name}"] = self.config.quantizer_weight * value.float()
        return losses

    def _picture_terms(
        self, target: Tensor, picture: Tensor, reference: object, step: int, out: TrainingOutput,
        log: str = "",
    ) -> dict[str, Tensor]:  # fmt: skip
        config = self.config
        # (x - x^) on [0, 1] pictures is half of that on [-1, 1].
        error = (picture - target) * (1.0 if config.picture_range == "signed" else 0.5)
        terms = {}
        if config.l2_weight > 0 or config.l1_weight > 0:
            terms["reconstruction"] = (
                config.l2_weight * error.square().mean() + config.l1_weight * error.abs().mean()
            )
        if reference is not None:
            raw = self.perceptual.distance(picture, reference).mean()
            terms["perceptual"] = config.perceptual_weight * raw
            self._log({f"{log}perceptual": raw})
        scale = config.discriminator_weight * config.discriminator_factor
        if self.discriminator_heard(step) and scale > 0:
            raw = generator_hinge(self.judge(picture, step))
            gan = scale * raw
            if config.adaptive_weight and terms:
                rest = torch.stack(list(terms.values())).sum()
                factor = adaptive_weight(rest, raw, out.features)
                self._log({f"{log}adaptive_weight": factor})
                gan = factor * gan
            terms["gan"] = gan
            self._log({f"{log}gan": raw})
        self._log({f"{log}l2": error.square().mean(), f"{log}l1": error.abs().mean()})
        return terms


def build_objective(config: ImageObjectiveConfig) -> Objective:
    """Return the objective that ``config.target`` names.

    Raises:
        WeightsError: a teacher or a perceptual network is not on this machine.
        ConfigError: ``proxy_codes`` without a teacher, or impossible sizes.
    """
    if config.target == "pixels":
        return ImageObjective(config)
    from vision_tok.proxy_code_objective import ProxyCodeObjective

    if config.teacher is None:
        raise ConfigError(
            "objective.target is 'proxy_codes' but objective.teacher is empty; set it to the "
            "folder of a MaskGIT-VQGAN (tessera import makes one from the published file)"
        )
    return ProxyCodeObjective.from_path(
        config.teacher, quantizer_weight=config.quantizer_weight
    )


def _semantic_terms(
    config: ImageObjectiveConfig, semantic: SemanticDistillation | None,
    contrastive: ContrastiveSemantics | None,
) -> tuple[SemanticDistillation | None, ContrastiveSemantics | None]:  # fmt: skip
    """Build what the config wants and is not given; both terms share one teacher."""
    options = config.semantic_teacher
    wanted = semantic is None and config.semantic_weight > 0
    if wanted:
        semantic = SemanticDistillation.from_options(options)
    if contrastive is None and config.contrastive_weight > 0:
        if options is None:
            raise ConfigError(
                "objective.contrastive_weight is above 0 but objective.semantic_teacher is empty; "
                "name a teacher with its weights, or set the weight to 0"
            )
        contrastive = ContrastiveSemantics(
            semantic.teacher if semantic is not None and wanted else build_teacher(options),
            tokens=config.contrastive_tokens, clip_norm=config.contrastive_clip_norm,
            ramp_steps=config.contrastive_ramp_steps,
        )
    return semantic, contrastive
