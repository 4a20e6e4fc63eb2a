"""Any vision transformer of the timm library (ViTamin, SigLIP, DINOv2...) as patch tokens.

Letters: B pictures, h w token grid, N = h * w, W width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tok_core.errors import ConfigError, MediaError, WeightsError
from tok_core.official_weights import read_state
from tok_core.weight_files import load_strictly
from vision_tok.position_resize import PositionRule

# open_clip keeps a timm tower under this level; what lies beside it is text, or a projection.
_OPEN_CLIP = "visual.trunk."
LIBRARY_WEIGHTS = "pretrained"


class TimmTower(nn.Module):
    """Patch tokens of a timm vision transformer after any block.

    Args:
        name: timm's, such as ``vitamin_xlarge_256``.
        block: blocks to run, from 1; None runs all.
        final_norm: apply the model's last layer norm to every token; ViTamin has none.
        positions: ``size`` or ``antialias`` (both timm's own interpolation) or ``none``.
        stride: pixels per token; None asks the model.

    Raises:
        ConfigError: timm cannot be imported, or does not know such a model.

    Example:
        >>> tower = TimmTower("vitamin_xlarge_256", stride=16)  # doctest: +SKIP
    """

    def __init__(
        self, name: str, *, block: int | None = None, final_norm: bool = True,
        positions: PositionRule = "none", stride: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if positions == "offset-0.1":
            raise ConfigError(
                "positions 'offset-0.1' is not in the timm library; use kind 'tower', or "
                "positions 'size' or 'none'."
            )
        dynamic = {"dynamic_img_size": True} if positions in ("size", "antialias") else {}
        self.name, self.block, self.final_norm = name, block, final_norm
        self.model: Any = _create(name, **dynamic)
        if hasattr(self.model, "fc_norm"):
            self.model.fc_norm = nn.Identity()
        if not final_norm:
            self.model.norm = nn.Identity()
        self.width: int = self.model.num_features
        self.stride = stride or int(self.model.patch_embed.patch_size[0])

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Return the token grid (h, w) of pictures of that size in pixels."""
        return height // self.stride, width // self.stride

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised pictures (B, 3, H, W) to patch tokens (B, N, W).

        Raises:
            MediaError: another size than the model's own while ``positions`` is ``none``.
        """
        if self.block is None:
            return self._all_tokens(x)[:, getattr(self.model, "num_prefix_tokens", 0) :]
        return self._block_tokens(x)

    def class_feature(self, x: Tensor) -> Tensor:
        """Map normalised pictures (B, 3, H, W) to the class token (B, W).

        Raises:
            ConfigError: the model has none. MediaError: as `forward`.
        """
        if not getattr(self.model, "num_prefix_tokens", 0):
            raise ConfigError(
                f"timm's {self.name} has no class token; set the teacher's pool to 'patches', or "
                "choose a model with one, such as vit_base_patch14_dinov2."
            )
        if self.block is None:
            return self._all_tokens(x)[:, 0]
        _, before = self._block_tokens(x, return_prefix_tokens=True)
        return before[:, 0]

    def _all_tokens(self, x: Tensor) -> Tensor:
        """Return the tokens (B, L, W) behind the last block, class token and registers first."""
        try:
            return self.model.forward_features(x)
        except AssertionError as error:  # timm's word for a size that its positions do not fit
            raise MediaError(f"{self.name}: {error}; set positions to 'size'.") from None

    def _block_tokens(self, x: Tensor, **more: bool) -> Any:
        """Return the patch tokens (B, N, W) behind ``block``, or a pair with those before them."""
        try:
            (tokens,) = self.model.forward_intermediates(
                x, indices=[(self.block or 0) - 1], norm=self.final_norm, stop_early=True,
                output_fmt="NLC", intermediates_only=True, **more,
            )
        except AssertionError as error:
            raise MediaError(f"{self.name}: {error}; set positions to 'size'.") from None
        return tokens

    def load(self, path: str) -> None:
        """Fill in published weights.

        Args:
            path: a file in timm's or open_clip's layout, or ``pretrained`` for timm's own
                download.

        Raises:
            WeightsError: nothing there, or tensors that do not fit.
        """
        if path == LIBRARY_WEIGHTS:
            state = _create(self.name, pretrained=True).state_dict()
        elif Path(path).expanduser().is_file():
            state = read_state(Path(path).expanduser())
        else:
            raise WeightsError(
                f"there is no weights file '{path}' for timm's {self.name}; give one, or "
                f"'{LIBRARY_WEIGHTS}' to let timm download it."
            )
        if any(name.startswith(_OPEN_CLIP) for name in state):
            state = {
                name.removeprefix(_OPEN_CLIP): tensor
                for name, tensor in state.items() if name.startswith(_OPEN_CLIP)
            }
        # Heads and norms that the tower left out.
        beside = ("head.", "fc_norm.") + (() if self.final_norm else ("norm.",))
        state = {name: tensor for name, tensor in state.items() if not name.startswith(beside)}
        load_strictly(self.model, state, source=path)


def _create(name: str, **options: Any) -> Any:
    try:
        import timm
    except (ImportError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise ConfigError(
            f"kind 'timm' needs the timm library, which cannot be imported here ({reason}); "
            "install timm with a torchvision that fits this torch, or use kind 'tower'."
        ) from None
    try:
        return timm.create_model(name, **({"pretrained": False, "num_classes": 0} | options))
    except (RuntimeError, ValueError, TypeError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise ConfigError(f"timm makes no model '{name}' ({reason}); check its name.") from None
