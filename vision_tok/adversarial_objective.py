"""The second player of an image objective: discriminator, its augmentations, its own losses.

    x, x^ --warm-up blur--> --DiffAugment, fresh draws each--> --range of D--> D --> logits
    tokenizer:      weight * factor * -mean D(x^)          D's weights detached
    discriminator:  factor * hinge(D(x), D(x^)) + LeCam    x^ detached
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from tok_core.contract import TrainingOutput
from tok_core.errors import ConfigError
from tok_core.training.objective import Objective
from vision_tok.adversarial_loss import LeCam, discriminator_hinge, discriminator_vanilla
from vision_tok.diff_augment import augment_draws, blur_schedule, diff_augment, warm_up_blur
from vision_tok.dino_discriminator import DinoDiscriminator
from vision_tok.discriminator import Discriminator
from vision_tok.discriminator_trunk import build_trunk
from vision_tok.image_objective_config import ImageObjectiveConfig
from vision_tok.patch_discriminator import PatchDiscriminator


class AdversarialObjective(Objective):
    """The discriminator's part of `ImageObjective`; without one in the config it does nothing.

    Args:
        config: which discriminator, from which step on, with which weights.
        discriminator: a ready one in place of the one that ``config`` would build.

    Raises:
        ConfigError: sizes that cannot be built, or a head start longer than the start.
        WeightsError: the trunk of a ``dino`` discriminator is not on this machine.
    """

    config: ImageObjectiveConfig

    def __init__(
        self, config: ImageObjectiveConfig, discriminator: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.config = config
        if config.discriminator_head_start > config.discriminator_start:
            raise ConfigError(
                f"objective.discriminator_head_start is {config.discriminator_head_start} but "
                f"objective.discriminator_start only {config.discriminator_start}; the head start "
                "lies before the start, so give at most that"
            )
        if config.discriminator:
            self.discriminator = discriminator or build_discriminator(config)
            self.lecam = LeCam(config.lecam_decay, update_first=config.lecam_update_first)

    def discriminator_active(self, step: int) -> bool:
        """Return whether the discriminator is trained in this step."""
        start = self.config.discriminator_start - self.config.discriminator_head_start
        return self.config.discriminator and step >= start

    def discriminator_heard(self, step: int) -> bool:
        """Return whether the tokenizer hears the discriminator in this step."""
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
                discriminator(self.shown(picture.detach().float(), step)).float()
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

    def shown(self, picture: Tensor, step: int) -> Tensor:
        """Return what the discriminator sees of pictures in [-1, 1], augmented."""
        config = self.config
        blur = blur_schedule(step, config.discriminator_start, config.blur_steps)
        if blur > 0:
            picture = warm_up_blur(picture, blur)
        if config.diff_augment > 0:
            draws = augment_draws(len(picture), picture.device)
            picture = diff_augment(picture, draws, probability=config.diff_augment)
        # DINO's trunk brings its own normalisation of [-1, 1].
        signed = config.picture_range == "signed" or config.discriminator_kind == "dino"
        return picture if signed else (picture + 1) / 2

    def judge(self, picture: Tensor, step: int) -> Tensor:
        """Discriminator logits whose gradients reach the picture but no weight of the network.

        The bare module is called: a DDP wrapper would wait for weight gradients that never come.

        Args:
            picture: (B, 3, H, W) in [-1, 1]. step: optimizer steps done before this one.
        """
        assert self.discriminator is not None
        network: nn.Module = getattr(self.discriminator, "module", self.discriminator)
        frozen = {name: weight.detach() for name, weight in network.named_parameters()}
        return functional_call(network, frozen, (self.shown(picture, step),))


def build_discriminator(config: ImageObjectiveConfig) -> nn.Module:
    """Return the untrained discriminator that ``config.discriminator_kind`` names.

    Raises:
        ConfigError: sizes that cannot be built.
        WeightsError: the trunk of a ``dino`` discriminator is not on this machine.
    """
    if config.discriminator_kind == "dino":
        return DinoDiscriminator(build_trunk(config.discriminator_trunk))
    if config.discriminator_trunk is not None:
        raise ConfigError(
            "objective.discriminator_trunk is given but objective.discriminator_kind is "
            f"'{config.discriminator_kind}'; set it to 'dino', or leave the trunk out"
        )
    if config.discriminator_kind == "patchgan":
        return PatchDiscriminator(config.discriminator_channels, config.discriminator_stages)
    if config.discriminator_channels % 32:
        raise ConfigError(
            f"objective.discriminator_channels is {config.discriminator_channels}; it must be a "
            "multiple of 32 (its normalisation has 32 groups), so take 32, 64 or 128"
        )
    return Discriminator(config.discriminator_channels, config.discriminator_stages)
