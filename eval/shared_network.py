"""SharedNetwork: one frozen network for all metrics that listen with it.

A metric's checkpoint holds what was measured, not the 400 MB that measured it, and ten metrics
with the same weights keep them in memory once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


class SharedNetwork(Generic[Network]):
    """A network outside its metric's parameters and state; copies of the metric share it.

    Args:
        network: set to float32, eval mode, without gradients.

    Example:
        >>> shared = SharedNetwork(torch.nn.Linear(2, 2))
        >>> shared.on("cpu").training
        False
    """

    def __init__(self, network: Network) -> None:
        self.network = network.float().eval().requires_grad_(False)

    def on(self, device: torch.device | str) -> Network:
        """Return the network, moved to a device where it is not there yet."""
        wanted = torch.device(device)
        first = next(self.network.parameters(), None)
        if first is not None and first.device != wanted:
            self.network.to(wanted)
        return self.network

    def __deepcopy__(self, memo: dict[int, Any]) -> SharedNetwork[Network]:
        return self


_LOADED: dict[tuple[Any, ...], SharedNetwork[Any]] = {}
_KEPT = 3  # networks at a time; a run names one or two


def shared_network(
    path: Path, load: Callable[..., Network], *options: Any
) -> SharedNetwork[Network]:
    """Return the network of a file, read once for as long as the file does not change.

    Args:
        path: of the weights. load: called with the path and the options. options: hashable.
    """
    stat = path.stat()
    key = (load, str(path.resolve()), stat.st_mtime_ns, stat.st_size, *options)
    if key not in _LOADED:
        while len(_LOADED) >= _KEPT:
            _LOADED.pop(next(iter(_LOADED)))
        _LOADED[key] = SharedNetwork(load(path, *options))
    return _LOADED[key]
