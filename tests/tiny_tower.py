"""A CLIP vision tower of a few thousand parameters, in OpenAI's layout, as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vision_tok.tower_weights import OPENAI, tower_names
from vision_tok.vision_tower import TowerSizes, VisionTower

CLIP_SIZES: dict[str, Any] = {
    "patch_size": 4, "grid": 4, "width": 32, "layers": 3, "heads": 4, "mlp_width": 48,
    "activation": "quick_gelu", "eps": 1e-5, "class_token": True, "patch_bias": False,
    "pre_norm": True,
}  # fmt: skip


def clip_file(folder: Path) -> Path:
    """Write a whole CLIP model: tower, projection to 10 features, parts of the text side."""
    torch.manual_seed(4)
    tower = VisionTower(TowerSizes(**CLIP_SIZES))
    names = tower_names(tower, OPENAI)
    state = {f"visual.{names[n][0]}": t.clone() for n, t in tower.state_dict().items()}
    state |= {
        "visual.proj": torch.randn(32, 10), "logit_scale": torch.ones(()),
        "token_embedding.weight": torch.zeros(3, 2),
    }  # fmt: skip
    save_file(state, folder / "clip.safetensors")
    return folder / "clip.safetensors"


class _Nested(nn.Module):
    """Parameters at the dotted names of a state dict."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        parts: dict[str, dict[str, Tensor]] = {}
        for name, tensor in state.items():
            first, _, rest = name.partition(".")
            if rest:
                parts.setdefault(first, {})[rest] = tensor
            else:
                setattr(self, first, nn.Parameter(tensor))
        for first, inner in parts.items():
            setattr(self, first, _Nested(inner))

    def forward(self, x: Tensor) -> Tensor:
        """Anything, so that there is code in the archive."""
        return x + 1


def torchscript_file(folder: Path) -> Path:
    """Write the model of `clip_file` as OpenAI published its models: TorchScript in float16."""
    state = {name: t.half() for name, t in load_file(clip_file(folder)).items()}
    traced = torch.jit.trace(_Nested(state).eval(), torch.zeros(1))
    torch.jit.save(traced, folder / "ViT-B-16.pt")
    return folder / "ViT-B-16.pt"
