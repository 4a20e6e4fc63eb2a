"""Token-Shuffle: a window of s x s tokens passes through the trunk as one.

    in   (B, C, S, W) --W -> W/S each--> side by side (B, C, W) --residual MLPs--> trunk
    out  trunk (B, C, W) --residual MLPs--> split (B, C, S, W/S) --W/S -> W each--> (B, C, S, W)

Compression comes before concatenation: W * W / S weights instead of S * W * W.  s = 1 is the plain
model, without these parts.  The paper gives no code: activation, norm and slot order are ours, as
the vectors fix them.

Ma et al. 2025, "Token-Shuffle", arXiv 2504.17789, section 3.  Letters: B batch, s side of a window,
S tokens of a window (s * s on a grid, s along time), C windows, W width, L = C * S positions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from generators.llama_blocks import RMSNorm
from tok_core.errors import ConfigError
from tok_core.fast_linear import Linear


def grid_windows(rows: int, columns: int, s: int) -> Tensor:
    """Return the raster position of every slot of every window of a grid, int64 (C, S).

    Windows and slots run in raster order: slot (a, b) of window (i, j) is (i s + a, j s + b).

    Args:
        rows, columns: of the grid. s: side of a window.

    Raises:
        ConfigError: s does not divide both sides.

    Example:
        >>> grid_windows(2, 4, 2)
        tensor([[0, 1, 4, 5],
                [2, 3, 6, 7]])
    """
    if s < 1 or rows % s or columns % s:
        raise ConfigError(
            f"windows of {s} x {s} do not tile a grid of {rows} x {columns}; choose a window that "
            "divides both sides."
        )
    places = torch.arange(rows * columns).view(rows // s, s, columns // s, s)
    return places.transpose(1, 2).reshape(-1, s * s)


def time_windows(length: int, s: int) -> Tensor:
    """Return the position of every slot of every run of s, int64 (C, s).

    Raises:
        ConfigError: s does not divide the length.
    """
    if s < 1 or length % s:
        raise ConfigError(
            f"windows of {s} do not fill a sequence of {length}; choose one that divides it."
        )
    return torch.arange(length).view(-1, s)


def shuffled(x: Tensor, windows: Tensor) -> Tensor:
    """Bring (B, L, ...) in sequence order to (B, C, S, ...) in windows."""
    return x[:, windows]


def unshuffled(x: Tensor, windows: Tensor) -> Tensor:
    """Bring (B, C, S, ...) in windows back to (B, L, ...) in sequence order."""
    flat = x.flatten(1, 2)
    return flat[:, windows.flatten().argsort()]


class ResidualMlp(nn.Module):
    """``x + W2 gelu(W1 rms(x))``; W2 starts at zero, so that it begins as the identity.

    Args:
        width: W, of the hidden layer too.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = RMSNorm(width)
        self.up = Linear(width, width, bias=False)
        self.down = Linear(width, width, bias=False)

    def reset(self) -> None:
        """Make it the identity."""
        nn.init.zeros_(self.down.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., W) to (..., W)."""
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Fuse(nn.Module):
    """Token features (B, C, S, W) to window features (B, C, W).

    Args:
        width: W, a multiple of S. slots: S. blocks: number of residual MLPs.

    Raises:
        ConfigError: W is no multiple of S.
    """

    def __init__(self, width: int, slots: int, blocks: int = 2) -> None:
        super().__init__()
        _check_width(width, slots)
        self.compress = Linear(width, width // slots, bias=False)
        self.blocks = nn.ModuleList(ResidualMlp(width) for _ in range(blocks))

    def reset(self) -> None:
        """Begin as a plain compression that keeps the size of its input."""
        _keep_size(self.compress, self.blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Compress every token, put a window's tokens side by side, mix."""
        x = self.compress(x).flatten(-2)
        for block in self.blocks:
            x = block(x)
        return x


class Unfuse(nn.Module):
    """Window features (B, C, W) to token features (B, C, S, W).

    Args:
        width: W, a multiple of S. slots: S. blocks: number of residual MLPs.
    """

    def __init__(self, width: int, slots: int, blocks: int = 2) -> None:
        super().__init__()
        _check_width(width, slots)
        self.slots = slots
        self.blocks = nn.ModuleList(ResidualMlp(width) for _ in range(blocks))
        self.expand = Linear(width // slots, width, bias=False)

    def reset(self) -> None:
        """Begin as a plain expansion that keeps the size of its input."""
        _keep_size(self.expand, self.blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Mix, split into slots, expand every slot."""
        for block in self.blocks:
            x = block(x)
        return self.expand(x.unflatten(-1, (self.slots, -1)))


def _keep_size(linear: nn.Linear, blocks: nn.ModuleList) -> None:
    # At a trunk's 0.02, features of a seventh of their size would reach the output, which then
    # learns a seventh as fast.
    nn.init.normal_(linear.weight, std=linear.in_features**-0.5)
    for block in blocks:
        assert isinstance(block, ResidualMlp)
        block.reset()


def _check_width(width: int, slots: int) -> None:
    if width % slots:
        raise ConfigError(
            f"the trunk is {width} wide, which {slots} tokens of a window cannot share; choose a "
            "width that is a multiple."
        )
