"""A network that measures or teaches and never trains itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from typing import Self


class FrozenNetwork(nn.Module):
    """Base of pretrained networks inside losses and metrics: always in eval mode.

    What builds one also switches its gradients off, with ``requires_grad_(False)``.

    Example:
        >>> class Teacher(FrozenNetwork): ...
        >>> nn.ModuleList([Teacher().eval()]).train()[0].training
        False
    """

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode whatever the surrounding module does."""
        return super().train(False)
