"""Read the published stage-2 loss state (discriminator, LeCam, perceptual network) into ours.

Every key of the file must be used and every tensor of ours must come from the file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from tok_core.errors import WeightsError
from tok_core.lpips import LPIPS
from tok_core.weight_files import load_strictly
from vision_tok.convnext import ConvNeXt, sizes_from_state
from vision_tok.discriminator import Discriminator
from vision_tok.image_objective import ImageObjective, ImageObjectiveConfig
from vision_tok.perceptual_loss import ConvNeXtLogits, MixedPerceptual, PerceptualKind

_SOURCE = "the official loss state"
_AVERAGES = {
    "ema_real_logits_mean": "average_real",
    "ema_fake_logits_mean": "average_fake",
}


def import_official_losses(
    state: Mapping[str, Tensor],
    config: ImageObjectiveConfig,
    *,
    groups: int = 32,
    slope: float = 0.1,
) -> ImageObjective:
    """Build the objective whose networks and averages are those of an official loss state.

    Sizes come from the shapes in ``state``; weights and start step from ``config``, whose
    ``perceptual`` and ``discriminator*`` sizes are overwritten by what the file holds.

    Args:
        state: tensors by official key (``discriminator.*``, ``ema_*_logits_mean``,
            ``perceptual_loss.{convnext,lpips}.*``, ``perceptual_loss.imagenet_{mean,std}``).
        config: term weights and start step.
        groups: group count of the discriminator's normalisation, which no shape shows.
        slope: of its leaky ReLUs, which no shape shows either.

    Raises:
        WeightsError: a key is left over on either side, or shapes do not fit.

    Example:
        >>> objective = import_official_losses(read_weights("loss.safetensors"), config)
    """
    parts = _split(state)
    perceptual = _perceptual(parts["perceptual_loss"])
    kinds: dict[type, PerceptualKind] = {
        type(None): "none", LPIPS: "lpips", ConvNeXtLogits: "convnext", MixedPerceptual: "mixed",
    }
    networks = parts["discriminator"]
    discriminator = _discriminator(networks, groups, slope) if networks else None
    config = replace(
        config, perceptual=kinds[type(perceptual)], discriminator=discriminator is not None
    )
    if discriminator is not None:
        config = replace(
            config,
            discriminator_channels=discriminator.channels,
            discriminator_stages=discriminator.stages,
        )
    objective = ImageObjective(config, perceptual=perceptual, discriminator=discriminator)
    averages = {_AVERAGES[key]: value for key, value in parts["averages"].items()}
    if discriminator is not None:
        load_strictly(objective.lecam, averages, source=_SOURCE)
    elif averages:
        raise WeightsError(
            f"{_SOURCE} has LeCam averages but no discriminator; both are saved together, so "
            "give the whole state dict"
        )
    return objective


def _split(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    parts: dict[str, dict[str, Tensor]] = {
        "discriminator": {}, "perceptual_loss": {}, "averages": {}
    }
    for key, value in state.items():
        head, _, rest = key.partition(".")
        if key in _AVERAGES:
            parts["averages"][key] = value
        elif head in ("discriminator", "perceptual_loss") and rest:
            parts[head][rest] = value
        else:
            raise WeightsError(
                f"{_SOURCE} has an unknown key {key!r}; keys begin with 'discriminator.' or "
                "'perceptual_loss.' or name a LeCam average, so give a stage-2 loss state dict"
            )
    return parts


def _discriminator(state: Mapping[str, Tensor], groups: int, slope: float) -> Discriminator:
    first = state.get("block_in.0.weight")
    stages = {m[1] for key in state if (m := re.match(r"blocks\.(\d+)\.", key))}
    if first is None or not stages:
        raise WeightsError(
            f"{_SOURCE} has no 'discriminator.block_in.0.weight' or no 'discriminator.blocks'; "
            "only the blur discriminator of the TiTok family can be read, so check the file"
        )
    module = Discriminator(first.shape[0], len(stages), groups=groups, slope=slope)
    load_strictly(module, state, source=_SOURCE)
    return module


def _perceptual(state: Mapping[str, Tensor]) -> nn.Module | None:
    if not state:
        return None
    found: dict[str, dict[str, Tensor]] = {"convnext": {}, "lpips": {}, "imagenet": {}}
    for key, value in state.items():
        head, _, rest = key.partition(".")
        if head in ("convnext", "lpips"):
            found[head][rest] = value
        elif key in ("imagenet_mean", "imagenet_std"):
            found["imagenet"][key] = value
        else:
            raise WeightsError(
                f"{_SOURCE} has an unknown key 'perceptual_loss.{key}'; ConvNeXt and LPIPS are "
                "known, so check which project wrote it"
            )
    lpips = LPIPS.from_state(found["lpips"], source=_SOURCE) if found["lpips"] else None
    if not found["convnext"]:
        return lpips  # the ImageNet constants are stored beside LPIPS too, unused
    setting, classes = sizes_from_state(found["convnext"], source=_SOURCE)
    convnext = ConvNeXtLogits(ConvNeXt(setting, classes))
    full = {f"network.{key}": value for key, value in found["convnext"].items()}
    load_strictly(convnext, {**full, **found["imagenet"]}, source=_SOURCE)
    convnext.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return convnext if lpips is None else MixedPerceptual(lpips, convnext)
