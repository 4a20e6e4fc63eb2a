"""Constant tables of a model: made from its config, on the device that asks, outside its state.

A buffer would stay empty where a model is first built without memory and then filled from a file,
because tables are in no file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


class DeviceTables:
    """Named tensors, made on the CPU when first asked for and kept per device.

    Args:
        make: returns them.

    Example:
        >>> tables = DeviceTables(lambda: {"order": torch.arange(4)})
        >>> tables.on("cpu")["order"]
        tensor([0, 1, 2, 3])
    """

    def __init__(self, make: Callable[[], Mapping[str, Tensor]]) -> None:
        self._make = make
        self._placed: dict[torch.device, dict[str, Tensor]] = {}

    def on(self, device: torch.device | str) -> Mapping[str, Tensor]:
        """Return the tables on a device."""
        device = torch.device(device)
        if device not in self._placed:
            # A caller's device context or inference mode must not colour what is kept.
            with torch.inference_mode(False), torch.device("cpu"):
                made = self._make()
            self._placed[device] = {name: table.to(device) for name, table in made.items()}
        return self._placed[device]

    def __deepcopy__(self, memo: object) -> DeviceTables:
        return self
