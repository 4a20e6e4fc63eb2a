"""Which step of a generation it is: a number on the host, or a tensor on the device.

A captured step cannot be told a number, it must find it in memory; so what differs from step to
step is looked up in tables by one of the two, with the same code.  Letters: n entries of a table.
"""

from __future__ import annotations

from torch import Tensor

# From 0: a number, or int64 (1,) on the device of the tables.
Step = int | Tensor


def entry(table: Tensor, step: Step) -> Tensor:
    """Return ``table[step]``, without asking the device for the number.

    Example:
        >>> table = torch.arange(6).view(3, 2)
        >>> entry(table, 1), entry(table, torch.tensor([1]))
        (tensor([2, 3]), tensor([2, 3]))
    """
    return table[step] if isinstance(step, int) else table.index_select(0, step)[0]
