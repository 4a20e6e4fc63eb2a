"""What an image tokenizer is trained for: every term of `ImageObjective` and its weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from vision_tok.discriminator_trunk import TrunkOptions
from vision_tok.perceptual_loss import PerceptualKind
from vision_tok.semantic_teacher import TeacherOptions

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
        semantic_teacher: whose features are predicted or compared with, see `TeacherOptions`.
        contrastive_weight: of the contrastive semantic regularisation (RobusTok, XQ-GAN: 0.1)
            against that teacher's class feature; 0 leaves it out.
        contrastive_tokens: ``clean`` compares the latents before perturbation, ``perturbed`` those
            after it (what the released code does).
        contrastive_clip_norm: compare normalised features, with a scale that rises from 1 to 100
            over ``contrastive_ramp_steps`` (published: 200 epochs); otherwise as they are, scale 1.
        shortened_weight: of the losses of the picture decoded from a token prefix, when the
            tokenizer trains on both lengths in one step.
        discriminator: train a discriminator against the tokenizer.
        discriminator_kind: ``patch``, blurred with group norms (the TiTok family), ``patchgan``
            with batch norms (the VQGAN family), or ``dino``, heads on a frozen trunk (RobusTok).
        discriminator_trunk: of ``dino``; None searches DINO's ViT-S/16, see `TrunkOptions`.
        discriminator_loss: ``hinge``, or ``vanilla`` (cross-entropy).
        discriminator_start: first step (from 0) in which the tokenizer hears it.
        discriminator_head_start: steps before that in which it trains unheard, so that its first
            verdicts do not tear at the tokenizer.
        discriminator_weight: of the generator's adversarial term.
        adaptive_weight: multiply that term by `vision_tok.adaptive_weight`, too.
        discriminator_factor: of the generator's and the discriminator's adversarial terms.
        discriminator_channels: width of its first stage; for ``patch`` a multiple of 32.
        discriminator_stages: its down-samplings.
        diff_augment: probability of each step of `diff_augment` on what the discriminator sees,
            real and reconstructed; 0 leaves all out, 1 is published for RobusTok.
        blur_steps: steps from the start over which the warm-up blur of those pictures fades; 0
            never blurs, 1 is published.
        lecam_weight: of LeCam; 0 switches it off.
        lecam_decay: of LeCam's averages.
        lecam_update_first: XQ-GAN's order and form, see `LeCam`.
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
    contrastive_weight: Weight = 0.0
    contrastive_tokens: Literal["clean", "perturbed"] = "clean"
    contrastive_clip_norm: bool = False
    contrastive_ramp_steps: Count = 0
    shortened_weight: Weight = 1.0
    discriminator: bool = False
    discriminator_kind: Literal["patch", "patchgan", "dino"] = "patch"
    discriminator_trunk: TrunkOptions | None = None
    discriminator_loss: Literal["hinge", "vanilla"] = "hinge"
    discriminator_start: Count = 20_000
    discriminator_head_start: Count = 0
    discriminator_weight: Weight = 0.01
    adaptive_weight: bool = False
    discriminator_factor: Weight = 1.0
    discriminator_channels: Size = 128
    discriminator_stages: Size = 3
    diff_augment: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    blur_steps: Count = 0
    lecam_weight: Weight = 0.001
    lecam_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.999
    lecam_update_first: bool = False
