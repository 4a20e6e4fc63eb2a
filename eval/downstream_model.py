"""Networks that look at reconstructions: a classifier, a segmenter or a depth model by name.

    transformers:NAME or a local folder     AutoModelFor{ImageClassification, ...} and its processor
    timm:NAME, timm:NAME@FILE               a timm classifier and the preprocessing of its config
    MODULE:FUNCTION                         a Python entry point: a function of pictures, or one
                                            without arguments that returns it

All become one thing: pictures as bytes in, predictions out.  Nothing is downloaded: a name must be
in the Hugging Face cache already.

Letters: B pictures, C classes, H W pixels, h w cells of a prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from eval.entry_point import is_entry_point, load_entry_point, network_hash
from eval.local_network import on_this_machine, transformers_for
from tok_core.errors import ConfigError, WeightsError, nearest

TASKS = ("classify", "segment", "depth")
_AUTO = {
    "classify": "AutoModelForImageClassification",
    "segment": "AutoModelForSemanticSegmentation",
    "depth": "AutoModelForDepthEstimation",
}


@dataclass(frozen=True, kw_only=True)
class DownstreamModel:
    """A named network behind one call.

    Attributes:
        name: as the user gave it. task: ``classify``, ``segment`` or ``depth``.
        predict: uint8 (B, 3, H, W) to logits (B, C), class maps int64 (B, h, w) or logits
            (B, C, h, w), or depths (B, h, w).
        classes: class number by name, where the network tells.
        weights: hash over its tensors, where it has any.
    """

    name: str
    task: str
    predict: Callable[[Tensor], Tensor]
    classes: Mapping[str, int] = field(default_factory=dict)
    weights: str | None = None


def load_downstream(name: str, task: str, *, device: str = "cpu") -> DownstreamModel:
    """Find a network by name.

    Args:
        name: see the module. task: what to do with pictures. device: where to run.

    Raises:
        ConfigError: unknown task, no such entry point, or a package that is not installed.
        WeightsError: a network that is not on this machine.

    Example:
        >>> load_downstream("my_models:resnet", "classify").predict(pictures).shape
    """
    if task not in TASKS:
        raise ConfigError(
            f"task '{task}' is unknown; legal are {', '.join(TASKS)}{nearest(task, TASKS)}"
        )
    kind, _, rest = name.partition(":")
    if kind == "timm" and rest:
        return _timm(name, rest, task, device)
    if kind == "transformers" and rest:
        return _transformers(name, rest, task, device)
    if is_entry_point(name):
        return _entry_point(name, task, device)
    return _transformers(name, name, task, device)


def _entry_point(name: str, task: str, device: str) -> DownstreamModel:
    made = load_entry_point(
        name, takes="uint8 pictures (B, 3, H, W)", others="transformers:NAME or timm:NAME",
        device=device,
    )  # fmt: skip
    return DownstreamModel(
        name=name, task=task, predict=_quiet(made, device), weights=network_hash(made),
        classes=dict(getattr(made, "classes", None) or {}),
    )  # fmt: skip


def _transformers(name: str, source: str, task: str, device: str) -> DownstreamModel:
    transformers = transformers_for(name, ", or name an entry point MODULE:FUNCTION")
    with on_this_machine(source, task):
        processor = transformers.AutoImageProcessor.from_pretrained(source, local_files_only=True)
        auto = getattr(transformers, _AUTO[task])
        model = auto.from_pretrained(source, local_files_only=True).to(device).eval()

    def predict(pictures: Tensor) -> Tensor:
        arrays = [one.permute(1, 2, 0).cpu().numpy() for one in pictures]
        found = processor(images=arrays, return_tensors="pt", input_data_format="channels_last")
        out = model(found["pixel_values"].to(device))
        return out.predicted_depth if task == "depth" else out.logits

    classes = {str(text): int(i) for i, text in (model.config.id2label or {}).items()}
    return DownstreamModel(
        name=name, task=task, predict=_quiet(predict, device), classes=classes,
        weights=network_hash(model),
    )  # fmt: skip


def _timm(name: str, rest: str, task: str, device: str) -> DownstreamModel:
    if task != "classify":
        raise ConfigError(f"'{name}' was asked to {task}; timm models classify, name another.")
    try:
        import timm
    except (ImportError, RuntimeError) as error:
        # timm imports torchvision, which does not import beside every build of torch.
        raise ConfigError(
            f"'{name}' needs timm, which does not import here ({str(error).splitlines()[0]}); "
            "install timm and a torchvision that fits this torch, or name an entry point."
        ) from None
    model_name, _, file = rest.partition("@")
    if not timm.is_model(model_name):
        raise ConfigError(f"timm knows no model '{model_name}'; see timm.list_models().")
    path = Path(file) if file else _cached("timm/" + model_name.removeprefix("timm/"))
    if path is None or not path.is_file():
        raise WeightsError(
            f"the weights of '{name}' are not on this machine; name their file as "
            f"timm:{model_name}@FILE: nothing is downloaded."
        )
    model = timm.create_model(model_name, pretrained=False, checkpoint_path=str(path))
    model = model.to(device).eval()
    rules = timm.data.resolve_data_config({}, model=model)
    side = int(rules["input_size"][-1])
    mean, std = (torch.tensor(rules[key]).view(1, 3, 1, 1) for key in ("mean", "std"))

    def predict(pictures: Tensor) -> Tensor:
        x = centre_square(pictures, side, float(rules["crop_pct"]), rules["interpolation"])
        return model(((x - mean) / std).to(device))

    return DownstreamModel(
        name=name, task=task, predict=_quiet(predict, "cpu"), weights=network_hash(model)
    )


def centre_square(
    pictures: Tensor, side: int, share: float = 1.0, mode: str = "bicubic"
) -> Tensor:
    """Resize uint8 (B, 3, H, W) to floats (B, 3, side, side) in [0, 1], cut from the middle.

    Sizes, window and bytes are those of timm's evaluation transform (torchvision's Resize and
    CenterCrop on pictures), which classifiers were judged with.

    Args:
        side: of the result in pixels. share: of the shorter side that is kept (``crop_pct``).
        mode: ``bicubic`` or ``bilinear``, both with antialiasing.

    Raises:
        ConfigError: another mode.
    """
    if mode not in ("bicubic", "bilinear"):
        raise ConfigError(f"interpolation '{mode}' came in; legal are bicubic and bilinear.")
    short = int(side / share)
    height, width = pictures.shape[-2:]
    least = min(height, width)
    size = (short * height // least, short * width // least)
    x = F.interpolate(pictures.float(), size, mode=mode, antialias=True, align_corners=False)
    top, left = round((size[0] - side) / 2), round((size[1] - side) / 2)
    # A picture library rounds to bytes after resizing.
    return x[..., top : top + side, left : left + side].round().clamp(0, 255) / 255


def _cached(repository: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    for name in ("model.safetensors", "pytorch_model.bin"):
        found = try_to_load_from_cache(repository, name)
        if isinstance(found, str):
            return Path(found)
    return None


def _quiet(call: Callable[[Tensor], Any], device: str) -> Callable[[Tensor], Tensor]:
    """Run without gradients on the model's device; predictions come back float32 on the CPU."""

    @torch.no_grad()
    def predict(pictures: Tensor) -> Tensor:
        found = call(pictures.to(device))
        if not isinstance(found, Tensor) or len(found) != len(pictures):
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ConfigError(
                f"{len(pictures)} pictures gave a prediction of {shape}; legal is one tensor with "
                "one row for each picture."
            )
        return found.cpu() if not found.is_floating_point() else found.float().cpu()

    return predict
