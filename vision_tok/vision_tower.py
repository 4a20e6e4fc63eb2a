"""Vision tower: the pre-norm ViT of CLIP, SigLIP and DINOv2, and what to take from it.

    pictures --patches--> + positions (-> norm) --blocks 1..n--> (norm of every token) --> tokens

Letters: B pictures, G stored grid side, h w grid of the pictures, N = h * w tokens, W width.
Radford et al., arXiv 2103.00020; Zhai et al., arXiv 2303.15343; Oquab et al., arXiv 2304.07193.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tok_core.errors import ConfigError, MediaError
from tok_core.fast_linear import Linear
from tok_core.transformer import DropPath, LayerScale, SelfAttention, initialise_transformer
from vision_tok.position_resize import PositionRule, resized_positions
from vision_tok.sincos_positions import sincos_positions

Activation = Literal["quick_gelu", "gelu_tanh", "gelu"]
PositionStart = Literal["normal", "sincos"]


def quick_gelu(x: Tensor) -> Tensor:
    """Return x * sigmoid(1.702 x), OpenAI CLIP's approximation of GELU."""
    return x * torch.sigmoid(1.702 * x)


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "quick_gelu": quick_gelu, "gelu_tanh": _gelu_tanh, "gelu": F.gelu,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TowerSizes:
    """Sizes and options of one tower.

    Attributes:
        patch_size: pixels per side of one patch; rows and columns beyond whole patches are unseen.
        grid: G, side of the stored position table.
        width: W. layers: blocks of the published network. heads: of each.
        mlp_width: hidden width of each MLP.
        activation: of each MLP: ``quick_gelu`` (OpenAI CLIP), ``gelu_tanh`` (SigLIP), ``gelu``.
        eps: of every layer norm, 1e-5 for CLIP and 1e-6 for SigLIP.
        class_token: a learned token stands before the patches.
        patch_bias: the patch convolution has a bias.
        pre_norm: a layer norm stands before the first block.
        layer_scale: every block scales what it adds by learned factors that start at this value;
            0 has none. DINOv2 begins with 1e-5.
    """

    patch_size: int
    grid: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: Activation = "gelu"
    eps: float = 1e-6
    class_token: bool = False
    patch_bias: bool = True
    pre_norm: bool = False
    layer_scale: float = 0.0


class TowerBlock(nn.Module):
    """``x += attention(norm(x)); x += mlp(norm(x))`` with the tower's activation.

    Args:
        sizes: of the tower; ``layer_scale`` scales both branches.
        drop_path: chance that an item does without a branch in training.
    """

    def __init__(self, sizes: TowerSizes, drop_path: float = 0.0) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(sizes.width, eps=sizes.eps)
        self.attention = SelfAttention(sizes.width, sizes.heads)
        self.mlp_norm = nn.LayerNorm(sizes.width, eps=sizes.eps)
        self.up = Linear(sizes.width, sizes.mlp_width)
        self.down = Linear(sizes.mlp_width, sizes.width)
        self.activation = ACTIVATIONS[sizes.activation]
        self.attention_scale: nn.Module = nn.Identity()
        self.mlp_scale: nn.Module = nn.Identity()
        if sizes.layer_scale:
            self.attention_scale = LayerScale(sizes.width, sizes.layer_scale)
            self.mlp_scale = LayerScale(sizes.width, sizes.layer_scale)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, L, W) to (B, L, W)."""
        added = self.attention_scale(self.attention(self.attention_norm(x)))
        x = x + self.drop_path(added)
        added = self.down(self.activation(self.up(self.mlp_norm(x))))
        return x + self.drop_path(self.mlp_scale(added))


class VisionTower(nn.Module):
    """The patch tokens of a CLIP, SigLIP or DINOv2 vision transformer after any of its blocks.

    Blocks that lie behind the one asked for, pooling heads and projections are not built.

    Args:
        sizes: of the published network.
        block: number of blocks to run; None runs all, 0 none.
        final_norm: apply the network's last layer norm to every token.
        positions: what happens on another grid than G, see `resized_positions`.
        drop_path: chance of the last block's branches to be left out in training; it rises to
            that linearly over the blocks.
        sees: False builds no patch convolution: a decoder's tower is fed tokens alone.
        position_start: what the position table starts as, before any weights: ``normal`` numbers,
            or ``sincos``, with which a tower that starts from nothing learns sooner.

    Raises:
        ConfigError: sizes that do not go together, or a block that is not there.

    Example:
        >>> sizes = TowerSizes(patch_size=8, grid=4, width=32, layers=2, heads=2, mlp_width=64)
        >>> VisionTower(sizes)(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 16, 32])
    """

    def __init__(
        self, sizes: TowerSizes, *, block: int | None = None, final_norm: bool = True,
        positions: PositionRule = "none", drop_path: float = 0.0, sees: bool = True,
        position_start: PositionStart = "normal",
    ) -> None:  # fmt: skip
        super().__init__()
        _check(sizes, block)
        self.sizes, self.positions = sizes, positions
        self.gradient_checkpointing = False
        size = sizes.patch_size
        self.patches = (
            nn.Conv2d(3, sizes.width, size, stride=size, bias=sizes.patch_bias) if sees else None
        )
        self.class_token = (
            nn.Parameter(torch.empty(sizes.width)) if sizes.class_token else None
        )
        rows = sizes.grid**2 + sizes.class_token
        self.position_table = nn.Parameter(torch.empty(rows, sizes.width))
        self.norm_in = nn.LayerNorm(sizes.width, eps=sizes.eps) if sizes.pre_norm else None
        blocks = sizes.layers if block is None else block
        rates = [drop_path * i / max(sizes.layers - 1, 1) for i in range(blocks)]
        self.blocks = nn.ModuleList(TowerBlock(sizes, rate) for rate in rates)
        self.norm_out = nn.LayerNorm(sizes.width, eps=sizes.eps) if final_norm else None
        initialise_transformer(self)
        for table in (self.class_token, self.position_table):
            if table is not None:
                nn.init.normal_(table, std=sizes.width**-0.5)
        if position_start == "sincos":
            with torch.no_grad():
                self.position_table[-(sizes.grid**2) :] = sincos_positions(sizes.grid, sizes.width)

    @property
    def width(self) -> int:
        """W."""
        return self.sizes.width

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Return the token grid (h, w) of pictures of that size in pixels."""
        return height // self.sizes.patch_size, width // self.sizes.patch_size

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised pictures (B, 3, H, W) to patch tokens (B, N, W), row-major.

        Raises:
            MediaError: smaller than one patch, or a grid that the position rule does not allow.
        """
        return self.run(self.embedded(x))[:, int(self.sizes.class_token) :]

    def class_feature(self, x: Tensor) -> Tensor:
        """Map normalised pictures (B, 3, H, W) to the class token (B, W) behind the last block.

        Raises:
            ConfigError: this tower has no class token. MediaError: as `forward`.
        """
        if self.class_token is None:
            raise ConfigError(
                "this vision tower has no class token; set the teacher's pool to 'patches', or "
                "choose a tower with one, such as CLIP or DINOv2."
            )
        return self.run(self.embedded(x))[:, 0]

    def embedded(self, x: Tensor) -> Tensor:
        """Map normalised pictures to class and patch tokens with positions, before any block.

        Raises:
            MediaError: as `forward`.
        """
        size = self.grid_of(*x.shape[-2:])
        if not all(size):
            raise MediaError(
                f"pictures of {x.shape[-1]} x {x.shape[-2]} pixels are smaller than one patch of "
                f"{self.sizes.patch_size}; give larger ones."
            )
        assert self.patches is not None, "this tower was built without eyes"
        return self.placed(self.patches(x).flatten(2).transpose(1, 2), size)

    def placed(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Add the positions of a grid (h, w) to tokens (B, h * w, W), the class token before them.

        Raises:
            MediaError: a grid that the position rule does not allow.
        """
        x = tokens + self.grid_positions(grid)
        if self.class_token is None:
            return x
        first = (self.class_token + self.position_table[0]).to(x.dtype)
        return torch.cat((first.expand(len(x), 1, -1), x), dim=1)

    def grid_positions(self, grid: tuple[int, int]) -> Tensor:
        """Return the positions (h * w, W) of a grid (h, w)."""
        prefix = int(self.sizes.class_token)
        return resized_positions(self.position_table[prefix:], grid, self.positions)

    def run(self, x: Tensor) -> Tensor:
        """Map tokens (B, L, W) through the blocks and the final norm, where there is one."""
        if self.norm_in is not None:
            x = self.norm_in(x)
        for block in self.blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return x if self.norm_out is None else self.norm_out(x)


def _check(sizes: TowerSizes, block: int | None) -> None:
    if min(sizes.patch_size, sizes.grid, sizes.width, sizes.heads, sizes.mlp_width) < 1:
        raise ConfigError(f"{sizes} holds a number below 1; give sizes of at least 1.")
    if sizes.width % sizes.heads:
        raise ConfigError(
            f"the tower is {sizes.width} wide, which {sizes.heads} heads cannot share; choose "
            "heads that divide the width."
        )
    if sizes.activation not in ACTIVATIONS:
        raise ConfigError(
            f"activation '{sizes.activation}' is unknown; legal are {', '.join(ACTIVATIONS)}."
        )
    if block is not None and not 0 <= block <= sizes.layers:
        raise ConfigError(
            f"block {block} was asked for and the tower has {sizes.layers}; give 0 to "
            f"{sizes.layers}."
        )
