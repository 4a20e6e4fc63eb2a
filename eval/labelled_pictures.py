"""How good generated pictures of the labelled procedural classes are, without anybody's weights.

    pictures of asked classes --shipped classifier--> features, classes it sees
    frechet/procedural-v1 against unseen real ones, share that is seen as what was asked for

Letters: N pictures, D features.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from eval.frechet_distance import frechet_distance_of_features
from eval.procedural_classifier import shipped_classifier
from eval.procedural_distance import NAME
from tok_core.procedural_images import ProceduralClasses

CHUNK = 100
REFERENCE_SEED = 0  # no training of ours has it
RECOGNISED = "recognised/procedural-v1"


class Seen(NamedTuple):
    """What the classifier makes of pictures: features (N, D), classes int64 (N,), on the CPU."""

    features: Tensor
    classes: Tensor


def seen(pictures: Tensor, device: str | torch.device = "cpu") -> Seen:
    """Show pictures, uint8 (N, 3, H, W), to the shipped classifier."""
    network = shipped_classifier().to(device)
    found = [
        network.features(part.to(device), (network.feature_tap, network.logits_tap))
        for part in pictures.split(CHUNK)
    ]
    features = torch.cat([one[network.feature_tap] for one in found]).cpu()
    return Seen(features, torch.cat([one[network.logits_tap] for one in found]).argmax(1).cpu())


def real_pictures(side: int, count: int, start: int = 0) -> tuple[Tensor, Tensor]:
    """Return unseen real pictures, uint8 (count, 3, side, side), and their labels (count,)."""
    source = ProceduralClasses(side, REFERENCE_SEED)
    pairs = [source.pixels(index) for index in range(start, start + count)]
    pictures = torch.stack([torch.from_numpy(pixels).permute(2, 0, 1) for pixels, _ in pairs])
    return pictures, torch.tensor([label for _, label in pairs])


def class_scores(found: Seen, labels: Tensor, reference: Seen) -> dict[str, float]:
    """Compare pictures with real ones.

    Args:
        found: what was made. labels: (N,) asked for. reference: real pictures of all classes.

    Returns:
        ``frechet/procedural-v1`` (lower is better, comparable at the same numbers of pictures
        only) and ``recognised/procedural-v1``, the share seen as what was asked for.
    """
    return {
        NAME: float(frechet_distance_of_features(reference.features, found.features)),
        RECOGNISED: float((found.classes == labels.cpu()).double().mean()),
    }
