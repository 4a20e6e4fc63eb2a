"""ConvNeXt classifier: the network whose class logits TiTok's perceptual loss compares.

Letters: B pictures, C channels, h x w the feature map.

    x --4x4 patches, LN--> [stage of blocks --LN, 2x2 stride 2-->]... --> mean over h, w --> LN
      --> linear --> class logits

    block: x + layer_scale * linear(GELU(linear(LN(depthwise 7x7(x)))))

Liu et al., "A ConvNet for the 2020s", arXiv 2201.03545.  Keys are those of torchvision's file, so
its weights load as they are; torchvision itself is not needed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tok_core.errors import WeightsError

# (width, width after the following down-sampling or None, blocks), ConvNeXt-Small.
SMALL: tuple[tuple[int, int | None, int], ...] = (
    (96, 192, 3), (192, 384, 3), (384, 768, 27), (768, None, 3),
)
_EPS = 1e-6


class _LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of (B, C, h, w)."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(
            x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps
        )
        return x.permute(0, 3, 1, 2)


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        # Slots 1, 4 and 6 are permutations and the activation in the published numbering.
        self.block = nn.ModuleDict({
            "0": nn.Conv2d(width, width, 7, padding=3, groups=width),
            "2": nn.LayerNorm(width, eps=_EPS),
            "3": nn.Linear(width, 4 * width),
            "5": nn.Linear(4 * width, width),
        })
        self.layer_scale = nn.Parameter(torch.full((width, 1, 1), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        h = self.block["0"](x).permute(0, 2, 3, 1)
        h = self.block["5"](F.gelu(self.block["3"](self.block["2"](h))))
        return x + self.layer_scale * h.permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    """ConvNeXt without stochastic depth (a training device of the classifier).

    Args:
        block_setting: per stage (width, width after it or None at the end, number of blocks).
        num_classes: length of the logits.

    Example:
        >>> ConvNeXt()(torch.zeros(2, 3, 224, 224)).shape
        torch.Size([2, 1000])
    """

    def __init__(
        self,
        block_setting: Sequence[Sequence[int | None]] = SMALL,
        num_classes: int = 1000,
    ) -> None:
        super().__init__()
        first = int(block_setting[0][0] or 0)
        stages: list[nn.Module] = [
            nn.Sequential(nn.Conv2d(3, first, 4, stride=4), _LayerNorm2d(first, eps=_EPS))
        ]
        width = first
        for start, after, blocks in block_setting:
            width = int(start or 0)
            stages.append(nn.Sequential(*(_Block(width) for _ in range(int(blocks or 0)))))
            if after is not None:
                stages.append(nn.Sequential(
                    _LayerNorm2d(width, eps=_EPS), nn.Conv2d(width, after, 2, stride=2)
                ))
                width = after
        self.features = nn.Sequential(*stages)
        self.classifier = nn.Sequential(
            _LayerNorm2d(width, eps=_EPS), nn.Flatten(1), nn.Linear(width, num_classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return class logits (B, classes) for normalised pictures (B, 3, H, W)."""
        x = self.features(x.contiguous(memory_format=torch.channels_last))
        return self.classifier(x.mean(dim=(2, 3), keepdim=True))


def sizes_from_state(
    state: Mapping[str, Tensor], *, source: str
) -> tuple[tuple[tuple[int, int | None, int], ...], int]:
    """Read ``block_setting`` and ``num_classes`` off the shapes of a state dict.

    Raises:
        WeightsError: the keys are not those of a ConvNeXt.
    """
    blocks: dict[int, set[int]] = {}
    for key in state:
        if match := re.fullmatch(r"features\.(\d+)\.(\d+)\.layer_scale", key):
            blocks.setdefault(int(match[1]), set()).add(int(match[2]))
    try:
        setting = []
        for stage in sorted(blocks):
            width = state[f"features.{stage}.0.layer_scale"].shape[0]
            down = state.get(f"features.{stage + 1}.1.weight")
            after = None if down is None else down.shape[0]
            setting.append((width, after, len(blocks[stage])))
        if not setting:
            raise KeyError("features.1.0.layer_scale")
        return tuple(setting), state["classifier.2.weight"].shape[0]
    except KeyError as error:
        raise WeightsError(
            f"{source} has no key {error}; a ConvNeXt state dict in torchvision's layout is needed"
        ) from error
