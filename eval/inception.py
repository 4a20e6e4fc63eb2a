"""The FID Inception network: the graph of 2015 whose features define FID, IS, KID and sFID.

    uint8 (B, 3, H, W) ──resize──▶ 299 x 299 ──▶ 64 ──▶ 192 ──▶ 768 ──▶ 2048 ──▶ logits
                                                           spatial_2023 ┘ (inside Mixed_6d)

Not torchvision's inception_v3: average pools leave the padding out of their count, the last block
pools by maximum, there are 1008 classes, and the weights are others. Every convolution has its
batch norm folded in when the weights are loaded, and all run channels-last.

Letters: B pictures, H W pixels.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eval.feature_extractor import FrozenExtractor, fold_batch_norm
from eval.inception_blocks import Conv, MixedA, MixedB, MixedC, MixedD, MixedE
from eval.inception_resize import RESIZES, resize
from tok_core.errors import ConfigError, MediaError, WeightsError, nearest
from tok_core.full_float32 import full_float32
from tok_core.official_weights import read_state
from tok_core.weight_files import find_weights, load_strictly

NAME = "inception-fid"
# One network under two names: torch-fidelity's file and pytorch-fid's.
FILES = (
    ("weights-inception-2015-12-05-6726825d.pth", "toshas/torch-fidelity (release v0.2.0)"),
    ("pt_inception-2015-12-05-6726825d.pth", "mseitzer/pytorch-fid (release fid_weights)"),
)
CLASSES = 1008
SPATIAL_CHANNELS = 7  # sFID takes the first 7 channels of a 17 x 17 map: 2023 numbers
DIMENSIONS: Mapping[str, int] = {
    "64": 64, "192": 192, "768": 768, "2048": 2048, "spatial_2023": 17 * 17 * SPATIAL_CHANNELS,
    "logits_unbiased": CLASSES, "logits": CLASSES,
}  # fmt: skip
EPSILON = 1e-3  # of the batch norms
CHUNK = 16  # pictures at a time through the network: memory does not grow with the batch
PRECISIONS: Mapping[str, torch.dtype] = {"float32": torch.float32, "float64": torch.float64}


class FidInception(FrozenExtractor):
    """The network with its taps; frozen, always in eval mode.

    Taps: ``64``, ``192``, ``768``, ``2048`` (means over the map), ``spatial_2023`` (for sFID:
    Mixed_6d.branch1x1 after ReLU, channels 0 to 6, flattened y, x, channel), ``logits_unbiased``
    (what the Inception Score takes) and ``logits``.

    Args:
        resize: how pictures reach 299 x 299: ``tf``, ``pytorch-fid`` or ``clean``; see
            `eval.inception_resize`. Each gives other scores.
        precision: ``float32`` or ``float64``, of resize, weights and activations.
        sha256: of the weight file, for protocols.

    Raises:
        ConfigError: an unknown resize or precision.

    Example:
        >>> network = FidInception.from_file("weights-inception-2015-12-05-6726825d.pth")
        >>> network.features(pictures, ("2048",))["2048"].shape     # uint8 (8, 3, 256, 256)
        torch.Size([8, 2048])

    Source: Heusel et al. 2017, arXiv 1706.08500; Szegedy et al. 2015, arXiv 1512.00567, figures
    5 to 7.
    """

    name = NAME
    dimensions = DIMENSIONS
    feature_tap, logits_tap = "2048", "logits_unbiased"
    spatial_tap: str | None = "spatial_2023"

    def __init__(
        self, *, resize: str = "tf", precision: str = "float32", sha256: str = ""
    ) -> None:
        super().__init__()
        for word, value, legal in (
            ("resize", resize, RESIZES), ("precision", precision, PRECISIONS),
        ):  # fmt: skip
            if value not in legal:
                raise ConfigError(
                    f"the FID Inception knows no {word} '{value}'; legal are "
                    f"{', '.join(legal)}{nearest(value, legal)}"
                )
        self.resize, self.precision, self.sha256 = resize, precision, sha256
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, stride=2, pad=False)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3, pad=False)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3)
        self.Conv2d_3b_1x1 = Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3, pad=False)
        self.Mixed_5b, self.Mixed_5c = MixedA(192, 32), MixedA(256, 64)
        self.Mixed_5d = MixedA(288, 64)
        self.Mixed_6a = MixedB()
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = (
            MixedC(c) for c in (128, 160, 160, 192)
        )
        self.Mixed_7a = MixedD()
        self.Mixed_7b, self.Mixed_7c = MixedE(1280, max_pool=False), MixedE(2048, max_pool=True)
        self.fc = nn.Linear(2048, CLASSES)
        self.requires_grad_(False).eval()

    @classmethod
    def from_file(
        cls, path: str | os.PathLike[str] | None = None, *, resize: str = "tf",
        precision: str = "float32",
    ) -> FidInception:  # fmt: skip
        """Load the published weights from a local file; nothing is downloaded.

        Args:
            path: of either file (see `FILES`); None searches the usual places for both names.

        Raises:
            WeightsError: not found (says where to put it), unreadable, or another network's.
        """
        found = find_inception(path)
        with found.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return cls.from_state(
            read_state(found), resize=resize, precision=precision, sha256=digest,
            source=str(found),
        )  # fmt: skip

    @classmethod
    def from_state(
        cls, state: Mapping[str, Tensor], *, resize: str = "tf", precision: str = "float32",
        sha256: str = "", source: str = "the state dict",
    ) -> FidInception:  # fmt: skip
        """Build from tensors under the official keys, with or without ``num_batches_tracked``.

        Raises:
            WeightsError: a key is missing, left over or of another shape.
        """
        with torch.device("meta"):
            network = cls(resize=resize, precision=precision, sha256=sha256)
        checked = _Official(network)
        load_strictly(checked, _without_counters(state), source=source)
        network.load_state_dict(checked.folded(PRECISIONS[precision]), assign=True)
        network.requires_grad_(False)
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.no_grad()
    def features(self, images: Tensor, taps: Collection[str]) -> dict[str, Tensor]:
        """Return the numbers at each tap.

        Args:
            images: uint8 (B, 3, H, W) RGB, any size.
            taps: keys of `DIMENSIONS`.

        Returns:
            (B, D) by tap, in the network's precision.

        Raises:
            MediaError: not uint8 pictures. ConfigError: an unknown tap.
        """
        for tap in taps:
            if tap not in DIMENSIONS:
                legal = ", ".join(DIMENSIONS) + nearest(tap, DIMENSIONS)
                raise ConfigError(f"the FID Inception has no tap '{tap}'; legal are {legal}")
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise MediaError(
                f"the FID Inception got {images.dtype} of shape {tuple(images.shape)}; give uint8 "
                "pictures (B, 3, H, W)."
            )
        device = self.fc.weight.device
        parts: list[dict[str, Tensor]] = []
        with full_float32(device.type):
            for chunk in images.to(device).split(CHUNK):
                x = resize(chunk, self.resize, self.fc.weight.dtype)
                parts.append(self(x.contiguous(memory_format=torch.channels_last), taps))
        if not parts:
            return {tap: self.fc.weight.new_zeros(0, DIMENSIONS[tap]) for tap in taps}
        return {tap: torch.cat([part[tap] for part in parts]) for tap in taps}

    def forward(self, x: Tensor, taps: Collection[str] = ("2048",)) -> dict[str, Tensor]:
        """Return the taps of (B, 3, 299, 299) as `eval.inception_resize` leaves it."""
        found: dict[str, Tensor] = {}

        def after(tap: str, x: Tensor) -> bool:
            """Keep the mean of ``x`` if wanted; tell whether that was all."""
            if tap in taps:
                found[tap] = x.mean((2, 3))
            return len(found) == len(set(taps))

        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = F.max_pool2d(x, 3, stride=2)
        if after("64", x):
            return found
        x = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), 3, stride=2)
        if after("192", x):
            return found
        x = self.Mixed_6a(self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x))))
        x = self.Mixed_6c(self.Mixed_6b(x))
        y = self.Mixed_6d(x)
        if "spatial_2023" in taps:
            # The block's first 192 channels are those of branch1x1, so nothing is computed twice.
            found["spatial_2023"] = y[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)
        x = self.Mixed_6e(y)
        if after("768", x):
            return found
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        pooled = x.mean((2, 3))
        if "2048" in taps:
            found["2048"] = pooled
        if "logits_unbiased" in taps or "logits" in taps:
            plain = F.linear(pooled, self.fc.weight)
            both = {"logits_unbiased": plain, "logits": plain + self.fc.bias}
            found.update({tap: value for tap, value in both.items() if tap in taps})
        return found

    def protocol(self) -> dict[str, Any]:
        """Return what its numbers depend on."""
        return {
            "extractor": self.name, "extractor_sha256": self.sha256,
            "extractor_resize": self.resize, "precision": self.precision,
        }  # fmt: skip


def find_inception(path: str | os.PathLike[str] | None = None) -> Path:
    """Return the local weight file, under either published name.

    Raises:
        WeightsError: it is not here; names both files and where to put one.
    """
    name, project = FILES[0]
    if path is not None:
        return find_weights(name, project=project, explicit=path)
    for name, project in FILES:
        with contextlib.suppress(WeightsError):
            return find_weights(name, project=project)
    (name, project), (second, other) = FILES
    return find_weights(name, project=f"{project}, the same as {second} of {other},")


def official_shapes() -> dict[str, tuple[int, ...]]:
    """Return key and shape of every tensor of the published files but their counters, in order.

    Example:
        >>> official_shapes()["Conv2d_1a_3x3.conv.weight"]
        (32, 3, 3, 3)
    """
    with torch.device("meta"):
        checked = _Official(FidInception())
    return {key: tuple(value.shape) for key, value in checked.state_dict().items()}


class _Official(nn.Module):
    """The tensors under their official keys, to check a file against before folding it."""

    def __init__(self, network: FidInception) -> None:
        super().__init__()
        self.names = [name for name, part in network.named_modules() if isinstance(part, Conv)]
        for name in self.names:
            stage, shape = self._stage(name), network.get_parameter(f"{name}.weight").shape
            # Bare tensors: a real BatchNorm2d would ask for a counter that some files lack.
            stage.conv = _tensors(weight=shape)
            keys = ("weight", "bias", "running_mean", "running_var")
            stage.bn = _tensors(**dict.fromkeys(keys, shape[:1]))
        self.fc = _tensors(weight=(CLASSES, 2048), bias=(CLASSES,))

    def _stage(self, name: str) -> Any:
        here: nn.Module = self
        for part in name.split("."):
            if not hasattr(here, part):
                here.add_module(part, nn.Module())
            here = getattr(here, part)
        return here

    @torch.no_grad()
    def folded(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Return the state of the `FidInception`; folding runs in float64."""
        head: Any = self.fc
        state = {"fc.weight": head.weight.to(dtype), "fc.bias": head.bias.to(dtype)}
        for name in self.names:
            stage = self._stage(name)
            weight, bias = fold_batch_norm(
                stage.conv.weight, gain=stage.bn.weight, shift=stage.bn.bias,
                mean=stage.bn.running_mean, variance=stage.bn.running_var, epsilon=EPSILON,
            )  # fmt: skip
            state[f"{name}.weight"], state[f"{name}.bias"] = weight.to(dtype), bias.to(dtype)
        return state


def _tensors(**shapes: Sequence[int]) -> nn.Module:
    """Return a module that holds empty float32 tensors of these names and shapes."""
    module = nn.Module()
    for name, shape in shapes.items():
        module.register_buffer(name, torch.empty(tuple(shape)))
    return module


def _without_counters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k: v for k, v in state.items() if not k.endswith(".num_batches_tracked")}
