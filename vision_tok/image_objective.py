"""Pixel, perceptual, adversarial and quantizer losses of an image tokenizer, from one config.

Letters: B pictures, H x W pixels.

    loss/reconstruction   l2 * mean (x - x^)^2 + l1 * mean |x - x^|
    loss/perceptual       weight * d(x, x^)
    loss/gan              weight * factor * -mean D(x^), from the discriminator's start step on,
                          times the adaptive weight where that is on
    loss/quantizer/*      weight * the tokenizer's own terms, under the names it gives them
    loss/semantic         weight * mean (1 - cos) against a frozen teacher's patch features
    loss/shortened/*      the first three again for the picture decoded from a token prefix
    discriminator/hinge (or discriminator/vanilla), discriminator/lecam

Yu et al., arXiv 2406.07550, stage 2; Esser et al., arXiv 2012.09841.  Pictures come in [-1, 1];
means are taken on [0, 1] (TiTok) or [-1, 1] (the VQGAN family), as the published weights of the
terms assume.  Everything runs in float32 with autocast off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from tok_core.errors import ConfigError
from tok_core.training.objective import Objective
from vision_tok.adaptive_weight import adaptive_weight
from vision_tok.adversarial_loss import (
    LeCam,
    discriminator_hinge,
    discriminator_vanilla,
    generator_hinge,
)
from vision_tok.discriminator import Discriminator
from vision_tok.patch_discriminator import PatchDiscriminator
from vision_tok.perceptual_loss import PerceptualKind, build_perceptual
from vision_tok.semantic_distillation import SemanticDistillation
from vision_tok.semantic_teacher import TeacherOptions

if TYPE_CHECKING:
    from tok_core.contract import TrainingOutput

Weight = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=0)]
Size = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, kw_only=True)
class ImageObjectiveConfig:
    """What an image tokenizer is trained for.

    Attributes:
        target: ``pixels``, or ``proxy_codes``: the codes of a frozen teacher (stage 1), where
            only ``teacher`` and ``quantizer_weight`` are read.
        teacher: folder of the teacher tokenizer, for ``proxy_codes``.
        picture_range: ``unit`` takes means over pictures in [0, 1] and shows these to the
            discriminator (TiTok), ``signed`` over pictures in [-1, 1] (the VQGAN family): four
            times the squared and twice the absolute error.
        l2_weight: mean squared error.
        l1_weight: mean absolute error.
        perceptual: ``none``, ``weightless`` (no file needed), ``lpips``, ``convnext`` (the TiTok
            family's stage 2, weight 0.1) or ``mixed`` (its single-stage recipe, weight 1.1).
        perceptual_weight: of that distance.
        lpips_vgg16: path of torchvision's vgg16-397923af.pth; None searches the user's caches.
        lpips_heads: path of the LPIPS heads vgg.pth (v0.1); None searches.
        convnext: path of torchvision's convnext_small-0c510722.pth; None searches.
        quantizer_weight: of the tokenizer's own losses; 0 leaves them out (frozen quantizer).
        semantic_weight: of the semantic distillation (TokenFlow: 1); 0 needs no teacher.
        semantic_teacher: whose patch features are predicted, see `TeacherOptions`.
        shortened_weight: of the losses of the picture decoded from a token prefix, when the
            tokenizer trains on both lengths in one step.
        discriminator: train a discriminator against the tokenizer.
        discriminator_kind: ``patch``, blurred with group norms (the TiTok family), or
            ``patchgan`` with batch norms (the VQGAN family).
        discriminator_loss: ``hinge``, or ``vanilla`` (cross-entropy).
        discriminator_start: first step (from 0) in which the tokenizer hears it.
        discriminator_head_start: steps before that in which it trains unheard, so that its first
            verdicts do not tear at the tokenizer.
        discriminator_weight: of the generator's adversarial term.
        adaptive_weight: multiply that term by `vision_tok.adaptive_weight`, too.
        discriminator_factor: of the generator's and the discriminator's adversarial terms.
        discriminator_channels: width of its first stage; for ``patch`` a multiple of 32.
        discriminator_stages: its down-samplings.
        lecam_weight: of LeCam; 0 switches it off.
        lecam_decay: of LeCam's averages.
    """

    target: Literal["pixels", "proxy_codes"] = "pixels"
    teacher: str | None = None
    picture_range: Literal["unit", "signed"] = "unit"
    l2_weight: Weight = 1.0
    l1_weight: Weight = 0.0
    perceptual: PerceptualKind = "none"
    perceptual_weight: Weight = 0.1
    lpips_vgg16: str | None = None
    lpips_heads: str | None = None
    convnext: str | None = None
    quantizer_weight: Weight = 1.0
    semantic_weight: Weight = 0.0
    semantic_teacher: TeacherOptions | None = None
    shortened_weight: Weight = 1.0
    discriminator: bool = False
    discriminator_kind: Literal["patch", "patchgan"] = "patch"
    discriminator_loss: Literal["hinge", "vanilla"] = "hinge"
    discriminator_start: Count = 20_000
    discriminator_head_start: Count = 0
    discriminator_weight: Weight = 0.01
    adaptive_weight: bool = False
    discriminator_factor: Weight = 1.0
    discriminator_channels: Size = 128
    discriminator_stages: Size = 3
    lecam_weight: Weight = 0.001
    lecam_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.999


class ImageObjective(Objective):
    """The losses of `ImageObjectiveConfig` with target ``pixels``.

    Args:
        config: which terms, with which weights.
        perceptual: a ready perceptual loss in place of the one that ``config`` would load.
        discriminator: a ready discriminator of pictures in the config's range, in its place.
        semantic: a ready distillation in place of the one that ``config`` would load.

    Raises:
        WeightsError: a perceptual network's file is not on this machine.
        ConfigError: discriminator sizes that cannot be built.

    Example:
        >>> objective = ImageObjective(ImageObjectiveConfig(perceptual="weightless"))
        >>> terms = objective.generator_losses(x, model(x), step=0)
        >>> sum(terms.values()).backward()
    """

    frozen_parts = ("perceptual", "semantic")

    def __init__(
        self,
        config: ImageObjectiveConfig,
        *,
        perceptual: nn.Module | None = None,
        discriminator: nn.Module | None = None,
        semantic: SemanticDistillation | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        if semantic is None and config.semantic_weight > 0:
            semantic = SemanticDistillation.from_options(config.semantic_teacher)
        self.semantic = semantic
        heard = perceptual is not None or config.perceptual != "none"
        if not (config.l2_weight or config.l1_weight or heard or config.discriminator):
            raise ConfigError(
                "objective has no term on the picture (l2_weight, l1_weight, perceptual and "
                "discriminator are all off); switch at least one on"
            )
        if perceptual is None:
            perceptual = build_perceptual(
                config.perceptual, vgg16=config.lpips_vgg16, lpips_heads=config.lpips_heads,
                convnext=config.convnext,
            )
        self.perceptual: Any = perceptual
        if config.discriminator_head_start > config.discriminator_start:
            raise ConfigError(
                f"objective.discriminator_head_start is {config.discriminator_head_start} but "
                f"objective.discriminator_start only {config.discriminator_start}; the head start "
                "lies before the start, so give at most that"
            )
        if config.discriminator:
            self.discriminator = discriminator or _build_discriminator(config)
            self.lecam = LeCam(config.lecam_decay)

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
            heard = self._discriminator_heard(step)
            self._log({
                **out.losses,
                "discriminator/factor": self.config.discriminator_factor if heard else 0.0,
            })
            if self.config.quantizer_weight > 0:
                for name, value in out.losses.items():
                    losses[f"loss/{name}"] = self.config.quantizer_weight * value.float()
        return losses

    def discriminator_active(self, step: int) -> bool:
        """Return whether the discriminator is trained in this step."""
        start = self.config.discriminator_start - self.config.discriminator_head_start
        return self.config.discriminator and step >= start

    def _discriminator_heard(self, step: int) -> bool:
        return self.config.discriminator and step >= self.config.discriminator_start

    def discriminator_losses(
        self, x: Tensor, out: TrainingOutput, step: int
    ) -> dict[str, Tensor]:
        """Return ``discriminator/hinge`` or ``/vanilla`` and ``/lecam``; empty before its turn.

        Args as in `generator_losses`; call it once per step, since LeCam's averages move.
        """
        if not self.discriminator_active(step) or out.reconstruction is None:
            return {}
        config, discriminator = self.config, self.discriminator
        assert discriminator is not None
        self.last_statistics = {}
        with torch.autocast(x.device.type, enabled=False):
            fakes = [out.reconstruction]
            if out.shortened is not None and config.shortened_weight > 0:
                fakes.append(out.shortened)
            # Real and fake in separate passes: their weight gradients nearly cancel at first, and
            # one joint pass would sum them in an order that is less exact.
            real, *parts = (
                discriminator(self._shown(picture.detach().float())).float()
                for picture in (x, *fakes)
            )
            fake = torch.cat(parts)
            kind = config.discriminator_loss
            verdict = {"hinge": discriminator_hinge, "vanilla": discriminator_vanilla}[kind]
            losses = {f"discriminator/{kind}": config.discriminator_factor * verdict(real, fake)}
            if config.lecam_weight > 0:
                losses["discriminator/lecam"] = config.lecam_weight * self.lecam(real, fake)
        self._log({
            "discriminator/logits_real": real.mean(), "discriminator/logits_fake": fake.mean()
        })
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
        if self._discriminator_heard(step) and scale > 0:
            raw = generator_hinge(self._judge(self._shown(picture)))
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

    def _shown(self, picture: Tensor) -> Tensor:
        """Return a picture in [-1, 1] in the range that means and discriminator see."""
        return picture if self.config.picture_range == "signed" else (picture + 1) / 2

    def _judge(self, picture: Tensor) -> Tensor:
        """Discriminator logits whose gradients reach the picture but no weight of the network.

        The bare module is called: a DDP wrapper would wait for weight gradients that never come.
        """
        assert self.discriminator is not None
        network: nn.Module = getattr(self.discriminator, "module", self.discriminator)
        frozen = {name: weight.detach() for name, weight in network.named_parameters()}
        return functional_call(network, frozen, (picture,))


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


def _build_discriminator(config: ImageObjectiveConfig) -> nn.Module:
    if config.discriminator_kind == "patchgan":
        return PatchDiscriminator(config.discriminator_channels, config.discriminator_stages)
    if config.discriminator_channels % 32:
        raise ConfigError(
            f"objective.discriminator_channels is {config.discriminator_channels}; it must be a "
            "multiple of 32 (its normalisation has 32 groups), so take 32, 64 or 128"
        )
    return Discriminator(config.discriminator_channels, config.discriminator_stages)
